"""Stores queues for tests of what uses them."""

import redis as redis_py

from queues.definitions import QueueSpec
from queues.models import Queue, QueueSource, SubQueue
from queues.operations import QueueSave, put_definition, save_queues
from runqy.configuration.operations import configuration_change


def store_queues(*specs: QueueSpec) -> None:
    """Store new queues and publish them together: six saved one by one take longer than most tests that use them."""
    with configuration_change() as change:
        rows = [Queue(name=spec.name, source=QueueSource.API, is_enabled=spec.is_enabled) for spec in specs]
        sub_queues = []
        for row, spec in zip(rows, specs, strict=True):
            row.apply_spec(spec)
            put_definition(change, spec)
            sub_queues += [
                SubQueue(queue=row, name=sub.name, priority=sub.priority, position=position)
                for position, sub in enumerate(spec.sub_queues)
            ]
        Queue.objects.bulk_create(rows)
        SubQueue.objects.bulk_create(sub_queues)


def save_from_file(spec: QueueSpec, file_path: str) -> Queue:
    """Save a new queue as if it were loaded from a file."""
    row = Queue(name=spec.name)
    with configuration_change() as change:
        assert not save_queues(change, [QueueSave(row=row, spec=spec, file_path=file_path)], source=QueueSource.FILE)
    return row


def list_keys(redis: redis_py.Redis) -> list[str]:
    """Return the keys in Redis, except those of the configuration."""
    found = sorted(key.decode() for key in redis.scan_iter(count=1000))
    return [key for key in found if not key.startswith(("runqy:config", "runqy:revisions"))]
