"""Asks Redis whether it can do its work."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis import RedisCluster

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.links import Reply, checked, translated_errors
from runqy.broker.operation import Request
from runqy.broker.scripts import command, script
from runqy.errors import RunqyError

MAINTENANCE_REPORT_S = 60
_MOST_TAGS = 10_000
"""Masters without slots have no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisHealth:
    """What matters about a Redis that answers."""

    eviction_policy: str
    is_in_cluster: bool

    @property
    def may_lose_tasks(self) -> bool:
        """Tell whether Redis throws keys away when its memory is full; it has to be `noeviction`."""
        return self.eviction_policy not in ("noeviction", "")


def check_health() -> Request[RedisHealth]:
    """Return how Redis is. Raises BrokerUnavailable where it does not answer."""
    commands = (command("INFO", "memory", key=None), command("INFO", "cluster", key=None))
    return Request(commands=commands, parse=_parse)


def report_maintenance(*, now_s: int) -> Request[None]:
    """Store that maintenance runs, for a minute, also when Redis is full."""
    report = script("write_record")(record=keys.MAINTENANCE, content=now_s, ttl_s=MAINTENANCE_REPORT_S)
    return Request((report,), lambda _: None)


def is_maintenance_running() -> Request[bool]:
    """Return whether a maintenance process has reported in the last minute."""
    return Request((command("EXISTS", keys.MAINTENANCE, key=keys.MAINTENANCE),), lambda replies: bool(replies[0]))


def probe_writes(broker: Broker) -> list[RunqyError | None]:
    """Write something on every server that is to take writes; return what went wrong, of each.

    An error is BrokerFull or BrokerUnavailable, where one takes no writes, being a replica. Raises BrokerUnavailable.
    """
    tags = _tags(broker.client) if isinstance(broker.client, RedisCluster) else [0]
    probes = [Request((command("SET", keys.probe(n), 1, "EX", 60, key=keys.probe(n)),), lambda _: None) for n in tags]
    return broker.run_all(probes)


def check_nodes(broker: Broker) -> list[RedisHealth]:
    """Return how each server is, of a cluster every master. Raises BrokerUnavailable."""
    request = check_health()
    return [
        request.parse([checked(reply) for reply in link.execute(request.commands)])
        for link in broker.link.nodes().values()
    ]


def _tags(client: RedisCluster) -> list[int]:
    """Return numbers of which each spells a key of another master, until all have one. Raises BrokerUnavailable."""
    found: dict[str, int] = {}
    with translated_errors():
        masters = {node.name for node in client.get_primaries()}
        for number in range(_MOST_TAGS):
            node = client.get_node_from_key(keys.probe(number))
            if node is not None:
                found.setdefault(node.name, number)
            if found.keys() >= masters:
                break
    return list(found.values())


def _parse(replies: Sequence[Reply]) -> RedisHealth:
    """Read the lines of the reports that count; services that hide them have an empty policy, and are no cluster."""
    memory, cluster = (reply.decode("utf-8", "replace").splitlines() for reply in replies)
    policy = next((line for line in memory if line.startswith("maxmemory_policy:")), "")
    return RedisHealth(
        eviction_policy=policy.partition(":")[2].strip(), is_in_cluster="cluster_enabled:1" in map(str.strip, cluster)
    )
