"""A copy of the tests' Redis, in which a request finds what another one found before it changed anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from django.conf import settings

from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment

COPY_DB = 15
COPIER = environment.SERVER.client()
"""A client of its own, since it selects other databases."""
COPY_ALL = "for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', key, key, 'DB', ARGV[1]) end"

_targets: dict[RedisTarget, RedisTarget] = {}


def copy_redis() -> bool:
    """Replace another database of the tests' own server by a copy of all keys.

    Return whether there is a copy. There is none if a test limits the server's memory, which a copy would exhaust.
    """
    if int(environment.CLIENT.config_get("maxmemory")["maxmemory"]):
        return False
    with COPIER.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("SELECT", COPY_DB).flushdb().execute_command("SELECT", 0)
        pipeline.eval(COPY_ALL, 0, COPY_DB).execute()
    return True


@contextmanager
def use_copy() -> Iterator[None]:
    """Have the server use the copy. Ignored if a test has it use another Redis."""
    target: RedisTarget = settings.REDIS_TARGET
    if target.addresses[0][1] != environment.SERVER.port:
        yield
        return
    settings.REDIS_TARGET = _targets.setdefault(target, replace(target, db=COPY_DB))
    try:
        yield
    finally:
        settings.REDIS_TARGET = target
