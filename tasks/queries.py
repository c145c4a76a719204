"""Reads tasks."""

from queues.names import AllowedQueues
from queues.queries import get_catalog
from runqy.broker.operation import Operation
from runqy.broker.reading import find_task
from runqy.broker.records import TaskRecord
from runqy.errors import TaskNotFound


def get_task(task_id: str, *, allowed_queues: AllowedQueues = None) -> Operation[TaskRecord]:
    """Return a task, one round trip. Raises TaskNotFound, BrokerUnavailable."""
    catalog = get_catalog()
    record = yield from find_task(task_id, catalog.redis_queues())
    if allowed_queues is not None:
        resolved = catalog.find(record.queue)
        if resolved is None or resolved.queue.name not in allowed_queues:
            raise TaskNotFound
    return record
