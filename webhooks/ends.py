"""Make the messages about tasks that ended, from the ends that maintenance reads.

Ends are untrusted: workers write them. An endpoint is told only what concerns a queue that it covers, and where a
task's own webhook may be sent is checked against the queue again, before it is sent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from django.utils import timezone

from queues.catalog import QueueCatalog
from queues.queries import get_fresh_catalog, hides_payloads
from queues.webhook_urls import parse_url
from runqy.broker.replies import replace_nul
from runqy.broker.states import TaskState
from runqy.broker.streams.ends import MAX_RESULT_BYTES, EndOutcome
from runqy.broker.tasks.reader import read_tasks
from runqy.broker.tasks.record import TaskRecord
from runqy.core.formats.timestamps import format_ns
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.ends import CollectedEnd, Consumer, register_consumer
from tasks.task_info import TaskInfo, task_info
from webhooks.messages import build_delivery, message_id, save_deliveries
from webhooks.models import TOLD, Delivery, Endpoint, EndpointEvent

EVENTS: Mapping[EndOutcome, EndpointEvent] = {
    EndOutcome.COMPLETED: EndpointEvent.TASK_COMPLETED,
    EndOutcome.ARCHIVED: EndpointEvent.TASK_ARCHIVED,
    EndOutcome.CANCELED: EndpointEvent.TASK_ARCHIVED,
    EndOutcome.EXPIRED: EndpointEvent.TASK_ARCHIVED,
}
"""Deleted tasks have no event."""
_STATES = {EndpointEvent.TASK_COMPLETED: TaskState.COMPLETED, EndpointEvent.TASK_ARCHIVED: TaskState.ARCHIVED}
_READ_AT_ONCE = 50
"""Payloads may be large."""


class EndedTask(TaskInfo, frozen=True, kw_only=True):
    """A task that has ended, as `GET /queue/{task_id}` returns it."""

    payload_omitted: bool
    """The payload is not in the message: it is over 20 KiB or hidden, or the task was deleted before it was read."""
    result_omitted: bool
    """There is a result, but it is not in the message: nobody asked for it, or it is over 20 KiB or hidden. False of a
    task that was deleted before it was read, if nobody asked."""


def prepare_deliveries(ends: Sequence[CollectedEnd]) -> Callable[[], None]:
    """Return what stores the messages to endpoints and to tasks' own webhooks. For the same ends it changes nothing."""
    told = [each for each in ends if each.end.outcome in EVENTS and (each.end.notify.endpoints or each.end.notify.url)]
    catalog, records = (_find_catalog(), _read_records(told)) if told else (None, {})

    def store() -> None:
        endpoints = list(Endpoint.objects.filter(TOLD)) if told else []
        save_deliveries([delivery for each in told for delivery in _build(each, endpoints, catalog, records)])

    return store


register_consumer(Consumer(prepare_deliveries))


def _build(
    collected: CollectedEnd,
    endpoints: Sequence[Endpoint],
    catalog: QueueCatalog | None,
    records: Mapping[tuple[str, str], TaskRecord | None],
) -> Iterator[Delivery]:
    end, event = collected.end, EVENTS[collected.end.outcome]
    covering = [
        endpoint
        for endpoint in (endpoints if end.notify.endpoints else ())
        if event in endpoint.events and endpoint.covers(collected.queue, revision=end.notify.revision)
    ]
    own = end.notify.url if event in end.notify.events else ""
    if not covering and not own:
        return
    is_hidden = hides_payloads(collected.queue, catalog)
    full = _describe(collected, records.get((collected.redis_queue, end.task_id)), is_hidden=is_hidden)
    message = message_id(collected.redis_queue, end.task_id, end.end_id, event)
    now, at = timezone.now(), datetime.fromtimestamp(end.ended_ns / 1e9, UTC)
    about = {"event": event, "now": now, "at": at, "message": message}
    about |= {"queue": collected.queue, "task_id": replace_nul(end.task_id)}
    for endpoint in covering:
        data = full if endpoint.include_result else _without_result(full)
        yield build_delivery(endpoint=endpoint, data=data, **about)  # type: ignore[arg-type]
    if own and (target := _find_target(own, collected.queue)):
        yield build_delivery(target=target, url=own, data=full, **about)  # type: ignore[arg-type]


def _describe(collected: CollectedEnd, record: TaskRecord | None, *, is_hidden: bool) -> EndedTask:
    """Return the task as it is in Redis if that is how it ended, otherwise as far as the end says."""
    end, state = collected.end, _STATES[EVENTS[collected.end.outcome]]
    is_known = record is not None and record.state is state
    info = task_info(record) if record is not None and is_known else _info(collected, state)
    has_payload = record is not None and is_known and len(record.payload) <= MAX_RESULT_BYTES and not is_hidden
    result = None if end.result is None or is_hidden else payloads.as_json(end.result)
    kept = record.result if record is not None and is_known else None
    has_result = end.is_result_omitted or end.result is not None or kept is not None
    text = None if end.result is None or result is None else payloads.text_of_string(end.result, result)
    changed = {
        "payload": info.payload if has_payload else None,
        "result": result,
        "result_text": msgspec.UNSET if text is None else text,  # as in `task_response`
    }
    if state is TaskState.ARCHIVED:  # that of one which was archived on request is only in its end
        changed |= {"error": info.error or end.error}
    if is_hidden:
        changed |= {"last_err": "", "error": None, "error_class": None, "runs": [], "progress": None}
    return EndedTask(
        **msgspec.structs.asdict(info) | changed,
        payload_omitted=not has_payload,
        result_omitted=has_result and (end.result is None or is_hidden),
    )


def _without_result(task: EndedTask) -> EndedTask:
    has_result = task.result is not None or task.result_omitted
    return msgspec.structs.replace(task, result=None, result_text=msgspec.UNSET, result_omitted=has_result)


def _info(collected: CollectedEnd, state: TaskState) -> TaskInfo:
    """Return what an end says of a task that is no longer in Redis, or that was run again."""
    end, is_archived = collected.end, state is TaskState.ARCHIVED
    return TaskInfo(
        id=end.task_id,
        type=collected.redis_queue,
        queue=collected.redis_queue,
        state=state,
        payload=None,
        result=None,
        max_retry=0,
        retried=max(end.attempt - 1, 0),
        last_err=end.error,
        error=end.error if is_archived else None,
        error_class=(end.error_class or None) if is_archived else None,
        runs=[],
        timeout="0s",
        deadline=None,
        next_process_at=None,
        enqueued_at=None,
        started_at=None,
        completed_at=None if is_archived else format_ns(end.ended_ns),
        worker_id=None,
        child_deaths=0,
        shared_deaths=0,
        request_id=None,
        traceparent=None,
        progress=None,
    )


def _find_target(url: str, queue: str) -> str:
    """Return what limits how many are in flight; empty for a URL that a worker made up."""
    try:
        return f"{queue} {parse_url(url).allowed_as}"
    except ValueError:
        return ""


def _find_catalog() -> QueueCatalog | None:
    try:
        return get_fresh_catalog()
    except ConfigurationUnavailable:
        return None


def _read_records(ends: Sequence[CollectedEnd]) -> dict[tuple[str, str], TaskRecord | None]:
    """Return the tasks as they are in Redis; none while it is unavailable: what the ends say is enough."""
    locations = list(dict.fromkeys((each.redis_queue, each.end.task_id) for each in ends))
    found: dict[tuple[str, str], TaskRecord | None] = {}
    for start in range(0, len(locations), _READ_AT_ONCE):
        part = locations[start : start + _READ_AT_ONCE]
        try:
            broker = get_broker()
            found.update(zip(part, broker.run(read_tasks(broker, part)), strict=True))
        except BrokerUnavailable:
            return found
    return found
