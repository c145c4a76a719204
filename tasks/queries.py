"""Reads tasks."""

from queues.names import AllowedQueues
from queues.queries import get_catalog, with_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.operation import Operation
from runqy.broker.reading import find_task
from runqy.broker.records import TaskRecord
from runqy.errors import BrokerUnavailable, TaskNotFound, TooManyWaiters
from tasks.waiting import get_waiting_room


def get_task(task_id: str, *, allowed_queues: AllowedQueues = None) -> Operation[TaskRecord]:
    """Return a task, one round trip. Raises TaskNotFound, BrokerUnavailable."""
    catalog = get_catalog()
    record = yield from find_task(task_id, catalog.redis_queues())
    if allowed_queues is not None:
        resolved = catalog.find(record.queue)
        if resolved is None or resolved.queue.name not in allowed_queues:
            raise TaskNotFound
    return record


def await_task(broker: Broker, task_id: str, *, longest_s: float, allowed_queues: AllowedQueues = None) -> TaskRecord:
    """Return a task once it ended, or as it is after `longest_s`. Raises TooManyWaiters, and as `get_task`."""

    def read() -> TaskRecord:
        return with_fresh_catalog(lambda: broker.run(get_task(task_id, allowed_queues=allowed_queues)))

    record = read()
    if record.state.is_final:
        return record
    return get_waiting_room().wait_for_end(task_id, read, longest_s=longest_s)


def await_queued_task(broker: Broker, task_id: str, *, longest_s: float) -> TaskRecord | None:
    """Return a task that was queued just now, as `await_task` does; None if it cannot be waited for.

    That is no error: the client would have the same task queued again.
    """
    try:
        return await_task(broker, task_id, longest_s=longest_s)
    except (TooManyWaiters, BrokerUnavailable, TaskNotFound):
        return None
