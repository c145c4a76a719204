"""Bulk actions: an action on all tasks that match a filter. Request, read and cancel them, and find their tasks.

Maintenance applies them slice by slice (`tasks/bulk_runner.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Max, Min
from django.utils import timezone

from queues.queries import get_fresh_catalog, hides_payloads
from runqy.accounts.queries import is_accepted
from runqy.audit.actors import Actor, ActorKind, current_actor
from runqy.audit.operations import Changes, record
from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.reader import TaskLocation
from runqy.broker.tasks.record import TaskRecord
from runqy.core.formats.json_decoding import read_json
from runqy.errors import BulkActionNotFound, RequestInvalid
from runqy.maintenance.wakeups import wake_duty
from tasks.actions import VALID_STATES, TaskAction, permission_for
from tasks.history.queries import TaskCount, count_ended_tasks, filter_ended_tasks
from tasks.models import BulkAction, TaskRun
from tasks.search import SearchCursor, SearchRequest, TaskQuery, count_by_queue, find_redis_queues, search_tasks

MAX_COUNTED = 100_000
"""A preview counts no further."""
_MAX_SEARCHED_FOR_PREVIEW = 5_000
SLICE_SIZE = 200
RUNS_PER_SLICE = 20_000
"""The rows of the history that are searched for one slice."""
_RUN_FIELDS = ("redis_queue", "task_id", "pk", "outcome")
AUDIT_KIND = "bulk_action"
HIDDEN_TEXT = "hidden"
"""Replaces the text of a search in audit records of queues whose payloads are hidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The tasks that come next, each once."""

    tasks: list[TaskLocation]
    cursor: str
    """Where the next slice begins."""
    is_last: bool


def list_valid_actions(state: TaskState | None) -> list[TaskAction]:
    """Return the actions that can be applied to all tasks in a state, or, for None, to ended tasks of the history."""
    if state is None:
        return [TaskAction.RUN, TaskAction.DELETE]
    return [action for action in TaskAction if state in VALID_STATES[action]]


def preview_bulk_action(broker: Broker, query: TaskQuery) -> TaskCount:
    """Count the tasks that an action would be applied to. Raise RequestInvalid, QueueNotFound, BrokerUnavailable."""
    if query.state is None:
        return count_ended_tasks(query.run_filter(), limit=MAX_COUNTED)
    redis_queues = find_redis_queues(broker, query.queue)
    counts = count_by_queue(broker, redis_queues, query.state)
    if not query.text and query.until is None:
        return TaskCount(count=sum(counts.values()), is_exact=True)
    request = SearchRequest(
        limit=_MAX_SEARCHED_FOR_PREVIEW,
        max_searched=_MAX_SEARCHED_FOR_PREVIEW,
        is_oldest_first=query.until is not None,
    )
    page = search_tasks(broker, list(counts), query, request)
    count = sum(_entered_in_time(task, query) for task in page.tasks)
    return TaskCount(count=count, is_exact=page.end is None)


def create_bulk_action(broker: Broker, *, action: TaskAction, query: TaskQuery, expected: int) -> BulkAction:
    """Request an action on all tasks that match a filter. Recorded in the audit.

    Tasks that end later do not match. Raise RequestInvalid, ConfigurationUnavailable.
    """
    if action not in list_valid_actions(query.state):
        raise RequestInvalid(f"action: {action} is not possible for these tasks.")
    encoded = msgspec.json.encode(query).decode()
    recorded = query
    if query.text and hides_payloads(query.queue, get_fresh_catalog()):
        recorded = msgspec.structs.replace(query, text=HIDDEN_TEXT)  # audit records cannot be deleted
    bounds = TaskRun.objects.aggregate(oldest=Min("id"), newest=Max("id")) if query.state is None else {}
    newest = bounds.get("newest") or 0
    changes: Changes = {
        "action": (None, action.value),
        "filter": (None, read_json(msgspec.json.encode(recorded), dict[str, object])),
        "tasks": (None, expected),
    }
    with transaction.atomic():
        bulk = BulkAction.objects.create(
            action=action.value,
            query=encoded,
            expected=expected,
            requested_s=broker.now_s(),
            newest_run=newest,
            # The first slice need not search the ids of runs that were deleted long ago.
            cursor=str(bounds["oldest"] - 1) if newest else "",
            actor=msgspec.structs.asdict(current_actor()),
        )
        wake_duty("bulk_actions")
        record(action="bulk_action.created", object_kind=AUDIT_KIND, object_name=str(bulk.pk), changes=changes)
    return bulk


def get_bulk_action(number: int) -> BulkAction:
    """Raise BulkActionNotFound if it does not exist."""
    bulk = BulkAction.objects.filter(pk=number).first()
    if bulk is None:
        raise BulkActionNotFound
    return bulk


def list_bulk_actions(limit: int, before: int | None) -> tuple[list[BulkAction], int | None]:
    """Return a page, the newest first, and the id after which the next page begins."""
    actions = BulkAction.objects.order_by("-pk")
    if before is not None:
        actions = actions.filter(pk__lt=before)
    found = list(actions[: limit + 1])
    return found[:limit], found[limit - 1].pk if len(found) > limit else None


def count_with_unknown_copies(now: datetime) -> int:
    """Count the bulk actions of which, in the last day, it became unknown whether a copy was enqueued."""
    return BulkAction.objects.filter(unknown_at__gte=now - timedelta(days=1)).count()


def get_query(bulk: BulkAction) -> TaskQuery:
    return read_json(bulk.query.encode(), TaskQuery)


def may_continue(bulk: BulkAction) -> bool:
    """Return whether the user or the API key that requested a bulk action may still apply its action."""
    actor = Actor.from_json(bulk.actor)
    if actor.kind is ActorKind.KEY and actor.id:  # keys of the environment have no id
        return is_accepted(actor.id)
    if actor.kind is not ActorKind.USER:
        return True
    user = User.objects.filter(pk=actor.id, is_staff=True).first()
    return user is not None and user.has_perm(permission_for(TaskAction(bulk.action)))


def cancel_bulk_action(number: int) -> bool:
    """Stop a bulk action before its next tasks; return False if it had already ended. Recorded in the audit.

    Raise BulkActionNotFound.
    """
    bulk = get_bulk_action(number)
    with transaction.atomic():
        canceled = BulkAction.objects.filter(pk=number, state__in=BulkAction.OPEN_STATES).update(
            state=BulkAction.State.CANCELED, ended_at=timezone.now()
        )
        if canceled:
            changes: Changes = {"state": (bulk.state, BulkAction.State.CANCELED.value)}
            record(action="bulk_action.canceled", object_kind=AUDIT_KIND, object_name=str(number), changes=changes)
    return bool(canceled)


def list_bulk_actions_on(redis_queue: str, task_id: str) -> list[BulkAction]:
    """Return the bulk actions that ran a task again as a copy: newest first, at most 20."""
    found = BulkAction.objects.filter(copies__original_id=task_id, copies__original_queue=redis_queue)
    return list(found.order_by("-id")[:20])


def find_next_slice(broker: Broker, bulk: BulkAction, query: TaskQuery) -> Slice:
    """Return the tasks that follow the cursor of a bulk action.

    Raise RequestInvalid, QueueNotFound, BrokerUnavailable, ConfigurationUnavailable.
    """
    if query.state is None:
        return _find_ended(bulk, query)
    return _find_in_redis(broker, bulk, query, query.state)


def select_still_matching(
    bulk: BulkAction, query: TaskQuery, states: Mapping[TaskLocation, TaskState | None]
) -> set[TaskLocation]:
    """Return the tasks of a slice that still match, given the states that they have in Redis."""
    if query.state is not None:
        return {task for task, state in states.items() if state is query.state}
    # An ended task matches in the state in which the run that was found left it. In the other one it has ended again
    # since, with a run that the history may never have: successes above RUNQY_HISTORY_MAX_RATE are only counted, and a
    # full stream drops its oldest entries.
    task_ids = [task_id for (_, task_id), state in states.items() if state is not None and state.is_final]
    runs = TaskRun.objects.filter(task_id__in=task_ids).order_by("id")
    newest = {(queue, task_id): (pk, outcome) for queue, task_id, pk, outcome in runs.values_list(*_RUN_FIELDS)}
    return {
        task
        for task, (pk, outcome) in newest.items()
        if pk <= bulk.newest_run and states.get(task) is _state_after(RunOutcome(outcome))
    }


def _state_after(outcome: RunOutcome) -> TaskState:
    return TaskState.COMPLETED if outcome is RunOutcome.COMPLETED else TaskState.ARCHIVED


def state_since_ns(task: TaskRecord) -> int | None:
    """Return when a task entered its state, to the second where Redis has no more; None if it is unknown."""
    match task.state:
        case TaskState.PENDING:
            return task.pending_since_ns
        case TaskState.ACTIVE:
            return task.started_at_ns
        case TaskState.COMPLETED:
            return task.completed_at_ns
        case TaskState.ARCHIVED:
            return None if task.archived_at_s is None else task.archived_at_s * 10**9
        case TaskState.RETRY:
            return task.message.last_failed_at * 10**9 or None
    return task.enqueued_at_ns or 0  # scheduled: a task that has left this state does not return to it


def _entered_in_time(task: TaskRecord, query: TaskQuery) -> bool:
    """Return whether a task entered its state before `until`. One of unknown age did not."""
    if query.until is None:
        return True
    since_ns = state_since_ns(task)
    return since_ns is not None and 0 < since_ns < query.until.timestamp() * 10**9


def _find_in_redis(broker: Broker, bulk: BulkAction, query: TaskQuery, state: TaskState) -> Slice:
    """Return the next tasks in a state, without those that entered it after the request."""
    after = read_json(bulk.cursor.encode(), SearchCursor) if bulk.cursor else None
    queues = count_by_queue(broker, find_redis_queues(broker, query.queue), state)
    page = search_tasks(broker, list(queues), query, SearchRequest(limit=SLICE_SIZE, after=after, is_oldest_first=True))
    tasks = [
        (task.queue, task.id)
        for task in page.tasks
        if (state_since_ns(task) or 0) // 10**9 <= bulk.requested_s and _entered_in_time(task, query)
    ]
    cursor = msgspec.json.encode(page.end).decode() if page.end else ""
    return Slice(tasks=list(dict.fromkeys(tasks)), cursor=cursor, is_last=page.end is None)


def _find_ended(bulk: BulkAction, query: TaskQuery) -> Slice:
    """Return the next tasks that ended; the newest run of each decides."""
    after = int(bulk.cursor or "0")
    through = min(after + RUNS_PER_SLICE, bulk.newest_run)
    runs = filter_ended_tasks(query.run_filter(), after=after, through=through)
    found = list(runs.order_by("id").values_list("pk", "redis_queue", "task_id")[:SLICE_SIZE])
    end = found[-1][0] if len(found) == SLICE_SIZE else through
    return Slice(
        tasks=[(queue, task_id) for _, queue, task_id in found], cursor=str(end), is_last=end >= bulk.newest_run
    )
