"""One server on an event loop: two connections that are kept up, and scripts loaded when it does not know them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog
from redis import exceptions as redis_errors

from runqy.broker.async_connection import AsyncConnection, pack
from runqy.broker.links import Reply
from runqy.broker.scripts import Command, Script
from runqy.errors import BrokerBusy, BrokerUnavailable, RunqyError

BULK_BYTES = 64 * 1024
"""Requests over this size must not delay small ones."""
CONNECT_WAIT_S = 1.0
"""How long a request waits for a connection, from when the attempt to connect began."""
RECONNECT_MAX_S = 2.0

_log = structlog.get_logger(__name__)


def reconnect_delay_s(failures: int) -> float:
    """Return how long to wait before the next attempt to connect: longer with each failure, up to a limit."""
    delay_s: float = min(0.05 * 2 ** min(failures, 10), RECONNECT_MAX_S)
    return delay_s * random.uniform(0.5, 1)  # noqa: S311 (spreads load, hides nothing)


class ConnectionSlot:
    """A connection that is opened at its first use and reopened in the background after it was lost."""

    def __init__(self, open_connection: Callable[[], Awaitable[AsyncConnection]], *, max_waiting: int) -> None:
        self._open_connection = open_connection
        self._max_waiting = max_waiting
        self.connection: AsyncConnection | None = None
        """None while there is none; `wait` for it then."""
        self._task: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[None] | None = None
        """Done when the first attempt since the connection was lost has ended."""
        self._attempt_ends_s = 0.0
        """Until when requests wait for the attempt."""
        self._error: RunqyError | None = None
        """Why the last attempt failed; requests fail at once while there is such an error."""
        self._opened_s = 0.0
        self._waiting = 0
        self._is_closed = False

    async def wait(self) -> AsyncConnection:
        """Return the connection once it is open. Raises BrokerUnavailable."""
        self._start()
        if self._error is None and self._attempt is not None:
            if self._waiting >= self._max_waiting:
                raise BrokerBusy
            self._waiting += 1
            try:
                await asyncio.wait([self._attempt], timeout=self._attempt_ends_s - _now_s())
            finally:
                self._waiting -= 1
        if self.connection is not None:
            return self.connection
        if self._error is not None:
            raise type(self._error)(self._error.detail)
        raise BrokerUnavailable("Redis cannot be reached: there is no connection yet.")

    def retire(self) -> None:
        """Open another connection for what comes, and close this one when all its replies have arrived.

        A connection that is new would only be replaced by one like it, so it is kept.
        """
        connection = self.connection
        if connection is not None and _now_s() - self._opened_s > CONNECT_WAIT_S:
            self.connection = None
            connection.retire()
            self._start()

    async def close(self) -> None:
        """Close the connection for good."""
        self._is_closed = True
        if self._task is not None:
            task = self._task
            task.cancel()
            await asyncio.wait([task])
        if self.connection is not None:
            self.connection.close("The broker was closed.")

    def _start(self) -> None:
        """Begin to connect unless that is under way."""
        if self._is_closed:
            raise BrokerUnavailable("Redis cannot be reached: the broker was closed.")
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._attempt = loop.create_future()
            self._attempt_ends_s = _now_s() + CONNECT_WAIT_S
            self._task = loop.create_task(self._connect(self._attempt))

    async def _connect(self, attempt: asyncio.Future[None]) -> None:
        """Try to connect until it succeeds; the first try is the attempt that requests wait for."""
        failures = 0
        try:
            while self.connection is None:
                try:
                    connection = await self._open_connection()
                except RunqyError as error:
                    self._error = error
                    failures += 1
                    if failures == 1:
                        attempt.set_result(None)
                        _log.warning("broker_disconnected", error=error.detail)
                    await asyncio.sleep(reconnect_delay_s(failures))
                else:
                    self._use(connection)
        finally:
            self._task = None
            if not attempt.done():
                attempt.set_result(None)

    def _use(self, connection: AsyncConnection) -> None:
        """Send requests on a connection from now on."""
        if connection.is_open:
            self._error, self._opened_s = None, _now_s()
            self.connection = connection
            connection.on_lost = self._lose

    def _lose(self, connection: AsyncConnection, reason: str) -> None:
        """Reconnect when the connection in use was lost."""
        if self.connection is connection:
            self.connection = None
            if not self._is_closed:
                self._start()


class AsyncNode:
    """One Redis server: requests go out on one connection, large ones on another."""

    def __init__(self, open_connection: Callable[[], Awaitable[AsyncConnection]], *, max_pending: int) -> None:
        self._small = ConnectionSlot(open_connection, max_waiting=max_pending)
        self._bulk = ConnectionSlot(open_connection, max_waiting=max_pending)

    async def execute(self, commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        """Run commands in one round trip and return their replies; an error reply stands in its place.

        Raises BrokerUnavailable; as ConnectionLost, any of the commands may have run.
        """
        parts = [pack(command.args) for command in commands]
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        slot = self._bulk if is_bulky or size > BULK_BYTES else self._small
        connection = slot.connection or await slot.wait()
        replies = await connection.send(parts, len(parts))
        for reply in replies:
            if isinstance(reply, Exception):
                await self._repair(slot, commands, replies)
                break
        return replies

    async def execute_asking(self, command: Command) -> Reply:
        """Run a command whose slot is being moved to this server."""
        slot = self._small
        connection = slot.connection or await slot.wait()
        packed = [pack(("ASKING",)), pack(command.args)]
        if command.script is not None:
            packed.insert(0, _load(command.script))
        replies = await connection.send(packed, len(packed))
        return replies[-1]

    async def close(self) -> None:
        """Close both connections."""
        await self._small.close()
        await self._bulk.close()

    async def _repair(self, slot: ConnectionSlot, commands: Sequence[Command], replies: list[Reply]) -> None:
        """Do what error replies ask for: load unknown scripts and run their calls again, look for the new master."""
        if any(isinstance(reply, redis_errors.ReadOnlyError) for reply in replies):
            slot.retire()
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)]
        if not unknown:
            return
        parts: list[bytes] = []
        for index in unknown:
            script = commands[index].script
            assert script is not None  # noqa: S101 (only EVALSHA is replied to with NOSCRIPT)
            parts += (_load(script), pack(commands[index].args))
        connection = slot.connection or await slot.wait()
        repeated = await connection.send(parts, len(parts))
        for index, reply in zip(unknown, repeated[1::2], strict=True):
            replies[index] = reply


def _load(script: Script) -> bytes:
    """Return the command that makes a script known, packed."""
    return pack(("SCRIPT", "LOAD", script.source))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
