"""A Redis that uses a part of its `maxmemory`, or more."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis as redis_py

from tests.support.waiting import wait_until

FILLER_BYTES = 64 << 20
"""One percent of it is more than Redis frees or needs during a test, for buffers of connections."""


@contextmanager
def full_redis(client: redis_py.Redis | redis_py.RedisCluster) -> Iterator[None]:
    """Let Redis be full, so that it refuses every script that may need memory."""
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def filled_redis(redis: redis_py.Redis, *, use: float) -> Iterator[None]:
    """Fill Redis to this part of its memory, within half a percent."""
    # What was deleted, such as the filler of an earlier test, is freed by a thread of Redis.
    wait_until(lambda: redis.info("memory")["lazyfree_pending_objects"] == 0)
    redis.setrange("filler", FILLER_BYTES, b"x")  # uses no buffer of a connection

    def is_filled() -> bool:
        limit = int(_count_used(redis) / use)
        redis.config_set("maxmemory", limit)
        return abs(_count_used(redis) / limit - use) < 0.005

    try:
        wait_until(is_filled)
        yield
    finally:
        redis.delete("filler")
        redis.config_set("maxmemory", 0)


def _count_used(redis: redis_py.Redis) -> int:
    memory = redis.info("memory")  # some buffers do not count towards the limit
    return int(memory["used_memory"] - memory.get("mem_not_counted_for_evict", 0))
