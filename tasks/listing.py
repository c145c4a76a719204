"""What can be known about the tasks of one queue."""

from dataclasses import dataclass

from queues.places import get_place
from runqy.broker.broker import Broker
from runqy.broker.listing import Anchor, Page, list_tasks
from runqy.broker.reading import read_tasks
from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from runqy.errors import TaskNotFound

__all__ = ["PageRequest", "get_task_of", "list_tasks_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which tasks of a queue somebody wants to see."""

    state: TaskState
    limit: int
    is_newest_first: bool = False
    after: Anchor | None = None
    """Where the page before ended; None: this is the first."""


def list_tasks_of(broker: Broker, queue: str, asked: PageRequest, *, among: frozenset[str] | None = None) -> Page:
    """Return a page of the tasks of a queue, named in any spelling.

    `among` are the queues, by their own names, that exist for whoever asks; None: all.
    Raises QueueNotFound, BrokerUnavailable.
    """
    place = get_place(broker, queue, among=among)
    return broker.run(
        list_tasks(
            place.redis_queue,
            asked.state,
            limit=asked.limit,
            is_newest_first=asked.is_newest_first,
            after=asked.after,
        )
    )


def get_task_of(broker: Broker, queue: str, task_id: str, *, among: frozenset[str] | None = None) -> TaskRecord:
    """Return a task of a queue. Raises QueueNotFound, TaskNotFound, BrokerUnavailable."""
    place = get_place(broker, queue, among=among)
    (record,) = read_tasks(broker, [(place.redis_queue, task_id)])
    if record is None:
        raise TaskNotFound
    return record
