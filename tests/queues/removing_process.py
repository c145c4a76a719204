"""A process that removes a queue by force and stops after two steps in Redis, to be killed there."""

import os
import signal
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
django.setup()

from queues import removal  # noqa: E402 (Django comes first)
from runqy.broker import removal as in_redis  # noqa: E402
from runqy.connection import get_broker  # noqa: E402

_drop_tasks, _steps = in_redis.drop_tasks, iter(range(1000))


def _stopping(keys: in_redis.QueueKeys, index: str) -> object:
    """Drop some tasks; after two steps that found any, say so and wait."""
    if index == keys.pending and next(_steps) == 2:
        print("two steps", flush=True)
        signal.pause()
    return _drop_tasks(keys, index)


in_redis.drop_tasks = _stopping
removal.SETTLE_S = 0
removal.remove_queue(get_broker(), name=sys.argv[1], force=True)
