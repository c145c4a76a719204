"""Open authenticated connections to Redis on an event loop, and query Sentinels for the master."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence

from redis import exceptions as redis_errors

from runqy.broker.connection.async_connection import AsyncConnection
from runqy.broker.replies import Reply, check_reply
from runqy.broker.scripts import pack
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable, RunqyError

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 1.0
MAX_PENDING = 10_000

Address = tuple[str, int]  # host, port


class Connector:
    """Opens connections to the servers of a target."""

    def __init__(
        self,
        target: RedisTarget,
        *,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._target = target
        # Where to connect first: the server, Sentinels or nodes of the cluster. Grows to all nodes once the cluster is
        # known.
        self.addresses = target.addresses
        self._reply_timeout_s = reply_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_pending = max_pending
        self._tls: ssl.SSLContext | None = None

    async def open(self, *, on_push: Callable[[Reply], None] | None = None) -> AsyncConnection:
        """Open a connection to the server, the master that Sentinel reports, or any node of the cluster.

        Raise BrokerUnavailable.
        """
        if self._target.mode == "sentinel":
            return await self._open_master(on_push)
        if self._target.mode == "single":
            return await self.open_node(self.addresses[0], on_push=on_push)
        error: RunqyError | None = None
        for address in random.sample(self.addresses, len(self.addresses)):
            try:
                return await self.open_node(address, on_push=on_push)
            except RunqyError as failure:
                error = failure
        raise error or BrokerUnavailable()

    async def open_node(self, address: Address, *, on_push: Callable[[Reply], None] | None = None) -> AsyncConnection:
        """Open a connection to one server that holds keys, without following Sentinels. Raise BrokerUnavailable."""
        target = self._target
        commands = _authentication(target.username, target.password)
        if target.db and target.mode != "cluster":
            commands.append(pack(("SELECT", target.db)))
        connection, _ = await self._open(address, commands, on_push)
        return connection

    async def _open_master(self, on_push: Callable[[Reply], None] | None) -> AsyncConnection:
        connection = await self.open_node(await self._find_master(), on_push=on_push)
        try:
            # Sentinel may still report a master that was demoted.
            (role,) = await connection.send([pack(("ROLE",))], 1)
            if not isinstance(role, redis_errors.NoPermissionError) and check_reply(role)[0] != b"master":
                raise BrokerUnavailable(reason="the server that Sentinel reports is not a master")
        except RunqyError:
            connection.close("it is not a master")
            raise
        return connection

    async def _find_master(self) -> Address:
        """Return the master's address from the first Sentinel that knows it. Raise BrokerUnavailable."""
        target = self._target
        commands = _authentication(target.sentinel_username, target.sentinel_password)
        query = pack(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.master_name))
        problems = []
        for address in self.addresses:
            try:
                connection, replies = await self._open(address, [*commands, query], None)
                connection.close("its reply was received")
                found = check_reply(replies[-1])
            except RunqyError as error:
                problems.append(error.reason or error.detail)
                continue
            if found is not None:
                return found[0].decode(), int(found[1])
            problems.append(f"Sentinel does not know the master {target.master_name}")
        raise BrokerUnavailable(reason="; ".join(problems))

    async def _open(
        self, address: Address, commands: Sequence[bytes], on_push: Callable[[Reply], None] | None
    ) -> tuple[AsyncConnection, list[Reply]]:
        """Connect, authenticate and run the commands; return their replies. A PING at the end proves that the server
        replies.
        """
        loop = asyncio.get_running_loop()
        connection: AsyncConnection | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(lambda: self._make(on_push), *address, ssl=self._get_tls())
                replies = await connection.send([*commands, pack(("PING",))], len(commands) + 1)
            *replies, pong = replies
            if isinstance(pong, redis_errors.AuthenticationError):
                check_reply(pong)
            for reply in replies:
                check_reply(reply)
        except TimeoutError:
            _close(connection)
            raise BrokerUnavailable(reason="it did not accept the connection in time") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: the host is not a valid name
            raise BrokerUnavailable(reason=str(error)) from error
        except BaseException:
            _close(connection)
            raise
        return connection, replies

    def _make(self, on_push: Callable[[Reply], None] | None) -> AsyncConnection:
        return AsyncConnection(reply_timeout_s=self._reply_timeout_s, max_pending=self._max_pending, on_push=on_push)

    def _get_tls(self) -> ssl.SSLContext | None:
        # Created once: it loads the system's certificate authorities.
        if self._target.use_tls and self._tls is None:
            certificate = self._target.ca_certificate
            if certificate.lstrip().startswith("-----BEGIN"):
                self._tls = ssl.create_default_context(cadata=certificate)
            else:
                self._tls = ssl.create_default_context(cafile=certificate or None)
        return self._tls


def _authentication(username: str, password: str) -> list[bytes]:
    """Return the packed AUTH command in a list; an empty list without credentials."""
    if not password and not username:
        return []
    return [pack(("AUTH", username, password) if username else ("AUTH", password))]


def _close(connection: AsyncConnection | None) -> None:
    if connection is not None:
        connection.close("it was not used")
