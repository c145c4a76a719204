"""What can be done to tasks of one queue that somebody picked; each pick is recorded in the audit before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from queues.places import get_place
from runqy.audit.changes import Changes
from runqy.audit.operations import announced
from runqy.broker.broker import Broker
from runqy.broker.cancelling import Cancellation, cancel
from runqy.broker.inspecting import Outcome
from runqy.broker.lookups import forget_lookups
from runqy.broker.reading import read_states
from runqy.broker.states import TaskState
from runqy.errors import RequestInvalid, RunqyError, TaskNotCancelable, TaskNotFound, TaskStateUnsuited
from tasks.handling import BECOMES, PAST, VERBS, Action, Handled

__all__ = ["MOST_PICKED", "Pick", "cancel_picked", "handle_picked", "states_of_one"]

MOST_PICKED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Some tasks of a queue, which were in one state when somebody looked."""

    queue: str
    """In any spelling."""
    state: TaskState
    task_ids: Sequence[str]


def states_of_one(action: Action) -> tuple[TaskState, ...]:
    """Return the states in which something can be done to a task that somebody picked."""
    waiting = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY)
    if action is Action.ARCHIVE:
        return waiting
    over = (TaskState.ARCHIVED, TaskState.COMPLETED)
    return (*waiting, *over) if action is Action.DELETE else (*waiting[1:], *over)


def handle_picked(broker: Broker, *, action: Action, pick: Pick) -> Handled:
    """Run, archive or delete tasks; those that have left their state meanwhile are left alone.

    Raises QueueNotFound, RequestInvalid, TaskStateUnsuited, BrokerUnavailable.
    """
    if pick.state not in states_of_one(action):
        raise TaskStateUnsuited(f"This cannot be done to tasks that are {pick.state}.")

    def do(redis_queue: str, task_ids: list[str]) -> list[str]:
        request = VERBS[action](redis_queue, task_ids, wanted=pick.state, now_ns=broker.now_ns())
        done = [i for i, outcome in zip(task_ids, broker.run(request), strict=True) if outcome is Outcome.DONE]
        if action is Action.DELETE:
            broker.run(forget_lookups(redis_queue, done))
        return done

    return _handled(broker, pick, f"tasks.{PAST[action]}", BECOMES[action], do)


def cancel_picked(broker: Broker, *, pick: Pick) -> Handled:
    """Cancel tasks, those that run through their workers; what is over meanwhile is left alone.

    Raises QueueNotFound, RequestInvalid, BrokerUnavailable.
    """

    def do(redis_queue: str, task_ids: list[str]) -> list[str]:
        now_ns = broker.now_ns()
        outcomes = broker.run_all([cancel(redis_queue, task_id, now_ns=now_ns) for task_id in task_ids])
        return [task_id for task_id, outcome in zip(task_ids, outcomes, strict=True) if _is_canceled(outcome)]

    return _handled(broker, pick, "tasks.canceled", TaskState.ARCHIVED.value, do)


def _handled(
    broker: Broker, pick: Pick, action: str, becomes: str | None, do: Callable[[str, list[str]], list[str]]
) -> Handled:
    """Do something to those of a pick that are still in its state; it tells to which it was done."""
    picked = list(dict.fromkeys(pick.task_ids))
    if not 0 < len(picked) <= MOST_PICKED:
        raise RequestInvalid(f"Pick 1 to {MOST_PICKED} tasks.")
    queue = get_place(broker, pick.queue).redis_queue
    states = broker.run(read_states([(queue, task_id) for task_id in picked]))
    due = [task_id for task_id, state in zip(picked, states, strict=True) if state is pick.state]
    if not due:
        return Handled(queue=queue, matched=len(picked), affected=0)
    changes: Changes = {"state": (pick.state.value, becomes), "tasks": (len(due), None), "ids": (due, None)}
    with announced(action=action, object_kind="queue", object_name=queue, changes=changes) as announcement:
        done = do(queue, due)
        if len(done) != len(due):
            announcement.amend(f"not done to {', '.join(sorted({*due} - {*done}))}")
    return Handled(queue=queue, matched=len(picked), affected=len(done))


def _is_canceled(outcome: Cancellation | RunqyError) -> bool:
    """Tell whether a task will not run, or its worker was told. Raises what is wrong with Redis."""
    if isinstance(outcome, RunqyError) and not isinstance(outcome, TaskNotFound | TaskNotCancelable):
        raise outcome
    return outcome in (Cancellation.ASKED, Cancellation.CANCELED)
