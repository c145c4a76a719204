"""Read tasks."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings

from queues.catalog import AllowedQueues, QueueCatalog
from queues.queries import get_catalog, resolve_redis_queue
from runqy.broker.broker import Broker
from runqy.broker.request import AnyBroker, Request, raise_error
from runqy.broker.states import TaskState
from runqy.broker.tasks.chunks import TaskChunks, read_chunks
from runqy.broker.tasks.listing import Anchor, Page, list_tasks
from runqy.broker.tasks.output import TaskOutput, read_output
from runqy.broker.tasks.reader import TaskLocation, TaskStatus, find_task, read_statuses, read_tasks
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import TaskNotFound
from tasks.models import TaskRun

_MAX_READS = 3
"""Of a task that seems to begin one run after another: workers can write what does not match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A page of the tasks of a queue that are in one state."""

    state: TaskState
    limit: int
    is_newest_first: bool = False
    after: Anchor | None = None
    """The end of the previous page; None for the first page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWindow:
    """A page with links to the previous and the next page."""

    tasks: list[TaskRecord]
    previous: Anchor | None
    """None on the first page."""
    next: Anchor | None
    """None on the last page."""


async def get_task(
    broker: AnyBroker, task_id: str, *, allowed_queues: AllowedQueues = None, wants_payload: bool = True
) -> TaskRecord:
    """Return a task by its id alone, in one round trip. Raise TaskNotFound, BrokerUnavailable.

    A task without a lookup is found only in RUNQY_FOREIGN_QUEUES, since workers can write tasks of any id into their
    queues (ADR 0011).
    """
    catalog = get_catalog()
    record = await find_task(broker, task_id, _list_foreign_redis_queues(catalog), wants_payload=wants_payload)
    if allowed_queues is not None:
        resolved = catalog.find(record.queue)
        if resolved is None or resolved.queue.name not in allowed_queues:
            raise TaskNotFound  # for the key, tasks of other queues do not exist
    return record


def _list_foreign_redis_queues(catalog: QueueCatalog) -> list[str]:
    names = settings.RUNQY_FOREIGN_QUEUES
    queues = [queue for queue in catalog.definitions if "*" in names or queue.name in names] if names else []
    return [redis_queue for queue in queues for redis_queue, _ in catalog.redis_queues_of(queue)]


def get_queue_task(broker: Broker, queue: str, task_id: str, *, allowed_queues: AllowedQueues = None) -> TaskRecord:
    """Return a task of a queue. Raise QueueNotFound, TaskNotFound, BrokerUnavailable."""
    resolved = resolve_redis_queue(broker, queue, allowed_queues=allowed_queues)
    (record,) = broker.run(read_tasks(broker, [(resolved.redis_queue, task_id)]))
    if record is None:
        raise TaskNotFound
    return record


async def read_task_output(
    broker: AnyBroker, location: TaskLocation, *, attempt: int | None = None, offset: int = 0
) -> tuple[TaskStatus, TaskOutput]:
    """Return a task's status and what an attempt printed from an offset on.

    Without `attempt` it is the last attempt that printed anything. The output is complete if the status is final. Raise
    TaskNotFound, BrokerUnavailable.
    """
    requests: list[Request[Any]] = [
        read_statuses([location]),
        read_output(*location, attempt=attempt, offset=offset),
    ]
    (status,), output = map(raise_error, (await broker.send_all(requests)))
    if status is None:
        raise TaskNotFound
    return status, output


async def read_task(broker: AnyBroker, location: TaskLocation) -> TaskRecord:
    """Return a task whose Redis queue is known. Raise TaskNotFound, BrokerUnavailable."""
    (record,) = await read_tasks(broker, [location])
    if record is None:
        raise TaskNotFound
    return record


async def read_task_chunks(
    broker: AnyBroker, location: TaskLocation, *, run: int = 0, offset: int = 0
) -> tuple[TaskStatus, TaskChunks]:
    """Return a task's status and what its last run streamed: from an offset on, if `run` is that one.

    The chunks are all of the run, or those after them are left for the next call, if the status is not active. Raise
    TaskNotFound, BrokerUnavailable.
    """
    status, chunks = await _read_run(broker, location, read_chunks(*location, run=run, offset=offset))
    return status, chunks


async def read_stream_and_output(
    broker: AnyBroker, location: TaskLocation, *, attempt: int | None = None
) -> tuple[TaskStatus, TaskChunks, TaskOutput]:
    """Return what `read_task_chunks` and `read_task_output` do, in one round trip."""
    status, chunks, output = await _read_run(
        broker, location, read_chunks(*location), read_output(*location, attempt=attempt)
    )
    return status, chunks, output


async def _read_run(
    broker: AnyBroker, location: TaskLocation, chunks: Request[TaskChunks], *others: Request[Any]
) -> list[Any]:
    requests: list[Request[Any]] = [read_statuses([location]), chunks, *others]
    for _ in range(_MAX_READS):
        (status,), *found = map(raise_error, (await broker.send_all(requests)))
        if status is None:
            raise TaskNotFound
        if status.chunks[0] == found[0].run:
            break
        # A run has begun between the two commands, whose chunks do not belong to this state.
    return [status, *found]


def get_task_output(
    broker: Broker, queue: str, task_id: str, *, attempt: int | None = None, allowed_queues: AllowedQueues = None
) -> tuple[TaskLocation, TaskOutput]:
    """Return where a task of a queue is stored, and what an attempt printed.

    Raise QueueNotFound, TaskNotFound, BrokerUnavailable.
    """
    location = resolve_redis_queue(broker, queue, allowed_queues=allowed_queues).redis_queue, task_id
    _, output = broker.run(read_task_output(broker, location, attempt=attempt))
    return location, output


def list_queue_tasks(broker: Broker, queue: str, page: PageRequest, *, allowed_queues: AllowedQueues = None) -> Page:
    """Return a page of the tasks of a queue, named in any spelling.

    Raise QueueNotFound, BrokerUnavailable.
    """
    resolved = resolve_redis_queue(broker, queue, allowed_queues=allowed_queues)
    return broker.run(
        list_tasks(
            resolved.redis_queue,
            page.state,
            limit=page.limit,
            is_newest_first=page.is_newest_first,
            after=page.after,
        )
    )


def find_gone(broker: Broker, tasks: Iterable[TaskLocation]) -> set[TaskLocation]:
    """Return those tasks that are in neither Redis nor the history. Raise BrokerUnavailable."""
    wanted = [*dict.fromkeys(tasks)]
    if not wanted:
        return set()
    statuses = broker.run(read_statuses(wanted))
    missing = {task for task, status in zip(wanted, statuses, strict=True) if status is None}
    runs = TaskRun.objects.filter(task_id__in={task_id for _, task_id in missing})
    return missing - set(runs.values_list("redis_queue", "task_id").distinct())


def get_task_window(broker: Broker, queue: str, page: PageRequest, *, is_backward: bool = False) -> TaskWindow:
    """Return the page after the anchor or, with `is_backward`, before it, with links to both sides.

    Raise QueueNotFound, BrokerUnavailable.
    """
    if is_backward and page.after is not None:
        found = list_queue_tasks(broker, queue, replace(page, is_newest_first=not page.is_newest_first))
        if found.end is not None and found.tasks:
            return TaskWindow(tasks=found.tasks[::-1], previous=found.end, next=anchor_of(found.tasks[0]))
        page = replace(page, after=None)  # the beginning was reached: return the first page in full
    found = list_queue_tasks(broker, queue, page)
    previous = anchor_of(found.tasks[0]) if found.tasks and page.after is not None else None
    return TaskWindow(tasks=found.tasks, previous=previous, next=found.end)


def anchor_of(record: TaskRecord) -> Anchor:
    """Return the position of a task in the list of its state."""
    since = {TaskState.PENDING: record.pending_since_ns, TaskState.ACTIVE: record.started_at_ns}
    position = since.get(record.state, record.score_s)
    return Anchor(id=record.id, position="" if position is None else str(position))
