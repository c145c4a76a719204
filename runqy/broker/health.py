"""Check the health of Redis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.memory import MemoryReading, MemoryUse, parse_memory
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import command, script
from runqy.errors import BrokerRefused, RunqyError

MAINTENANCE_REPORT_S = 60
LOADS_AS_SUPERUSER = (9, 1)
"""The version of Valkey from which the user `default` needs no permission for the append-only file."""
_MAX_TAGS = 10_000
"""Where the search for a key on each master ends: a master without slots has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisHealth:
    """What an INFO of a Redis server says about its health."""

    eviction_policy: str
    is_in_cluster: bool
    memory: MemoryReading
    name: str = ""
    """The address of a master of a cluster."""
    replication_id: str = ""
    """Changes when a replica is promoted and when the server restarts; empty for a replica."""
    previous_replication_id: str = ""
    """The id that the server had as a replica, or that of the snapshot it loaded; empty if it has none."""

    @property
    def may_lose_tasks(self) -> bool:
        """Whether Redis evicts keys when its memory is full: the policy must be `noeviction`."""
        return self.eviction_policy not in ("noeviction", "")

    @property
    def is_nearly_full(self) -> bool:
        """Whether enqueueing refuses tasks, which happens before the server itself refuses writes."""
        return self.memory.use > MemoryUse.MAX_USE


def check_health() -> Request[RedisHealth]:
    """Return the health of Redis. Raise BrokerUnavailable."""
    commands = tuple(command("INFO", section, key=None) for section in ("memory", "cluster", "replication"))
    return Request(commands=commands, parse=_parse)


def report_maintenance(*, now_s: int) -> Request[None]:
    """Record that maintenance runs now. A full Redis accepts the record, which expires after MAINTENANCE_REPORT_S."""
    report = script("write_record")(record=keys.MAINTENANCE, content=now_s, ttl_s=MAINTENANCE_REPORT_S)
    return Request((report,), lambda _: None)


def publish_wakeup(duty: str) -> Request[None]:
    """Tell maintenance processes that a duty has something to do."""
    return Request((command("PUBLISH", keys.DUTIES_CHANNEL, duty, key=None),), lambda _: None, is_repeatable=True)


def is_maintenance_running() -> Request[bool]:
    return Request((command("EXISTS", keys.MAINTENANCE, key=keys.MAINTENANCE),), lambda replies: bool(replies[0]))


def ping() -> Request[None]:
    """Do nothing, to measure a round trip. Raise BrokerUnavailable."""
    return Request((command("PING", key=None),), lambda _: None)


def probe_writes(broker: Broker) -> list[RunqyError | None]:
    """Write a key on each server that accepts writes; return one error per server that fails.

    An error is BrokerFull, or BrokerUnavailable for a replica. Raise BrokerUnavailable.
    """
    tags = broker.run(_find_hash_tags(broker))
    probes = [Request((command("SET", keys.probe(n), 1, "EX", 60, key=keys.probe(n)),), lambda _: None) for n in tags]
    return broker.run_all(probes)


async def check_nodes(broker: AnyBroker) -> list[RedisHealth]:
    """Return the health of each server that holds keys. Raise BrokerUnavailable."""
    return [replace(await broker.send_to(node, check_health()), name=node) for node in await broker.nodes()]


async def may_lose_append_only_file(broker: AnyBroker) -> bool:
    """Return whether a server would refuse its append-only file when it starts.

    It runs the file as the user `default`. False where the server may not read users. Raise BrokerUnavailable.
    """
    sections = tuple(command("INFO", section, key=None) for section in ("persistence", "server"))
    read_user = Request((command("ACL", "GETUSER", "default", key=None),), lambda replies: _is_restricted(replies[0]))
    for node in await broker.nodes():
        info = await broker.send_to(node, Request(sections, _read_info))
        version = tuple(int(part) for part in info.get("valkey_version", "0").split(".") if part.isdigit())
        if info.get("aof_enabled") != "1" or version >= LOADS_AS_SUPERUSER:
            continue
        try:
            if await broker.send_to(node, read_user):
                return True
        except BrokerRefused:
            continue
    return False


def _is_restricted(user: Reply) -> bool:
    rules = user if isinstance(user, dict) else dict(zip(user[::2], user[1::2], strict=True))
    return rules[b"commands"] != b"+@all" or b"~*" not in rules[b"keys"].split()


async def _find_hash_tags(broker: AnyBroker) -> list[int]:
    """Return hash tags that together reach every server that holds keys. Raise BrokerUnavailable."""
    nodes = set(await broker.nodes())
    found: dict[str, int] = {}
    for number in range(_MAX_TAGS):
        found.setdefault(broker.node_of(keys.probe(number)), number)
        if found.keys() >= nodes:
            break
    return [number for node, number in found.items() if node in nodes]


def _parse(replies: Sequence[Reply]) -> RedisHealth:
    """Parse INFO. A hosted Redis that hides sections has an empty policy and does not count as part of a cluster."""
    info = _read_info(replies)
    # Without a previous id Redis reports 40 zeros.
    is_master, previous_id = info.get("role") == "master", info.get("master_replid2", "")
    return RedisHealth(
        eviction_policy=info.get("maxmemory_policy", ""),
        is_in_cluster=info.get("cluster_enabled") == "1",
        memory=parse_memory(replies[0]),
        replication_id=info.get("master_replid", "") if is_master else "",
        previous_replication_id=previous_id if is_master and previous_id.strip("0") else "",
    )


def _read_info(replies: Sequence[Reply]) -> dict[str, str]:
    lines = (line for reply in replies for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
