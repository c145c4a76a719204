"""What can be known about the tasks of one queue."""

from dataclasses import dataclass, replace

from queues.names import AllowedQueues
from queues.places import get_place
from runqy.broker.broker import Broker
from runqy.broker.listing import Anchor, Page, list_tasks
from runqy.broker.reading import read_tasks
from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from runqy.errors import TaskNotFound

__all__ = ["PageRequest", "Window", "get_task_of", "list_tasks_of", "look_at_tasks_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which tasks of a queue somebody wants to see."""

    state: TaskState
    limit: int
    is_newest_first: bool = False
    after: Anchor | None = None
    """Where the page before ended; None: this is the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A page with both of its ends."""

    tasks: list[TaskRecord]
    before: Anchor | None
    """Where the page before ends; None: this is the first."""
    behind: Anchor | None
    """Where the next page begins; None: this is the last."""


def list_tasks_of(broker: Broker, queue: str, asked: PageRequest, *, allowed_queues: AllowedQueues = None) -> Page:
    """Return a page of the tasks of a queue, named in any spelling.

    Raises QueueNotFound, BrokerUnavailable.
    """
    place = get_place(broker, queue, allowed_queues=allowed_queues)
    return broker.run(
        list_tasks(
            place.redis_queue,
            asked.state,
            limit=asked.limit,
            is_newest_first=asked.is_newest_first,
            after=asked.after,
        )
    )


def look_at_tasks_of(broker: Broker, queue: str, asked: PageRequest, *, goes_back: bool = False) -> Window:
    """Return a page with both of its ends; one that goes back ends before the anchor.

    Raises QueueNotFound, BrokerUnavailable.
    """
    if goes_back and asked.after is not None:
        page = list_tasks_of(broker, queue, replace(asked, is_newest_first=not asked.is_newest_first))
        if page.end is not None and page.tasks:
            return Window(tasks=page.tasks[::-1], before=page.end, behind=_anchor(page.tasks[0]))
        asked = replace(asked, after=None)  # back at the beginning, which is shown as a whole page
    page = list_tasks_of(broker, queue, asked)
    before = _anchor(page.tasks[0]) if page.tasks and asked.after is not None else None
    return Window(tasks=page.tasks, before=before, behind=page.end)


def get_task_of(broker: Broker, queue: str, task_id: str, *, allowed_queues: AllowedQueues = None) -> TaskRecord:
    """Return a task of a queue. Raises QueueNotFound, TaskNotFound, BrokerUnavailable."""
    place = get_place(broker, queue, allowed_queues=allowed_queues)
    (record,) = broker.run(read_tasks([(place.redis_queue, task_id)]))
    if record is None:
        raise TaskNotFound
    return record


def _anchor(record: TaskRecord) -> Anchor:
    """Return the place of a task in the list of its state."""
    since = {TaskState.PENDING: record.pending_since_ns, TaskState.ACTIVE: record.started_at_ns}
    position = since.get(record.state, record.score_s)
    return Anchor(id=record.id, position="" if position is None else str(position))
