"""Find the tasks of a bulk action, slice by slice: in Redis by state, or ended ones in the history."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.reader import TaskLocation
from runqy.broker.tasks.record import TaskRecord
from runqy.formats.json_decoding import read_json
from tasks.history.queries import filter_ended_tasks
from tasks.models import BulkAction, TaskRun
from tasks.task_browser import SearchCursor, SearchRequest, TaskQuery, count_by_queue, find_redis_queues, search_tasks

SLICE_SIZE = 200
RUNS_PER_SLICE = 20_000
"""The rows of the history that are searched for one slice."""
_RUN_FIELDS = ("redis_queue", "task_id", "pk", "outcome")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The tasks that come next, each once."""

    tasks: list[TaskLocation]
    cursor: str
    """Where the next slice begins."""
    is_last: bool


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


def _find_in_redis(broker: Broker, bulk: BulkAction, query: TaskQuery, state: TaskState) -> Slice:
    """Return the next tasks in a state, without those that entered it after the request."""
    after = read_json(bulk.cursor.encode(), SearchCursor) if bulk.cursor else None
    queues = count_by_queue(broker, find_redis_queues(broker, query.queue), state)
    page = search_tasks(broker, list(queues), query, SearchRequest(limit=SLICE_SIZE, after=after, is_oldest_first=True))
    tasks = [(task.queue, task.id) for task in page.tasks if (state_since_ns(task) or 0) // 10**9 <= bulk.requested_s]
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
