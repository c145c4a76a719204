"""Run a task again as a copy: a new task with the same payload, or an edited one. The original stays, and is linked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from queues.queries import resolve_queue
from runqy.audit.operations import REDACTED, Changes, record_in_redis
from runqy.broker.broker import Broker
from runqy.broker.tasks.enqueue import OF_QUEUE, NewTask, draw_task_ids
from runqy.broker.tasks.reader import TaskLocation
from runqy.broker.tasks.record import TaskRecord
from runqy.core.telemetry.tracing import enqueue_span, trace_headers
from runqy.errors import PayloadInvalid, PayloadNotKept
from tasks import payloads
from tasks.models import TaskCopy, TaskRun
from tasks.operations import build_task, enqueue_built_task, ensure_enabled


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The task that is run again."""

    redis_queue: str
    id: str
    record: TaskRecord | None = None
    """None: it is no longer in Redis, and its copy gets the limits of the queue."""

    def copy(self, payload: bytes, *, copy_id: str) -> NewTask:
        """Return the copy to enqueue, with this payload."""
        limits = {}
        if self.record is not None:
            message = self.record.message
            limits = {
                "timeout_s": message.timeout or OF_QUEUE,
                "max_retry": message.retry,
                "retention_s": message.retention,
            }
        return NewTask.requested(id=copy_id, queue=self.redis_queue, payload=payload, **limits)


def enqueue_copy(broker: Broker, *, original: Original, payload: bytes, traceparent: str = "") -> str:
    """Enqueue a copy of a task with this payload, and return its id. Recorded in the audit.

    `traceparent` is the client's trace context. Raise QueueNotFound, QueueDisabled, QueueFull, PayloadInvalid,
    BrokerUnavailable.
    """
    (copy_id,), before = draw_task_ids(broker, original.redis_queue), find_payload(original)
    is_edited = payload != before
    changes: Changes = {"queue": (original.redis_queue, original.redis_queue), "copy": (None, copy_id)}
    if is_edited:
        changes = {**changes, "payload": REDACTED}
    # Before the copy exists: changes of Redis are recorded first (ADR 0026).
    record_in_redis(action="task.copied", object_kind="task", object_name=original.id, changes=changes)
    resolved, now_ns = resolve_queue(original.redis_queue), broker.now_ns()
    ensure_enabled(resolved)
    with enqueue_span(original.redis_queue, traceparent):
        requested, headers = original.copy(payload, copy_id=copy_id), trace_headers(traceparent)
        task = build_task(requested, resolved, task_id=copy_id, now_ns=now_ns, headers=headers)
        broker.run(enqueue_built_task(broker, task, now_ns=now_ns))
    TaskCopy.objects.create(
        original_queue=original.redis_queue,
        original_id=original.id,
        copy_queue=original.redis_queue,
        copy_id=copy_id,
        is_edited=is_edited,
    )
    return copy_id


def find_payload(original: Original) -> bytes | None:
    """Return the whole payload of a task; None if it no longer exists, or was not kept in full."""
    if original.record is not None:
        return original.record.payload
    location = original.redis_queue, original.id
    stored = find_stored_payloads([location]).get(location)
    return stored.content if stored else None


class StoredPayload(NamedTuple):
    """A payload in the history, and the name of the queue that its Redis queue belonged to at the run."""

    queue: str
    content: bytes


def find_stored_payloads(tasks: Sequence[TaskLocation]) -> dict[TaskLocation, StoredPayload]:
    """Return the payloads that the history has kept in full, by task."""
    runs = TaskRun.objects.filter(task_id__in=[task_id for _, task_id in tasks]).exclude(payload="").order_by("id")
    found: dict[TaskLocation, StoredPayload] = {}
    for queue, redis_queue, task_id, payload in runs.values_list("queue", "redis_queue", "task_id", "payload"):
        try:
            # An excerpt is not JSON.
            found[redis_queue, task_id] = StoredPayload(queue, payloads.parse_payload(payload))
        except PayloadInvalid:
            found.pop((redis_queue, task_id), None)
    return found


def get_payload(original: Original) -> bytes:
    """Return the whole payload of a task. Raise PayloadNotKept."""
    payload = find_payload(original)
    if payload is None:
        raise PayloadNotKept
    return payload


def list_copies(redis_queue: str, task_id: str) -> Sequence[TaskCopy]:
    """Return the copies of a task: newest first, at most 20."""
    return list(TaskCopy.objects.filter(original_id=task_id, original_queue=redis_queue).order_by("-id")[:20])


def list_originals(redis_queue: str, task_id: str) -> Sequence[TaskCopy]:
    """Return the link between a task and its original, if it is a copy."""
    return list(TaskCopy.objects.filter(copy_id=task_id, copy_queue=redis_queue)[:1])
