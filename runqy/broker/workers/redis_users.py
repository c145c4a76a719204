"""Create and delete the Redis users of workers, each limited to its own queues, and store their registrations.

Redis does not replicate ACLs, and by default does not persist them. Users are therefore created on every server that
holds keys, and created again from the stored registrations.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.workers.heartbeats import are_workers_listed
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerRefused, BrokerUnavailable, WorkerIdTaken

PREFIX = "runqy-w-"
"""The names of workers' users begin with it. Users with other names are never changed."""

COMMANDS = (
    *("evalsha", "script|load", "ping", "time", "subscribe", "unsubscribe"),
    *("exists", "del", "unlink", "expire", "expireat", "pexpireat"),
    *("get", "set", "incr", "incrby"),
    *("hget", "hmget", "hset", "hdel", "hexists", "hincrby"),
    *("llen", "lrange", "lpush", "rpush", "rpop", "lrem"),
    *("zadd", "zrem", "zscore", "zcard", "zrange", "zpopmax", "zremrangebyscore"),
    *("xadd", "xlen"),
)
"""The commands that a worker may use on its own keys. Redis also checks commands inside scripts."""
_MODE_COMMANDS: Mapping[str, tuple[str, ...]] = {"sentinel": ("role",), "cluster": ("cluster|slots", "asking")}
_RECORD_HEAD_BYTES = 24
_END = re.compile(rb"(\d{1,12})\.(\d{6})")
_SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUser:
    """A Redis user, shared by the registrations of one worker process."""

    name: str
    password_sha256: str
    instance_id: str
    worker_ids: tuple[str, ...]
    redis_queues: tuple[str, ...]

    def extends(self, other: RedisUser) -> bool:
        """Return whether this user has all permissions of another."""
        return (
            (self.password_sha256, self.instance_id) == (other.password_sha256, other.instance_id)
            and {*self.worker_ids} >= {*other.worker_ids}
            and {*self.redis_queues} >= {*other.redis_queues}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUser:
    """What is stored about a registration, or about a process that registered."""

    field: str
    content: bytes


def new_wake_token(instance_id: str) -> str:
    """Return the token of a wake-up channel to which a worker's Redis user may subscribe."""
    return f"{instance_id}:{secrets.token_hex(6)}"


def new_server_id(instance_id: str) -> str:
    """Return a server id for asynq's heartbeats that a worker's Redis user may write."""
    return f"{instance_id}-{secrets.token_hex(6)}"


def is_worker_user(name: str) -> bool:
    return name.startswith(PREFIX)


def acl_rules(user: RedisUser, *, target: RedisTarget) -> list[str]:
    """Return the rules for ACL SETUSER. `target` is how workers connect to Redis.

    The keys are added to those that the user has, so that concurrent registrations keep each other's.
    """
    commands = (*COMMANDS, *_MODE_COMMANDS.get(target.mode, ()), *(("select",) if target.db else ()))
    own_keys = [  # those of queues first: Redis compares a key with one pattern after another, and most keys are theirs
        *(f"{prefix}*" for queue in user.redis_queues for prefix in QueueKeys.of(queue).worker_prefixes),
        *map(keys.worker_record, user.worker_ids),
        *keys.instance_patterns(user.instance_id),
    ]
    own_channels = (keys.CANCEL_CHANNEL, keys.CHANGED_CHANNEL, keys.wake_channel(f"{user.instance_id}:*"))
    lists = (keys.SERVERS, keys.WORKERS, keys.WORKER_RECORDS)
    return [
        "on",
        "resetpass",
        f"#{user.password_sha256}",
        "-@all",
        *(f"+{name}" for name in commands),
        *(f"~{pattern}" for pattern in own_keys),
        "resetchannels",
        *(f"&{channel}" for channel in own_channels),
        "clearselectors",
        # Selectors allow single commands on what workers share: listing themselves, reading revisions and requests,
        # publishing.
        f"({' '.join(f'~{name}' for name in lists)} +evalsha +zadd +zrem)",
        f"(%R~{keys.QUEUE_REVISIONS} +hget)",
        f"(%R~{keys.WORKER_REQUESTS}* +hmget)",
        f"(resetchannels &{keys.ended_channel('*')} &{keys.wake_channel('*')} +publish)",
    ]


async def create_users(broker: AnyBroker, users: Sequence[RedisUser], *, target: RedisTarget) -> None:
    """Create users on every server that holds keys, or extend existing ones.

    Maintenance creates them later on a cluster node that is unavailable now. Raise BrokerRefused or
    BrokerCommandRefused if the server's own Redis user lacks the permission, and BrokerUnavailable if no server can be
    reached.
    """
    await _run_on_nodes(broker, [_set_user(user, target=target) for user in users])


async def set_users(
    broker: AnyBroker, node: str, users: Sequence[RedisUser], *, target: RedisTarget, is_narrowing: bool = False
) -> None:
    """Create or extend users on one server; with `is_narrowing` take away their other keys.

    Their connections stay open. Raise the errors of `create_users`.
    """
    if users:
        commands = (_set_user(user, target=target, is_narrowing=is_narrowing) for user in users)
        await broker.send_to(node, Request(tuple(commands), list))


async def delete_users(broker: AnyBroker, names: Iterable[str]) -> None:
    """Delete users from every server that holds keys, which closes their connections. Names of other users are ignored.

    Raise the errors of `create_users`.
    """
    worker_users = [name for name in names if is_worker_user(name)]
    if worker_users:
        await _run_on_nodes(broker, [command("ACL", "DELUSER", *worker_users, key=None)])


async def list_users(broker: AnyBroker) -> dict[str, frozenset[str]]:
    """Return the names of workers' users on each server that can be reached. Raise the errors of `create_users`."""
    replies = await _run_on_nodes(broker, [command("ACL", "USERS", key=None)])
    return {node: frozenset(filter(is_worker_user, map(_text, names))) for node, (names,) in replies.items()}


async def _run_on_nodes(broker: AnyBroker, commands: Sequence[Command]) -> dict[str, list[Reply]]:
    """Run commands on every server that holds keys; return the replies of those that can be reached."""
    # To set or to delete a user twice changes nothing.
    request: Request[list[Reply]] = Request(tuple(commands), list, is_repeatable=True)
    nodes = await broker.nodes()
    outcomes = await asyncio.gather(*(broker.send_to(node, request) for node in nodes), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in errors:
        if isinstance(error, BrokerRefused) or not isinstance(error, BrokerUnavailable):
            raise error
    if errors and len(errors) == len(nodes):
        raise errors[0]
    return {node: list(found) for node, found in zip(nodes, outcomes, strict=True) if isinstance(found, list)}


async def store_user(broker: AnyBroker, stored: StoredUser, *, instance_id: str, owner: str) -> None:
    """Store a registration, in place of an earlier one.

    Raise WorkerIdTaken if the worker process registered with another owner's key.
    """
    call = script("store_redis_user")(
        users=keys.REDIS_USERS,
        instances=keys.INSTANCES,
        field=stored.field,
        content=stored.content,
        instance=instance_id,
        owner=owner,
        now_ns=broker.now_ns(),
    )
    if not (await broker.send(Request((call,), lambda replies: bool(replies[0]), is_repeatable=True))):
        raise WorkerIdTaken(
            f"The instance_id {instance_id} belongs to a process that registered with another API key: "
            "use another UUID for each process."
        )


def count_stored_users() -> Request[int]:
    return Request((command("HLEN", keys.REDIS_USERS, key=keys.REDIS_USERS),), lambda replies: int(replies[0]))


def read_users() -> Request[list[StoredUser]]:
    """Return all stored registrations. Not for a request path: the result grows with the number of workers."""
    return Request((command("HGETALL", keys.REDIS_USERS, key=keys.REDIS_USERS),), _parse)


async def find_users(broker: AnyBroker, prefix: str) -> list[StoredUser]:
    """Return the stored registrations of users whose names have a prefix, in steps of some hundred."""
    found: dict[str, StoredUser] = {}
    cursor = b"0"
    while True:
        scan = command(
            *("HSCAN", keys.REDIS_USERS, cursor, "MATCH", f"{prefix}*", "COUNT", _SCAN_COUNT), key=keys.REDIS_USERS
        )
        cursor, users = await broker.send(Request((scan,), lambda replies: (replies[0][0], _parse(replies[0][1:]))))
        # By field: HSCAN may return one more than once.
        found |= {user.field: user for user in users}
        if cursor == b"0":
            return list(found.values())


def read_instances() -> Request[list[StoredUser]]:
    """Return all stored worker processes. Not for a request path, as `read_users`."""
    return Request((command("HGETALL", keys.INSTANCES, key=keys.INSTANCES),), _parse)


def remove_instance(instance_id: str) -> Request[None]:
    forget = command("HDEL", keys.INSTANCES, instance_id, key=keys.INSTANCES)
    return Request((forget,), lambda _: None, is_repeatable=True)


def remove_stored_users(stored: Iterable[StoredUser]) -> Request[None]:
    """Remove stored registrations, but not those that were stored again since they were read."""
    return _remove_fields(keys.REDIS_USERS, stored)


def remove_instances(stored: Iterable[StoredUser]) -> Request[None]:
    """Remove stored worker processes, but not those that have registered again since they were read."""
    return _remove_fields(keys.INSTANCES, stored)


def _remove_fields(key: str, stored: Iterable[StoredUser]) -> Request[None]:
    parts: list[Value] = [part for user in stored for part in (user.field, user.content)]
    call = script("delete_redis_users")(stored=key, fields_and_contents=parts)
    return Request((call,), lambda _: None, is_repeatable=True)


def read_heartbeat_times(worker_ids: Sequence[str], *, now_s: int) -> Request[list[int | None]]:
    """Return for each worker None while it reports. Otherwise return when it deregistered, in Unix us, or 0 if it fell
    silent.

    A record of another type does not count: a worker could keep its user by it, or fail the request for all others.
    """
    names = map(keys.worker_record, worker_ids)
    commands = tuple(command("GETRANGE", name, 0, _RECORD_HEAD_BYTES - 1, key=name) for name in names)
    listed = are_workers_listed(worker_ids, now_s=now_s)

    def parse(replies: Sequence[Reply]) -> list[int | None]:
        # The record of a worker that fell silent stays for a day.
        pairs = zip(replies[:-1], listed.parse(replies[-1:]), strict=True)
        return [_end_us(head, is_listed=is_listed) for head, is_listed in pairs]

    return Request((*commands, *listed.commands), parse, tolerates_wrong_types=True)


def _end_us(head: bytes | None, *, is_listed: bool) -> int | None:
    if match := _END.fullmatch(head or b""):
        return int(match[1]) * 1_000_000 + int(match[2])
    return None if head and is_listed else 0


def _set_user(user: RedisUser, *, target: RedisTarget, is_narrowing: bool = False) -> Command:
    before = ("resetkeys",) if is_narrowing else ()
    return command("ACL", "SETUSER", user.name, *before, *acl_rules(user, target=target), key=None)


def _parse(replies: Sequence[Reply]) -> list[StoredUser]:
    """Parse an HGETALL reply, a map or a flat list."""
    reply = replies[0]
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return [StoredUser(field=_text(field), content=content) for field, content in pairs]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
