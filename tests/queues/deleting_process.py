"""A process that deletes a queue by force and pauses after two steps in Redis, to be killed there."""

import os
import signal
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
django.setup()

from queues import deletion  # noqa: E402 (Django comes first)
from runqy.broker.queues import deletion as in_redis  # noqa: E402
from runqy.redis_connection import get_broker  # noqa: E402

_drop_tasks, _steps = in_redis.delete_indexed_tasks, iter(range(1000))


def _stopping(keys: in_redis.QueueKeys, index: str) -> object:
    """Delete some tasks; after two steps that found any, report it and pause."""
    if index == keys.pending and next(_steps) == 2:
        print("two steps", flush=True)
        signal.pause()
    return _drop_tasks(keys, index)


in_redis.delete_indexed_tasks = _stopping
deletion.PROPAGATION_S = 0
deletion.delete_queue(get_broker(), name=sys.argv[1], force=True)
