"""Send commands to Redis in one round trip (per node) without repeating them.

redis-py's clients repeat a command whose reply was lost, which would run a script twice. These connections use a
client's connection pool directly; the caller decides how to handle a lost reply.
"""

import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from redis import Redis, RedisCluster
from redis import exceptions as redis_errors
from redis.cluster import ClusterNode
from redis.connection import Connection, ConnectionPool

from runqy.broker.connection.large_requests import BlockingTurns
from runqy.broker.constants import BULK_BYTES, LARGE_BYTES
from runqy.broker.replies import REDIS_ERRORS, REFUSED_ERRORS, Reply, ReplyLost, translate_error, translate_errors
from runqy.broker.scripts import Command, Data, pack_pieces
from runqy.concurrency.circuit_breaker import Attempt, BackgroundCall, CircuitBreaker, CircuitOpen

_NO_RESPONSE = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)
_FAILURES = (*_NO_RESPONSE, ReplyLost)
_ERROR_REPLIES = (redis_errors.AuthenticationError, redis_errors.BusyLoadingError)
"""Replies of Redis, although redis-py derives them from ConnectionError."""
REFRESH_WAIT_S = 1.0
"""How long after its start a request may still wait for a topology refresh, when a node did not respond."""
SKIP_CHECK_S = 1.0
"""A connection that was used within this time is not checked before it is used again."""


class RedisConnection(Protocol):
    """A connection to Redis: one server, a master found by Sentinel, or a cluster."""

    is_cluster: bool

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands in order and return their replies; error replies are returned, not raised.

        Raise BrokerUnavailable when Redis cannot be reached. After its subclass ReplyLost, any of the commands may
        have run.
        """

    def nodes(self) -> "Mapping[str, RedisConnection]":
        """Return a connection to each server that holds keys, by name. Raise BrokerUnavailable."""


class _NodeExchange:
    """The commands for one node of a cluster and the connection that carries them."""

    def __init__(self, attempt: Attempt, indexes: Sequence[int], turns: BlockingTurns) -> None:
        self._attempt = attempt
        self._indexes = indexes
        self._turns = turns
        self._pool: ConnectionPool | None = None
        self._connection: Connection | None = None

    def send(self, pool: ConnectionPool, pieces: Sequence[Data]) -> None:
        try:
            self._pool, self._connection = pool, pool.get_connection()
            with _losing_replies():
                self._connection.send_packed_command(pieces)
        except BaseException as error:
            self._attempt.end(error)
            raise

    def read_into(self, replies: list[Reply]) -> None:
        """Read the replies and store each at the index of its command."""
        assert self._connection is not None  # noqa: S101 (only what was sent is read)
        try:
            with _losing_replies():
                for index in self._indexes:
                    replies[index] = _read_reply(self._connection, self._turns)
        except BaseException as error:
            self._attempt.end(error)
            raise
        self._attempt.end()

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()

    def release(self) -> None:
        self._attempt.abandon()
        if self._pool is not None and self._connection is not None:
            self._pool.release(self._connection)


class StandaloneConnection:
    """One Redis server, or the master that Sentinel reports."""

    is_cluster = False

    def __init__(self, client: "Redis") -> None:
        self._pool: ConnectionPool = client.connection_pool
        self._idle: deque[tuple[Connection, float]] = deque()
        self._pid = os.getpid()
        self._breakers = _make_breakers()
        self._turns = BlockingTurns()

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        pieces = _pack(commands)
        size = _size(pieces) + sum(command.reply_bytes for command in commands)
        # Not by `translate_errors`, which takes a microsecond: every request that blocks passes here.
        try:
            if size > LARGE_BYTES:
                with self._turns.take(size):
                    return self._execute(commands, pieces, is_large=True)
            return self._execute(commands, pieces, is_large=size > BULK_BYTES)
        except (CircuitOpen, *REDIS_ERRORS) as error:
            raise translate_error(error) from error

    def nodes(self) -> "Mapping[str, RedisConnection]":
        return {"": self}

    def uses_client(self, client: "Redis") -> bool:
        return self._pool is client.connection_pool

    def _execute(self, commands: Sequence[Command], pieces: Sequence[Data], *, is_large: bool) -> list[Reply]:
        replies = self._breakers[is_large].call(lambda: self._exchange(pieces, len(commands)))
        _repeat_unknown_scripts(commands, replies, lambda repeated: self._exchange(_pack(repeated), len(repeated)))
        return replies

    def _exchange(self, pieces: Sequence[Data], count: int) -> list[Reply]:
        connection = self._take_connection()
        try:
            with _losing_replies():
                connection.send_packed_command(pieces)
                replies = [_read_reply(connection, self._turns) for _ in range(count)]
        except BaseException:
            connection.disconnect()  # unread replies must not reach the next caller
            self._pool.release(connection)
            raise
        self._idle.append((connection, time.monotonic()))
        return replies

    def _take_connection(self) -> Connection:
        """Return the most recently used connection, or one from the pool."""
        if self._pid != os.getpid():
            self._idle, self._pid = deque(), os.getpid()  # forked: the parent process uses the connections
        try:
            connection, used_at_s = self._idle.pop()
        except IndexError:
            return self._pool.get_connection()
        # The pool checks that a connection is still open. That is a system call, which busy processes save.
        if time.monotonic() - used_at_s < SKIP_CHECK_S:
            return connection
        self._pool.release(connection)
        return self._pool.get_connection()


class ClusterConnection:
    """A Redis Cluster. Commands are grouped by node; all nodes are written to before the first reply is read.

    Each node has its circuit breakers, so that an unresponsive node delays only requests for its own slots.
    """

    is_cluster = True

    def __init__(self, client: "RedisCluster") -> None:
        self._client = client
        self._nodes: dict[str, StandaloneConnection] = {}
        self._breakers: dict[str, dict[bool, CircuitBreaker]] = {}
        self._turns: defaultdict[str, BlockingTurns] = defaultdict(BlockingTurns)
        self._refresh = BackgroundCall(client.nodes_manager.initialize, REDIS_ERRORS)

    def nodes(self) -> Mapping[str, RedisConnection]:
        with translate_errors():
            clients = {node.name: self._client.get_redis_connection(node) for node in self._client.get_primaries()}
        # Keep the objects of known nodes: they hold open connections.
        kept = {
            name: connection
            for name, connection in self._nodes.items()
            if name in clients and connection.uses_client(clients[name])
        }
        self._nodes = {name: kept.get(name) or StandaloneConnection(client) for name, client in clients.items()}
        return self._nodes

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        with translate_errors():
            replies = self._exchange(commands)
            _repeat_unknown_scripts(commands, replies, self._exchange)
            for index, reply in enumerate(replies):
                if isinstance(reply, (redis_errors.MovedError, redis_errors.AskError)):
                    replies[index] = self._follow(commands[index])
            return replies

    def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send each node its commands, then collect all replies in the order of the commands."""
        began_s = time.monotonic()
        replies: list[Reply] = [None] * len(commands)
        exchanges: list[_NodeExchange] = []
        turns_taken = ExitStack()
        try:
            for node, indexes in self._group_by_node(commands):
                pieces = _pack([commands[i] for i in indexes])
                turns = self._turns[node.name]
                size = _size(pieces) + sum(commands[i].reply_bytes for i in indexes)
                if size > LARGE_BYTES:
                    turns_taken.enter_context(turns.take(size))
                attempt = self._breakers.setdefault(node.name, _make_breakers())[size > BULK_BYTES].begin()
                exchange = _NodeExchange(attempt, indexes, turns)
                exchanges.append(exchange)
                exchange.send(self._client.get_redis_connection(node).connection_pool, pieces)
            for exchange in exchanges:
                exchange.read_into(replies)
        except BaseException as error:
            for exchange in exchanges:
                exchange.disconnect()  # unread replies must not reach the next caller
            if isinstance(error, _FAILURES):
                self._refresh.run(wait_s=max(REFRESH_WAIT_S + began_s - time.monotonic(), 0))
            raise
        finally:
            for exchange in exchanges:
                exchange.release()
            turns_taken.close()
        return replies

    def _group_by_node(self, commands: Sequence[Command]) -> "list[tuple[ClusterNode, list[int]]]":
        """Return each node with the indexes of its commands. Raise ClusterDownError."""
        groups: dict[str, tuple[ClusterNode, list[int]]] = {}
        for index, command in enumerate(commands):
            node = (
                self._client.get_default_node() if command.key is None else self._client.get_node_from_key(command.key)
            )
            if node is None:
                raise redis_errors.ClusterDownError("no node serves this slot")
            groups.setdefault(node.name, (node, []))[1].append(index)
        return list(groups.values())

    def _follow(self, command: Command) -> Reply:
        """Let redis-py follow a redirection, which occurs while slots move."""
        try:
            if command.script is not None:
                # Not EVALSHA: the other node may not know the script.
                return self._client.execute_command("EVAL", command.script.source, *command.args[2:])
            return self._client.execute_command(*command.args)
        except redis_errors.ResponseError as error:
            return error


def _pack(commands: Sequence[Command]) -> list[Data]:
    # redis-py's own encoder looks at each argument in Python and is three times slower.
    pieces = [piece for command in commands for piece in pack_pieces(command.args)]
    # A large request stays in pieces: the socket's time-out holds for each, so that it may take longer to send.
    return pieces if _size(pieces) > BULK_BYTES else [b"".join(pieces)]


def _size(pieces: Sequence[Data]) -> int:
    return sum(map(len, pieces))


def _make_breakers() -> dict[bool, CircuitBreaker]:
    """Return those of small and of large requests. The time-out of a large one says nothing about small ones."""
    return {is_large: CircuitBreaker(_FAILURES) for is_large in (False, True)}


@contextmanager
def _losing_replies() -> Iterator[None]:
    """Raise ReplyLost if the connection fails in the block that sends commands: they may have run."""
    try:
        yield
    except _NO_RESPONSE as error:
        if isinstance(error, _ERROR_REPLIES):
            raise
        raise ReplyLost(reason=str(error)) from error


def _read_reply(connection: Connection, turns: BlockingTurns) -> Reply:
    try:
        if extra_s := turns.traffic.extra_s:
            return connection.read_response(timeout=(connection.socket_timeout or 0) + extra_s)
        return connection.read_response()
    except REFUSED_ERRORS:
        raise
    except redis_errors.ResponseError as error:
        return error  # of one command: the replies of the others follow


def _repeat_unknown_scripts(commands: Sequence[Command], replies: list[Reply], exchange: "_Exchange") -> None:
    unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)]
    if not unknown:
        return
    repeat: list[Command] = []
    for index in unknown:
        script = commands[index].script
        assert script is not None  # noqa: S101 (only EVALSHA returns NOSCRIPT)
        repeat.append(Command(args=("SCRIPT", "LOAD", script.source), key=commands[index].key))
        repeat.append(commands[index])
    for index, reply in zip(unknown, exchange(repeat)[1::2], strict=True):
        replies[index] = reply


class _Exchange(Protocol):
    def __call__(self, commands: Sequence[Command], /) -> list[Reply]: ...
