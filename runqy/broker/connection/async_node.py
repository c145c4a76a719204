"""One server on an event loop: its persistent connections and the loading of scripts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog
from redis import exceptions as redis_errors

from runqy.broker.connection.async_connection import AsyncConnection, ConnectionLost, LargeTraffic, as_unsent
from runqy.broker.constants import BULK_BYTES, LARGE_BYTES
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command, Data, Script, pack, pack_pieces
from runqy.errors import BrokerBusy, BrokerUnavailable, RunqyError

CONNECT_WAIT_S = 1.0
"""How long requests wait for a connection, from the start of the attempt to connect."""
_WAIT_STEPS = 4
_CHANCE = random.SystemRandom()
"""A generator of our own: what the loop draws in the background takes nothing from a sequence of the process's."""
RECONNECT_MAX_S = 0.6
"""The longest time from the start of one attempt to the next: a Redis that is back is used within a second."""

_log = structlog.get_logger(__name__)


def reconnect_delay_s(failures: int) -> float:
    """Return the delay before the next attempt to connect; it grows with each failure up to a limit."""
    delay_s: float = min(0.05 * 2 ** min(failures, 10), RECONNECT_MAX_S)
    return delay_s * _CHANCE.uniform(0.5, 1)


class PersistentConnection:
    """A connection that is opened on first use, and opened again in the background after it is lost."""

    def __init__(
        self,
        open_connection: Callable[[], Coroutine[Any, Any, AsyncConnection]],
        *,
        max_waiting: int,
        large_traffic: LargeTraffic,
        on_open: Callable[[], None],
    ) -> None:
        """`on_open` is called whenever the connection has been opened."""
        self._open_connection = open_connection
        self._on_open = on_open
        self._max_waiting = max_waiting
        self._large_traffic = large_traffic
        # None while disconnected; use `wait`.
        self.connection: AsyncConnection | None = None
        self._task: asyncio.Task[None] | None = None
        # Done when the attempt that requests wait for has ended or has exceeded the time limit.
        self._attempt: asyncio.Future[None] | None = None
        # Set while it is disconnected; done when the next try need not wait.
        self._retry: asyncio.Future[None] | None = None
        # Why the last attempt failed. While it is set, requests fail immediately.
        self._error: RunqyError | None = None
        self._opened_s = 0.0
        self._waiting = 0
        self._is_closed = False

    async def wait(self) -> AsyncConnection:
        """Return the connection once it is open. Raise BrokerUnavailable."""
        self._start()
        if self._error is None and self._attempt is not None:
            if self._waiting >= self._max_waiting:
                raise BrokerBusy
            self._waiting += 1
            try:
                # Not awaited directly: a request that is cancelled would cancel the attempt for all others.
                await asyncio.wait([self._attempt])
            finally:
                self._waiting -= 1
        if self.connection is not None:
            return self.connection
        if self._error is not None:
            raise type(self._error)(self._error.detail, reason=self._error.reason)
        raise ConnectionLost(reason="the connection was lost immediately")

    def retry(self) -> None:
        """Try to connect at once if it is disconnected, and let requests wait for that: the server is back."""
        if self._retry is not None and not self._retry.done():
            self._retry.set_result(None)
            if self._error is not None:
                self._error = None
                self._begin_attempt()

    def retire(self) -> None:
        """Open another connection for new requests, and close this one when all its replies have arrived.

        A connection that has just been opened is kept: the next one would reach the same server.
        """
        connection = self.connection
        if connection is not None and _now_s() - self._opened_s > CONNECT_WAIT_S:
            self.connection = None
            connection.retire()
            self._start()

    def end(self) -> None:
        """Stop permanently once all replies have arrived."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.retire()

    async def close(self) -> None:
        self._is_closed = True
        if self._task is not None:
            task = self._task
            task.cancel()
            await asyncio.wait([task])
        if self.connection is not None:
            self.connection.close("the broker was closed")

    def _start(self) -> None:
        if self._is_closed:
            raise ConnectionLost(reason="the connection was retired")
        if self._task is None:
            self._begin_attempt()
            self._task = asyncio.create_task(self._connect())

    def _begin_attempt(self) -> None:
        """Make requests wait until `_end_attempt`, no longer than `_limit` says."""
        self._attempt = asyncio.get_running_loop().create_future()
        self._limit(self._attempt, 0)

    def _end_attempt(self) -> None:
        if self._attempt is not None and not self._attempt.done():
            self._attempt.set_result(None)

    def _limit(self, attempt: asyncio.Future[None], steps: int) -> None:
        """Make requests wait for an attempt no longer than CONNECT_WAIT_S and what large requests take.

        `steps` of CONNECT_WAIT_S / _WAIT_STEPS are over.

        Several short steps rather than one timer: after the loop was blocked, the connection may exist without having
        been noticed.
        """
        if attempt.done():
            return
        step_s = CONNECT_WAIT_S / _WAIT_STEPS
        if steps < _WAIT_STEPS or (steps - _WAIT_STEPS) * step_s < self._large_traffic.extra_s:
            asyncio.get_running_loop().call_later(step_s, self._limit, attempt, steps + 1)
        else:
            self._error = BrokerUnavailable(reason="connecting takes too long")
            attempt.set_result(None)

    async def _connect(self) -> None:
        """Try to connect until it succeeds. Requests wait only for the first try, and for that of `retry`.

        Tries overlap: a server that was silent may have accepted one, and never reply to it even when it is back.
        """
        failures = 0
        tries: set[asyncio.Task[AsyncConnection]] = set()
        try:
            while self.connection is None:
                began_s = _now_s()
                self._retry = retry = asyncio.get_running_loop().create_future()
                tries.add(asyncio.create_task(self._open_connection()))
                done, tries = await asyncio.wait(tries, timeout=RECONNECT_MAX_S, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    try:
                        self._set_connection(ended.result())
                    except RunqyError as error:
                        self._error = as_unsent(error)
                        failures += 1
                        self._end_attempt()
                        if failures == 1 and self._opened_s:  # else it was never open, and the caller logs its error
                            _log.warning("broker_disconnected", error=str(error))
                if self.connection is None and done:
                    await asyncio.wait([retry], timeout=began_s + reconnect_delay_s(failures) - _now_s())
        finally:
            self._task = self._retry = None
            self._end_attempt()
            for slower in tries:
                slower.cancel()
            for opened in await asyncio.gather(*tries, return_exceptions=True):
                if isinstance(opened, AsyncConnection):
                    opened.close("another attempt was faster")

    def _set_connection(self, connection: AsyncConnection) -> None:
        if self.connection is not None:
            connection.close("another attempt was faster")
        elif connection.is_open:
            self._error, self._opened_s = None, _now_s()
            self.connection = connection
            connection.large_traffic = self._large_traffic
            connection.on_lost = self._connection_lost
            self._on_open()

    def _connection_lost(self, connection: AsyncConnection, reason: str) -> None:
        if self.connection is connection:
            self.connection = None
            if connection.was_silent:  # the next server may be silent too; requests do not wait for it
                self._error = BrokerUnavailable(reason=reason)
            if not self._is_closed:
                self._start()


class AsyncNode:
    """One Redis server: small requests share a connection, bulky ones another; large ones take turns on a third."""

    def __init__(
        self, open_connection: Callable[[], Coroutine[Any, Any, AsyncConnection]], *, max_pending: int, name: str = ""
    ) -> None:
        """`name` distinguishes the masters of a cluster."""
        self.name = name
        self._traffic = LargeTraffic()

        def make() -> PersistentConnection:
            return PersistentConnection(
                open_connection, max_waiting=max_pending, large_traffic=self._traffic, on_open=self._retry_others
            )

        self._small, self._bulk, self._large = self._connections = [make() for _ in range(3)]
        self._large_turn = asyncio.Lock()
        self._max_pending, self._waiting_large = max_pending, 0

    @property
    def is_open(self) -> bool:
        return self._small.connection is not None

    async def execute(self, commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        """Run commands in one round trip and return their replies. Errors are returned, not raised.

        When the server cannot be reached, all replies are BrokerUnavailable: after its subclass ReplyLost, the commands
        may have run.
        """
        try:
            replies = await (await self._send(commands, is_bulky=is_bulky))
        except BrokerUnavailable as error:
            return [error] * len(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                await self._repair(commands, replies)
                break
        return replies

    async def nodes(self) -> dict[str, AsyncNode]:
        return {self.name: self}

    def node_of(self, _: str) -> str:
        return self.name

    async def _send(self, commands: Sequence[Command], *, is_bulky: bool) -> asyncio.Future[list[Reply]]:
        """Send commands and return a future for their replies. Raise BrokerUnavailable."""
        parts = [piece for command in commands for piece in pack_pieces(command.args)]
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        for command in commands:
            size += command.reply_bytes
        if size > LARGE_BYTES:
            return await self._send_large(parts, commands, size)
        chosen = self._bulk if is_bulky or size > BULK_BYTES else self._small
        connection = chosen.connection or await chosen.wait()
        _load_scripts(connection, commands)
        return connection.send(parts, len(commands))

    async def _send_large(
        self, parts: Sequence[Data], commands: Sequence[Command], size: int
    ) -> asyncio.Future[list[Reply]]:
        """Send a request when it is its turn. Raise BrokerUnavailable."""
        if self._waiting_large >= self._max_pending:
            raise BrokerBusy
        self._waiting_large += 1
        try:
            await self._large_turn.acquire()
        finally:
            self._waiting_large -= 1
        self._traffic.unanswered_bytes += size

        def end_turn(_: object = None) -> None:
            self._traffic.unanswered_bytes -= size
            self._large_turn.release()

        try:
            connection = self._large.connection or await self._large.wait()
            _load_scripts(connection, commands)
            sent = connection.send(parts, len(commands))
        except BaseException:
            end_turn()
            raise
        sent.add_done_callback(end_turn)
        # A caller that is cancelled does not end the turn: Redis still has the request.
        return asyncio.shield(sent)

    async def _repair(self, commands: Sequence[Command], replies: list[Reply]) -> None:
        """Act on error replies: load unknown scripts and repeat their calls; after a failover, connect to the new
        master.
        """
        if any(isinstance(reply, redis_errors.ReadOnlyError) for reply in replies):
            # READONLY: this server is a replica now.
            for connection in self._connections:
                connection.retire()
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)]
        if not unknown:
            return
        parts: list[bytes] = []
        for index in unknown:
            script = commands[index].script
            assert script is not None  # noqa: S101 (only EVALSHA is replied to with NOSCRIPT)
            parts += (_load(script), pack(commands[index].args))
        repeated = await self._exchange(parts)
        for index, reply in zip(unknown, repeated[1::2], strict=True):
            replies[index] = reply

    async def execute_asking(self, command: Command) -> Reply:
        """Run a command on the node that a slot is moving to. Return its reply, or its error."""
        # ASKING holds for the next command only, so the script is loaded before it.
        parts = [pack(("ASKING",)), pack(command.args)]
        if command.script is not None:
            parts.insert(0, _load(command.script))
        replies = await self._exchange(parts)
        return replies[-1]

    def retire(self) -> None:
        """Accept no more requests, and close the connections when all replies have arrived."""
        for connection in self._connections:
            connection.end()

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    def _retry_others(self) -> None:
        """When one connection is open, the others need not wait for their next try."""
        for connection in self._connections:
            connection.retry()

    async def _exchange(self, parts: Sequence[bytes]) -> list[Reply]:
        """Send packed commands, one a part, and return their replies. Errors are returned, as by `execute`."""
        try:
            connection = self._small.connection or await self._small.wait()
            return await connection.send(parts, len(parts))
        except BrokerUnavailable as error:
            return [error] * len(parts)


def _load_scripts(connection: AsyncConnection, commands: Sequence[Command]) -> None:
    """Load the scripts that a connection uses for the first time, in the same write as their commands.

    Redis may know some of a request's scripts and not others: it would run those it knows first, whatever their order.
    """
    for command in commands:
        if command.script is not None and command.script not in connection.scripts:
            loaded = connection.send([_load(command.script)], 1)
            connection.scripts.add(command.script)
            loaded.add_done_callback(asyncio.Future.exception)  # the command's own reply says what is wrong


def _load(script: Script) -> bytes:
    return pack(("SCRIPT", "LOAD", script.source))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
