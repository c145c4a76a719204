"""Creates and deletes the Redis users of workers, each limited to its own queues, and stores who was given one.

Redis neither replicates ACLs nor, by default, keeps them over a restart. So users are created on every server that
holds keys, and created again from what is stored.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.connection import RedisTarget
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply, checked
from runqy.broker.operation import Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.errors import BrokerRefused, BrokerUnavailable

PREFIX = "runqy-w-"
"""What the names of these users begin with. Users with other names are never touched."""

COMMANDS = (
    *("evalsha", "script|load", "ping", "time", "subscribe", "unsubscribe"),
    *("exists", "del", "unlink", "expire", "expireat", "pexpireat"),
    *("get", "set", "incr", "incrby"),
    *("hget", "hmget", "hset", "hdel", "hexists", "hincrby"),
    *("llen", "lrange", "lpush", "rpush", "rpop", "lrem"),
    *("zadd", "zrem", "zscore", "zcard", "zrange", "zpopmax", "zremrangebyscore"),
)
"""What a worker may do with its own keys. Redis checks the commands inside scripts too."""
_MODE_COMMANDS: Mapping[str, tuple[str, ...]] = {"sentinel": ("role",), "cluster": ("cluster|slots", "asking")}
_RECORD_HEAD_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUser:
    """A Redis user: the registrations of one worker process that share it."""

    name: str
    password_sha256: str
    instance_id: str
    worker_ids: tuple[str, ...]
    redis_queues: tuple[str, ...]

    def extends(self, other: RedisUser) -> bool:
        """Return whether everything that the other may do, this one may do too."""
        return (
            (self.password_sha256, self.instance_id) == (other.password_sha256, other.instance_id)
            and {*self.worker_ids} >= {*other.worker_ids}
            and {*self.redis_queues} >= {*other.redis_queues}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUser:
    """What is stored of one registration."""

    field: str
    content: bytes


def new_wake_token(instance_id: str) -> str:
    """Return a token of a wake-up channel to which a worker's Redis user may subscribe."""
    return f"{instance_id}:{secrets.token_hex(6)}"


def new_server_id(instance_id: str) -> str:
    """Return an id for asynq's heartbeats under which a worker's Redis user may write them."""
    return f"{instance_id}-{secrets.token_hex(6)}"


def is_worker_user(name: str) -> bool:
    """Return whether a name is one of those that the server gives to Redis users of workers."""
    return name.startswith(PREFIX)


def acl_rules(user: RedisUser, *, target: RedisTarget) -> list[str]:
    """Return the rules of ACL SETUSER; `target` is how workers enter Redis.

    They add keys to those that the user has, so that registrations that run at the same time keep each other's.
    """
    commands = (*COMMANDS, *_MODE_COMMANDS.get(target.mode, ()), *(("select",) if target.db else ()))
    own_keys = [  # those of queues first: Redis compares a key with one pattern after another
        *(f"{prefix}*" for queue in user.redis_queues for prefix in QueueKeys(queue).prefixes),
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
        f"({' '.join(f'~{name}' for name in lists)} +evalsha +zadd +zrem)",
        f"(%R~{keys.QUEUE_REVISIONS} +hget)",
        f"(resetchannels &{keys.ended_channel('*')} &{keys.wake_channel('*')} +publish)",
    ]


def create_users(broker: Broker, users: Sequence[RedisUser], *, target: RedisTarget) -> None:
    """Create users on every server that holds keys, or let those that exist do more as well.

    A server of a cluster that is away gets them from maintenance. Raises BrokerRefused or BrokerCommandRefused where
    our own user may not do this, and BrokerUnavailable when no server can be reached.
    """
    _run_on_nodes(broker, [_set_user(user, target=target) for user in users])


def set_users(
    broker: Broker, node: str, users: Sequence[RedisUser], *, target: RedisTarget, is_narrowing: bool = False
) -> None:
    """Create users on one server, or let those that exist do more; with `is_narrowing` they may do no more than this.

    Their connections stay. Raises as `create_users`.
    """
    link = broker.link.nodes().get(node)
    if users and link is not None:
        for reply in link.execute([_set_user(user, target=target, is_narrowing=is_narrowing) for user in users]):
            checked(reply)


def delete_users(broker: Broker, names: Iterable[str]) -> None:
    """Delete users from every server that holds keys, which closes their connections. Raises as `create_users`."""
    worker_users = [name for name in names if is_worker_user(name)]
    if worker_users:
        _run_on_nodes(broker, [command("ACL", "DELUSER", *worker_users, key=None)])


def list_users(broker: Broker) -> dict[str, frozenset[str]]:
    """Return the names of workers' users on each server that holds keys and is there. Raises as `create_users`."""
    replies = _run_on_nodes(broker, [command("ACL", "USERS", key=None)])
    return {node: frozenset(filter(is_worker_user, map(_text, names))) for node, (names,) in replies.items()}


def _run_on_nodes(broker: Broker, commands: Sequence[Command]) -> dict[str, list[Reply]]:
    """Run commands on every server that holds keys; return the replies of those that can be reached."""
    replies: dict[str, list[Reply]] = {}
    failures: list[BrokerUnavailable] = []
    for node, link in broker.link.nodes().items():
        try:
            replies[node] = [checked(reply) for reply in link.execute(commands)]
        except BrokerRefused:
            raise
        except BrokerUnavailable as error:
            failures.append(error)
    if failures and not replies:
        raise failures[0]
    return replies


def store_user(stored: StoredUser) -> Request[None]:
    """Store a registration's part in a user, in place of what it was before."""
    call = script("store_redis_user")(users=keys.REDIS_USERS, field=stored.field, content=stored.content)
    return Request((call,), lambda _: None, is_repeatable=True)


def read_users() -> Request[list[StoredUser]]:
    """Return all that is stored. Not for a request path: it grows with the number of workers."""
    return Request((command("HGETALL", keys.REDIS_USERS, key=keys.REDIS_USERS),), _parse, is_repeatable=True)


def drop_users(stored: Iterable[StoredUser]) -> Request[None]:
    """Drop what is stored of registrations, except what was stored anew since it was read."""
    parts: list[Value] = [part for user in stored for part in (user.field, user.content)]
    call = script("drop_redis_users")(users=keys.REDIS_USERS, fields_and_contents=parts)
    return Request((call,), lambda _: None, is_repeatable=True)


def read_lives(worker_ids: Sequence[str]) -> Request[list[int | None]]:
    """Return for each worker None while it reports, else the Unix s at which it deregistered, 0: it went silent.

    A record of another type is no report: a worker must not keep its user by it, nor hinder the care for others.
    """
    names = map(keys.worker_record, worker_ids)
    commands = tuple(command("GETRANGE", name, 0, _RECORD_HEAD_BYTES - 1, key=name) for name in names)
    return Request(
        commands, lambda replies: [_end_s(reply) for reply in replies], is_repeatable=True, tolerates_wrong_types=True
    )


def _end_s(head: bytes | None) -> int | None:
    """Read the beginning of a worker's record."""
    if not head:
        return 0
    return int(head) if head.isdigit() else None


def _set_user(user: RedisUser, *, target: RedisTarget, is_narrowing: bool = False) -> Command:
    """Return the command that sets a user's rules."""
    before = ("resetkeys",) if is_narrowing else ()
    return command("ACL", "SETUSER", user.name, *before, *acl_rules(user, target=target), key=None)


def _parse(replies: Sequence[Reply]) -> list[StoredUser]:
    """Read a HGETALL, which arrives as a map or as a flat list."""
    reply = replies[0]
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return [StoredUser(field=_text(field), content=content) for field, content in pairs]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
