"""Sends commands to Redis in one round trip (a node) and never repeats one on its own.

redis-py's clients repeat a command whose reply was lost, and a verb would run twice. The links here take connections
from a client's pool and speak on them directly; what a lost reply means is decided by the verb's caller.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from hiredis import pack_command
from redis import Redis, RedisCluster
from redis import exceptions as redis_errors
from redis.cluster import ClusterNode
from redis.connection import Connection, ConnectionPool

from runqy.broker.scripts import Command
from runqy.circuit_breaker import Attempt, BackgroundCall, CircuitBreaker, CircuitOpen
from runqy.errors import BrokerCommandRefused, BrokerFull, BrokerRefused, BrokerUnavailable, RunqyError

Reply = Any
"""What Redis answers to a command: bytes, int, None, a list of these, or a ResponseError."""

_AWAY = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.BusyLoadingError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.ReadOnlyError,
    redis_errors.RedisClusterException,
    redis_errors.TryAgainError,
    OSError,
)
_NO_RESPONSE = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)
REFRESH_WAIT_S = 1.0
"""How long a request may wait, from its beginning, for a new topology after a node did not respond."""
FRESH_S = 1.0
"""For how long after its last use a connection is taken to be alive."""

_NOT_NOW = ("BUSY ", "MISCONF ", "NOREPLICAS ")
"""How errors begin that pass: a script runs for long, the disk is full, or replicas are missing."""

_REFUSED = (redis_errors.AuthenticationError, redis_errors.NoPermissionError)
_KNOWN = (*_AWAY, redis_errors.ResponseError)
"""What redis-py raises about a connection or a command."""


class Link(Protocol):
    """A way to Redis: one server, a master found by Sentinel, or a cluster."""

    is_cluster: bool

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands in order and return their replies; an error reply stands in its place in the list.

        Raises BrokerUnavailable when Redis cannot be reached or a reply was lost: any of the commands may have run.
        """

    def nodes(self) -> "Mapping[str, Link]":
        """Return the link to every server that holds keys, by its name. Raises BrokerUnavailable."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise redis-py's errors about the connection as ours."""
    try:
        yield
    except CircuitOpen as error:
        raise BrokerUnavailable("Redis cannot be reached: it did not respond a moment ago.") from error
    except _KNOWN as error:
        raise translated(error) from error


def translated(error: Exception) -> RunqyError:
    """Return what an error of redis-py's is here."""
    if isinstance(error, _REFUSED):
        return BrokerRefused(f"Redis refuses these credentials: {error}")
    if isinstance(error, redis_errors.OutOfMemoryError):
        return BrokerFull()
    if isinstance(error, _AWAY):
        return BrokerUnavailable(f"Redis cannot be reached: {error}")
    if str(error).startswith(_NOT_NOW):
        return BrokerUnavailable(f"Redis does not do it now: {error}")
    return BrokerCommandRefused(f"Redis refuses a command: {error}")


def checked(reply: Reply) -> Reply:
    """Return a reply, or raise what an error reply means."""
    if isinstance(reply, RunqyError):
        raise reply
    if isinstance(reply, Exception):
        if not isinstance(reply, _KNOWN):
            raise reply
        raise translated(reply) from reply
    return reply


def is_wrong_type(reply: Reply) -> bool:
    """Return whether a command, or one inside a script, met a key of another type."""
    return isinstance(reply, redis_errors.ResponseError) and str(reply).startswith("WRONGTYPE")


class _Conversation:
    """The commands of one node of a cluster, and the connection that they go by."""

    def __init__(self, attempt: Attempt, share: Sequence[int]) -> None:
        self._attempt = attempt
        self._share = share
        self._pool: ConnectionPool | None = None
        self._connection: Connection | None = None

    def send(self, pool: ConnectionPool, commands: Sequence[Command]) -> None:
        """Send the commands."""
        try:
            self._pool, self._connection = pool, pool.get_connection()
            self._connection.send_packed_command(_packed(commands))
        except BaseException as error:
            self._attempt.end(error)
            raise

    def read_into(self, replies: list[Reply]) -> None:
        """Read the replies, and put each where its command is."""
        assert self._connection is not None  # noqa: S101 (only what was sent is read)
        try:
            for index in self._share:
                replies[index] = _read(self._connection)
        except BaseException as error:
            self._attempt.end(error)
            raise
        self._attempt.end()

    def disconnect(self) -> None:
        """Close the connection: what is left unread must not become the next caller's reply."""
        if self._connection is not None:
            self._connection.disconnect()

    def release(self) -> None:
        """Give the connection back."""
        self._attempt.abandon()
        if self._pool is not None and self._connection is not None:
            self._pool.release(self._connection)


class SingleLink:
    """One Redis server, or the master that Sentinel names."""

    is_cluster = False

    def __init__(self, client: "Redis") -> None:
        self._pool: ConnectionPool = client.connection_pool
        self._spare: deque[tuple[Connection, float]] = deque()
        self._pid = os.getpid()
        self._breaker = CircuitBreaker(_NO_RESPONSE)

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands in one round trip. See Link."""
        with translated_errors():
            replies = self._breaker.call(lambda: self._converse(commands))
            _repeat_unknown_scripts(commands, replies, self._converse)
            return replies

    def nodes(self) -> "Mapping[str, Link]":
        """Return the link to every server that holds keys, by its name."""
        return {"": self}

    def is_to(self, client: "Redis") -> bool:
        """Tell whether this is the link to the server that a client speaks to."""
        return self._pool is client.connection_pool

    def _converse(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands on one connection and read their replies."""
        connection = self._take_connection()
        try:
            connection.send_packed_command(_packed(commands))
            replies = [_read(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # what is left unread must not become the next caller's reply
            self._pool.release(connection)
            raise
        self._spare.append((connection, time.monotonic()))
        return replies

    def _take_connection(self) -> Connection:
        """Return a connection: the one that was used last, or one from the pool, which looks whether it still stands.

        That look is a system call, so what was used a moment ago goes without.
        """
        if self._pid != os.getpid():
            self._spare, self._pid = deque(), os.getpid()  # the other process speaks on those
        try:
            connection, used_at_s = self._spare.pop()
        except IndexError:
            return self._pool.get_connection()
        if time.monotonic() - used_at_s < FRESH_S:
            return connection
        self._pool.release(connection)
        return self._pool.get_connection()


class ClusterLink:
    """A Redis Cluster: commands are grouped by node, all nodes are written to before the first is read.

    Each node has a circuit breaker, so that one that hangs delays only what it serves.
    """

    is_cluster = True

    def __init__(self, client: "RedisCluster") -> None:
        self._client = client
        self._nodes: dict[str, SingleLink] = {}
        self._breakers: dict[str, CircuitBreaker] = {}
        self._refresh = BackgroundCall(client.nodes_manager.initialize, _KNOWN)

    def nodes(self) -> Mapping[str, Link]:
        """Return the link to every master, by its name. They are kept: each keeps connections."""
        with translated_errors():
            clients = {node.name: self._client.get_redis_connection(node) for node in self._client.get_primaries()}
        kept = {name: link for name, link in self._nodes.items() if name in clients and link.is_to(clients[name])}
        self._nodes = {name: kept.get(name) or SingleLink(client) for name, client in clients.items()}
        return self._nodes

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands in one round trip a node. See Link."""
        with translated_errors():
            replies = self._converse(commands)
            _repeat_unknown_scripts(commands, replies, self._converse)
            for index, reply in enumerate(replies):
                if isinstance(reply, (redis_errors.MovedError, redis_errors.AskError)):
                    replies[index] = self._follow(commands[index])
            return replies

    def _converse(self, commands: Sequence[Command]) -> list[Reply]:
        """Send every node its share, then read all replies back into the order of the commands."""
        began_s = time.monotonic()
        replies: list[Reply] = [None] * len(commands)
        conversations: list[_Conversation] = []
        try:
            for node, share in self._shares(commands):
                conversation = _Conversation(self._begin(node), share)
                conversations.append(conversation)
                conversation.send(self._client.get_redis_connection(node).connection_pool, [commands[i] for i in share])
            for conversation in conversations:
                conversation.read_into(replies)
        except BaseException as error:
            for conversation in conversations:
                conversation.disconnect()
            if isinstance(error, _NO_RESPONSE):
                self._refresh.run(wait_s=max(REFRESH_WAIT_S + began_s - time.monotonic(), 0))
            raise
        finally:
            for conversation in conversations:
                conversation.release()
        return replies

    def _shares(self, commands: Sequence[Command]) -> "list[tuple[ClusterNode, list[int]]]":
        """Return each node with the places of its commands. Raises ClusterDownError."""
        shares: dict[str, tuple[ClusterNode, list[int]]] = {}
        for index, command in enumerate(commands):
            node = (
                self._client.get_default_node() if command.key is None else self._client.get_node_from_key(command.key)
            )
            if node is None:
                raise redis_errors.ClusterDownError("no node serves this slot")
            shares.setdefault(node.name, (node, []))[1].append(index)
        return list(shares.values())

    def _begin(self, node: "ClusterNode") -> Attempt:
        """Begin to converse with a node. Raises CircuitOpen."""
        return self._breakers.setdefault(node.name, CircuitBreaker(_NO_RESPONSE)).begin()

    def _follow(self, command: Command) -> Reply:
        """Let the client follow a redirection, which happens when slots move."""
        try:
            if command.script is not None:
                return self._client.execute_command("EVAL", command.script.source, *command.args[2:])
            return self._client.execute_command(*command.args)
        except redis_errors.ResponseError as error:
            return error


def _packed(commands: Sequence[Command]) -> list[bytes]:
    """Return commands as they are sent. redis-py's own way looks at each argument in Python, three times as slow."""
    return [b"".join([pack_command(command.args) for command in commands])]  # type: ignore[arg-type]


def _read(connection: Connection) -> Reply:
    """Read one reply; an error reply is returned, not raised."""
    try:
        return connection.read_response()
    except _REFUSED:
        raise
    except redis_errors.ResponseError as error:
        return error


def _repeat_unknown_scripts(commands: Sequence[Command], replies: list[Reply], converse: "_Converse") -> None:
    """Load the scripts that Redis did not know, run their calls once more and put the replies in place."""
    unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)]
    if not unknown:
        return
    repeat: list[Command] = []
    for index in unknown:
        script = commands[index].script
        assert script is not None  # noqa: S101 (only EVALSHA answers NOSCRIPT)
        repeat.append(Command(args=("SCRIPT", "LOAD", script.source), key=commands[index].key))
        repeat.append(commands[index])
    for index, reply in zip(unknown, converse(repeat)[1::2], strict=True):
        replies[index] = reply


class _Converse(Protocol):
    def __call__(self, commands: Sequence[Command], /) -> list[Reply]: ...
