"""What can be done to tasks that exist, one by one or all of a state; each is recorded in the audit before."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

from queues.names import AllowedQueues
from queues.places import get_place
from queues.queries import with_fresh_catalog
from runqy.audit.changes import Changes
from runqy.audit.operations import Announcement, announced
from runqy.broker.broker import Broker
from runqy.broker.cancelling import Cancellation, cancel
from runqy.broker.inspecting import (
    Outcome,
    Verb,
    archive_tasks,
    count_in_state,
    delete_tasks,
    move_all,
    run_tasks,
)
from runqy.broker.lookups import forget_lookups
from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from runqy.errors import TaskEnded, TaskNotFound, TaskNotUnique, TaskRunning, TaskStateUnsuited
from tasks.listing import get_task_of
from tasks.queries import get_task

__all__ = ["Action", "Handled", "Selection", "cancel_task", "handle_task", "handle_tasks", "states_for"]

MOST_AT_ONCE = 10_000
"""One request moves no more tasks than these, so that it ends in time; asking again goes on."""


class Action(StrEnum):
    """What people do to tasks, beside cancelling."""

    RUN = "run"
    ARCHIVE = "archive"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Some tasks of a queue, the oldest in a state."""

    queue: str
    """In any spelling."""
    state: TaskState
    most: int = MOST_AT_ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What was done to the tasks of a state."""

    queue: str
    """The Redis queue."""
    matched: int
    """How many were in the state."""
    affected: int


VERBS: dict[Action, Verb] = {Action.RUN: run_tasks, Action.ARCHIVE: archive_tasks, Action.DELETE: delete_tasks}
BECOMES = {Action.RUN: TaskState.PENDING.value, Action.ARCHIVE: TaskState.ARCHIVED.value, Action.DELETE: None}
PAST = {Action.RUN: "run", Action.ARCHIVE: "archived", Action.DELETE: "deleted"}


_IS_SO = {Action.RUN: TaskState.PENDING, Action.ARCHIVE: TaskState.ARCHIVED, Action.DELETE: None}
_CANCELS = {
    Cancellation.CANCELED: ("task.canceled", TaskState.ARCHIVED.value),
    Cancellation.ASKED: ("task.cancel_asked", TaskState.ACTIVE.value),
}
"""What is recorded, and what the task becomes at once."""


def states_for(action: Action) -> tuple[TaskState, ...]:
    """Return the states whose tasks can be moved all at once."""
    waiting = (TaskState.SCHEDULED, TaskState.RETRY)
    if action is Action.RUN:
        return (*waiting, TaskState.ARCHIVED)
    if action is Action.ARCHIVE:
        return (TaskState.PENDING, *waiting)
    return (TaskState.PENDING, *waiting, TaskState.ARCHIVED, TaskState.COMPLETED)


def cancel_task(broker: Broker, *, task_id: str, queue: str = "", allowed_queues: AllowedQueues = None) -> bool:
    """Cancel a task; True: it will not run, False: it runs, and its worker was told.

    Without a queue it is found by its id. Raises TaskNotFound, QueueNotFound, TaskEnded, TaskNotCancelable,
    BrokerUnavailable.
    """
    if queue:
        seen = get_task_of(broker, queue, task_id, allowed_queues=allowed_queues)
    else:
        seen = with_fresh_catalog(lambda: broker.run(get_task(task_id, allowed_queues=allowed_queues)))
    request = cancel(seen.queue, task_id, now_ns=broker.now_ns())
    if seen.is_canceled and seen.state is TaskState.ARCHIVED:
        return broker.run(request) is Cancellation.CANCELED
    if seen.state.is_final:
        raise TaskEnded(f"The task is over: it is {seen.state}.")
    expected = Cancellation.ASKED if seen.state is TaskState.ACTIVE else Cancellation.CANCELED
    with _announced(*_CANCELS[expected], seen) as announcement:
        outcome = broker.run(request)
        if outcome is Cancellation.OVER:
            raise TaskEnded
        if outcome is not expected:
            announcement.amend(outcome)
    return outcome is Cancellation.CANCELED


def handle_task(
    broker: Broker, *, action: Action, queue: str, task_id: str, allowed_queues: AllowedQueues = None
) -> None:
    """Run, archive or delete one task; nothing happens to one that is so already.

    Raises QueueNotFound, TaskNotFound, TaskRunning, TaskNotUnique, TaskStateUnsuited, BrokerUnavailable.
    """
    seen = get_task_of(broker, queue, task_id, allowed_queues=allowed_queues)
    if seen.state is TaskState.ACTIVE:
        raise TaskRunning
    if seen.state is _IS_SO[action]:
        return
    if (action, seen.state) == (Action.ARCHIVE, TaskState.COMPLETED):
        _refuse(Outcome.OTHERWISE, seen)
    with _announced(f"task.{PAST[action]}", BECOMES[action], seen) as announcement:
        (outcome,) = broker.run(VERBS[action](seen.queue, [task_id], now_ns=broker.now_ns()))
        _refuse(outcome, seen)
        if outcome is Outcome.BEFORE:
            announcement.amend("it was so already")
    if action is Action.DELETE:
        broker.run(forget_lookups(seen.queue, [task_id]))


def handle_tasks(
    broker: Broker,
    *,
    action: Action,
    selection: Selection,
    is_dry_run: bool = False,
    allowed_queues: AllowedQueues = None,
) -> Handled:
    """Run, archive or delete the tasks of a state, one of `states_for`, in bounded chunks.

    Raises QueueNotFound, BrokerUnavailable.
    """
    redis_queue = get_place(broker, selection.queue, allowed_queues=allowed_queues).redis_queue
    state, most = selection.state, selection.most
    matched = count_in_state(broker, redis_queue, state)
    if is_dry_run or not matched:
        return Handled(queue=redis_queue, matched=matched, affected=0)
    expected = min(matched, most)
    changes: Changes = {"state": (state.value, BECOMES[action]), "tasks": (expected, None)}
    with announced(
        action=f"tasks.{PAST[action]}", object_kind="queue", object_name=redis_queue, changes=changes
    ) as announcement:
        swept = move_all(broker, VERBS[action], redis_queue, state, most=most)
        if swept.done != expected:
            announcement.amend(f"{swept.done} tasks")
    return Handled(queue=redis_queue, matched=swept.found, affected=swept.done)


def _refuse(outcome: Outcome, seen: TaskRecord) -> None:
    """Raise what an outcome means for whoever asked for one task."""
    if outcome is Outcome.GONE:
        raise TaskNotFound
    if outcome is Outcome.RUNNING:
        raise TaskRunning
    if outcome is Outcome.LOCKED:
        raise TaskNotUnique
    if outcome is Outcome.OTHERWISE:
        raise TaskStateUnsuited(f"This cannot be done to a task that is {seen.state}.")


def _announced(action: str, becomes: str | None, seen: TaskRecord) -> AbstractContextManager[Announcement]:
    """Record what is about to be done to a task."""
    changes: Changes = {"queue": (seen.queue, seen.queue), "state": (seen.state.value, becomes)}
    return announced(action=action, object_kind="task", object_name=seen.id, changes=changes)
