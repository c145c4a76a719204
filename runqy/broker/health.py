"""Asks Redis whether it can do its work."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.broker import Request
from runqy.broker.links import Reply
from runqy.broker.scripts import command


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisHealth:
    """What matters about a Redis that answers."""

    eviction_policy: str

    @property
    def may_lose_tasks(self) -> bool:
        """Tell whether Redis throws keys away when its memory is full; it has to be `noeviction`."""
        return self.eviction_policy not in ("noeviction", "")


def check_health() -> Request[RedisHealth]:
    """Return how Redis is. Raises BrokerUnavailable where it does not answer."""
    return Request(commands=(command("INFO", "memory", key=None),), parse=_parse)


def probe_write() -> Request[None]:
    """Write something. Raises BrokerUnavailable where Redis takes no writes, being full or a replica."""
    return Request((command("SET", keys.PROBE, 1, "EX", 60, key=keys.PROBE),), lambda _: None)


def _parse(replies: Sequence[Reply]) -> RedisHealth:
    """Read the one line of the report that counts; services that hide it have an empty policy."""
    lines = replies[0].decode("utf-8", "replace").splitlines()
    policy = next((line for line in lines if line.startswith("maxmemory_policy:")), "")
    return RedisHealth(eviction_policy=policy.partition(":")[2].strip())
