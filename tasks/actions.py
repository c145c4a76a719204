"""Actions on existing tasks: cancel, run, archive, delete; on one task, on selected tasks, or on all in a state.

Each is recorded in the audit before it is applied (ADR 0026).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from django.conf import settings

from queues.catalog import AllowedQueues
from queues.queries import resolve_redis_queue, with_fresh_catalog
from runqy.audit.operations import Changes, record_in_redis
from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import Cancellation, cancel
from runqy.broker.tasks.inspector import (
    ActionOutcome,
    InspectorAction,
    apply_to_all,
    archive_tasks,
    count_in_state,
    delete_tasks,
    release_tasks,
    run_tasks,
)
from runqy.broker.tasks.reader import read_states, remove_lookups
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import (
    RequestInvalid,
    RunqyError,
    TaskEnded,
    TaskNotCancelable,
    TaskNotFound,
    TaskNotUnique,
    TaskRunning,
    TaskStateUnsuited,
)
from tasks.queries import get_queue_task, get_task

MAX_TASKS_PER_REQUEST = 10_000
"""Bounds the time of one request; the client repeats it for the rest."""
MAX_SELECTED = 200


class TaskAction(StrEnum):
    """An action on tasks, in the order of the buttons."""

    RUN = "run"
    CANCEL = "cancel"
    ARCHIVE = "archive"
    DELETE = "delete"
    RELEASE = "release"
    """Only for all scheduled tasks of a queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """The oldest tasks of a queue in a state."""

    queue: str
    """In any spelling."""
    state: TaskState
    limit: int = MAX_TASKS_PER_REQUEST


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSelection:
    """Selected tasks of a queue, all of which were in this state when they were selected."""

    queue: str
    """In any spelling."""
    state: TaskState
    task_ids: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """The outcome of an action on several tasks."""

    queue: str
    """The Redis queue."""
    matched: int
    """Tasks that were in the state, or selected."""
    affected: int


_WAITING = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY)
_ENDED = (TaskState.ARCHIVED, TaskState.COMPLETED)
VALID_STATES: Mapping[TaskAction, Sequence[TaskState]] = {
    TaskAction.RUN: (TaskState.SCHEDULED, TaskState.RETRY, *_ENDED),
    TaskAction.CANCEL: (*_WAITING, TaskState.ACTIVE),
    TaskAction.ARCHIVE: _WAITING,
    TaskAction.DELETE: (*_WAITING, *_ENDED),
    TaskAction.RELEASE: (),
}
"""The states in which an action can be applied to one task, and to selected tasks."""
STATES_FOR_ALL: Mapping[TaskAction, Sequence[TaskState]] = {
    TaskAction.RUN: (TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED),
    TaskAction.ARCHIVE: _WAITING,
    TaskAction.DELETE: (*_WAITING, *_ENDED),
    TaskAction.RELEASE: (TaskState.SCHEDULED,),
}
"""The states in which an action can be applied to all tasks at once."""
_PAST_TENSES = {
    TaskAction.RUN: "run",
    TaskAction.CANCEL: "canceled",
    TaskAction.ARCHIVE: "archived",
    TaskAction.DELETE: "deleted",
    TaskAction.RELEASE: "released",
}
_VERBS: Mapping[TaskAction, InspectorAction] = {
    TaskAction.RUN: run_tasks,
    TaskAction.ARCHIVE: archive_tasks,
    TaskAction.DELETE: delete_tasks,
    TaskAction.RELEASE: release_tasks,
}
_NEW_STATES = {
    TaskAction.RUN: TaskState.PENDING,
    TaskAction.CANCEL: TaskState.ARCHIVED,
    TaskAction.ARCHIVE: TaskState.ARCHIVED,
    TaskAction.DELETE: None,
    # Go's runqy-worker runs delayed tasks only from there.
    TaskAction.RELEASE: TaskState.RETRY,
}
_CANCELLATIONS = {
    Cancellation.CANCELED: ("task.canceled", TaskState.ARCHIVED.value),
    Cancellation.REQUESTED: ("task.cancellation_requested", TaskState.ACTIVE.value),
}
"""The audit action, and the state right after the cancellation."""


def permission_for(action: TaskAction) -> str:
    return f"tasks.{action}_task"


def cancel_task(broker: Broker, *, task_id: str, queue: str = "", allowed_queues: AllowedQueues = None) -> Cancellation:
    """Cancel a task. Return whether it is archived, or is active and its worker was notified.

    Without a queue the task is found by its id. Raise TaskNotFound, QueueNotFound, TaskEnded, TaskNotCancelable,
    BrokerUnavailable.
    """
    if queue:
        record = get_queue_task(broker, queue, task_id, allowed_queues=allowed_queues)
    else:
        record = with_fresh_catalog(lambda: broker.run(get_task(broker, task_id, allowed_queues=allowed_queues)))
    request = cancel(record.queue, task_id, now_ns=broker.now_ns(), max_archived=settings.RUNQY_ARCHIVE_MAX_TASKS)
    # A repeated cancellation succeeds too, and is in the audit already.
    if record.is_canceled and record.state is TaskState.ARCHIVED and broker.run(request) is Cancellation.CANCELED:
        return Cancellation.CANCELED
    if record.state.is_final:
        raise TaskEnded(f"The task has already finished: it is {record.state}.")
    expected = Cancellation.REQUESTED if record.state is TaskState.ACTIVE else Cancellation.CANCELED
    _record(*_CANCELLATIONS[expected], record)
    outcome = broker.run(request)
    if outcome is Cancellation.ALREADY_FINISHED:
        raise TaskEnded
    return outcome


def apply_action(
    broker: Broker, *, action: TaskAction, queue: str, task_id: str, allowed_queues: AllowedQueues = None
) -> None:
    """Run, archive or delete one task. Do nothing if the task is already in the resulting state.

    Raise QueueNotFound, TaskNotFound, TaskRunning, TaskNotUnique, TaskStateUnsuited, BrokerUnavailable.
    """
    record = get_queue_task(broker, queue, task_id, allowed_queues=allowed_queues)
    if record.state is TaskState.ACTIVE:
        raise TaskRunning
    if record.state is _NEW_STATES[action]:
        return
    # The script would refuse it, but only after the audit has recorded it as done.
    if (action, record.state) == (TaskAction.ARCHIVE, TaskState.COMPLETED):
        _check_outcome(ActionOutcome.WRONG_STATE, record)
    _record(f"task.{_PAST_TENSES[action]}", _NEW_STATES[action], record)
    (outcome,) = broker.run(_get_verb(action)(record.queue, [task_id], now_ns=broker.now_ns()))
    _check_outcome(outcome, record)
    if action is TaskAction.DELETE:
        # In another slot than the task, so not by the same script. A sweep removes what a crash here leaves.
        broker.run(remove_lookups(broker, record.queue, [task_id]))


def apply_to_matching(
    broker: Broker,
    *,
    action: TaskAction,
    task_filter: TaskFilter,
    is_dry_run: bool = False,
    allowed_queues: AllowedQueues = None,
) -> ActionResult:
    """Run, archive, delete or release the tasks in a state, one of `STATES_FOR_ALL`, in bounded chunks.

    Raise QueueNotFound, BrokerUnavailable.
    """
    redis_queue = resolve_redis_queue(broker, task_filter.queue, allowed_queues=allowed_queues).redis_queue
    state, limit = task_filter.state, task_filter.limit
    matched = count_in_state(broker, redis_queue, state)
    if is_dry_run or not matched:
        return ActionResult(queue=redis_queue, matched=matched, affected=0)
    expected = min(matched, limit)
    changes: Changes = {"state": (state.value, _NEW_STATES[action]), "tasks": (expected, None)}
    record_in_redis(
        action=f"tasks.{_PAST_TENSES[action]}", object_kind="queue", object_name=redis_queue, changes=changes
    )
    swept = apply_to_all(broker, _get_verb(action), redis_queue, state, limit=limit)
    return ActionResult(queue=redis_queue, matched=swept.matched, affected=swept.changed)


def apply_to_selected(broker: Broker, *, action: TaskAction, selection: TaskSelection) -> ActionResult:
    """Apply an action to the selected tasks that are still in the state. Workers stop those that are active.

    Raise QueueNotFound, RequestInvalid, TaskStateUnsuited, BrokerUnavailable.
    """
    selected = list(dict.fromkeys(selection.task_ids))
    if selection.state not in VALID_STATES[action]:
        raise TaskStateUnsuited(f"The action {action} is not allowed for tasks in the state {selection.state}.")
    if not 0 < len(selected) <= MAX_SELECTED:
        raise RequestInvalid(f"Select 1 to {MAX_SELECTED} tasks.")
    queue = resolve_redis_queue(broker, selection.queue).redis_queue
    states = broker.run(read_states([(queue, task_id) for task_id in selected]))
    # The audit lists only tasks that are still in the state; the script checks it again.
    due = [task_id for task_id, state in zip(selected, states, strict=True) if state is selection.state]
    if not due:
        return ActionResult(queue=queue, matched=len(selected), affected=0)
    state_change = selection.state.value, _NEW_STATES[action]
    changes: Changes = {"state": state_change, "tasks": (len(due), None), "ids": (due, None)}
    record_in_redis(action=f"tasks.{_PAST_TENSES[action]}", object_kind="queue", object_name=queue, changes=changes)
    done = apply_in_state(broker, action, queue, selection.state, due)
    return ActionResult(queue=queue, matched=len(selected), affected=len(done))


def apply_in_state(
    broker: Broker, action: TaskAction, redis_queue: str, state: TaskState, task_ids: Sequence[str]
) -> list[str]:
    """Apply an action to those tasks of a Redis queue that are still in a state; return their ids.

    The caller records the action. Raise BrokerUnavailable.
    """
    # With `wanted` the scripts check the state again, which may have changed since it was read.
    now_ns = broker.now_ns()
    if action is TaskAction.CANCEL:
        max_archived = settings.RUNQY_ARCHIVE_MAX_TASKS
        canceled = broker.run_all(
            [cancel(redis_queue, id_, wanted=state, now_ns=now_ns, max_archived=max_archived) for id_ in task_ids]
        )
        return [task_id for task_id, outcome in zip(task_ids, canceled, strict=True) if _is_canceled(outcome)]
    outcomes = broker.run(_get_verb(action)(redis_queue, task_ids, wanted=state, now_ns=now_ns))
    done = [task_id for task_id, outcome in zip(task_ids, outcomes, strict=True) if outcome is ActionOutcome.DONE]
    if action is TaskAction.DELETE:
        broker.run(remove_lookups(broker, redis_queue, done))
    return done


def _get_verb(action: TaskAction) -> InspectorAction:
    verb = _VERBS[action]
    return partial(verb, max_archived=settings.RUNQY_ARCHIVE_MAX_TASKS) if action is TaskAction.ARCHIVE else verb


def _check_outcome(outcome: ActionOutcome, record: TaskRecord) -> None:
    """Raise the error that an outcome stands for."""
    if outcome is ActionOutcome.NOT_FOUND:
        raise TaskNotFound
    if outcome is ActionOutcome.RUNNING:
        raise TaskRunning
    if outcome is ActionOutcome.LOCKED:
        raise TaskNotUnique
    if outcome is ActionOutcome.WRONG_STATE:
        raise TaskStateUnsuited(f"The action is not allowed for a task in the state {record.state}.")


def _is_canceled(outcome: Cancellation | RunqyError) -> bool:
    """Return whether a task was archived or its worker notified. Raise the errors of Redis."""
    if isinstance(outcome, RunqyError) and not isinstance(outcome, TaskNotFound | TaskNotCancelable):
        raise outcome
    return isinstance(outcome, Cancellation) and outcome is not Cancellation.ALREADY_FINISHED


def _record(action: str, new_state: str | None, record: TaskRecord) -> None:
    changes: Changes = {"queue": (record.queue, record.queue), "state": (record.state.value, new_state)}
    record_in_redis(action=action, object_kind="task", object_name=record.id, changes=changes)
