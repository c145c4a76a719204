"""What can be known about tasks."""

from functools import partial

from queues.queries import get_catalog
from runqy.broker.broker import Broker
from runqy.broker.reading import find_task
from runqy.broker.records import TaskRecord
from runqy.errors import BrokerUnavailable, TaskNotFound, TooManyWaiters
from tasks.waiting import get_waiting_room


def get_task(broker: Broker, task_id: str, *, among: frozenset[str] | None = None) -> TaskRecord:
    """Return a task, one round trip.

    `among` are the queues, by their own names, that exist for whoever asks; None: all.
    Raises TaskNotFound, BrokerUnavailable.
    """
    catalog = get_catalog()
    record = broker.run(find_task(task_id, catalog.redis_queues()))
    if among is not None:
        resolved = catalog.find(record.queue)
        if resolved is None or resolved.queue.name not in among:
            raise TaskNotFound
    return record


def await_task(broker: Broker, task_id: str, *, longest_s: float, among: frozenset[str] | None = None) -> TaskRecord:
    """Return a task once it is over, or as it is when time is up. Raises TooManyWaiters, and as `get_task`."""
    read = partial(get_task, broker, task_id, among=among)
    record = read()
    if record.state.is_final:
        return record
    return get_waiting_room().wait_for_end(task_id, read, longest_s=longest_s)


def await_queued_task(broker: Broker, task_id: str, *, longest_s: float) -> TaskRecord | None:
    """Return a task that was queued just now, as `await_task` does; None if there is no waiting for it.

    That is no error: whoever asked would have the same task queued again.
    """
    try:
        return await_task(broker, task_id, longest_s=longest_s)
    except (TooManyWaiters, BrokerUnavailable, TaskNotFound):
        return None
