"""Redis Cluster on an event loop: routes commands to nodes by slot and follows redirections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial

import structlog
from redis import exceptions as redis_errors
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from runqy.broker.connection.async_connection import as_unsent
from runqy.broker.connection.async_connector import Address, Connector
from runqy.broker.connection.async_node import CONNECT_WAIT_S, AsyncNode
from runqy.broker.replies import Reply, check_reply
from runqy.broker.scripts import Command, pack
from runqy.errors import BrokerBusy, BrokerUnavailable, RunqyError

MAX_REDIRECTIONS = 5
REFRESH_INTERVAL_S = 0.25
"""The minimum time from the end of one topology refresh to the start of the next."""

_log = structlog.get_logger(__name__)


class AsyncCluster:
    """The masters of a cluster and the slots they serve."""

    def __init__(self, connector: Connector, *, max_pending: int) -> None:
        self._connector = connector
        self._max_pending = max_pending
        self._nodes: dict[Address, AsyncNode] = {}
        # One entry per slot; empty until the topology is known.
        self._slots: list[AsyncNode | None] = []
        self._refresh: asyncio.Task[None] | None = None
        # When the last refresh ended.
        self._refreshed_s = float("-inf")
        # Why the last refresh failed.
        self._error: RunqyError | None = None
        self._waiting = 0

    async def execute(self, commands: Sequence[Command], *, is_bulky: bool) -> list[Reply]:
        """Run commands in one round trip per node and return their replies. Errors are returned, not raised.

        The replies of a node that cannot be reached are BrokerUnavailable: after its subclass ReplyLost, its commands
        may have run. The other nodes' replies are their own.
        """
        replies = await self._send(commands, is_bulky)
        if any(isinstance(reply, Exception) for reply in replies):
            await self._follow(commands, replies, is_bulky)
            if any(isinstance(reply, BrokerUnavailable) and not isinstance(reply, BrokerBusy) for reply in replies):
                self._start_refresh()
        return replies

    async def nodes(self) -> dict[str, AsyncNode]:
        """Return the masters by their addresses. Raise BrokerUnavailable."""
        if not self._slots:
            await self._wait_for_refresh()
        return {node.name: node for node in self._nodes.values()}

    def node_of(self, key: str) -> str:
        """Return the address of the master with a key, as far as is known; empty if none has it."""
        node = self._slots[key_slot(key.encode())] if self._slots else None
        return node.name if node is not None else ""

    async def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])
        for node in self._nodes.values():
            await node.close()

    async def _send(self, commands: Sequence[Command], is_bulky: bool) -> list[Reply]:
        groups: dict[AsyncNode, list[int]] = {}
        replies: list[Reply] = [None] * len(commands)
        without_node: BrokerUnavailable | None = None
        for index, command in enumerate(commands):
            node = self._find_node(command)
            if node is None and without_node is None:  # else one look at the topology has been enough
                try:
                    node = await self._find_new_node(command)
                except BrokerUnavailable as error:
                    without_node = error
            if node is None:
                replies[index] = without_node
            else:
                groups.setdefault(node, []).append(index)
        if len(groups) == 1 and node is not None and len(groups[node]) == len(commands):
            return await node.execute(commands, is_bulky=is_bulky)
        # Each on its own, so that a node that does not connect delays none of the others.
        received = await asyncio.gather(
            *(node.execute([commands[i] for i in indexes], is_bulky=is_bulky) for node, indexes in groups.items())
        )
        for indexes, part in zip(groups.values(), received, strict=True):
            for index, reply in zip(indexes, part, strict=True):
                replies[index] = reply
        return replies

    def _find_node(self, command: Command) -> AsyncNode | None:
        if command.key is not None:
            return self._slots[key_slot(command.key.encode())] if self._slots else None
        # A command without a key may run anywhere: prefer a node that is connected.
        nodes = self._nodes.values()
        return next((node for node in nodes if node.is_open), None) or next(iter(nodes), None)

    async def _find_new_node(self, command: Command) -> AsyncNode:
        """Refresh the topology for a slot without a known node. Raise BrokerUnavailable."""
        await self._wait_for_refresh()
        node = self._find_node(command)
        if node is None:
            raise BrokerUnavailable(reason="no node of the cluster serves this slot")
        return node

    async def _follow(self, commands: Sequence[Command], replies: list[Reply], is_bulky: bool) -> None:
        """Replace MOVED and ASK replies by the replies of the nodes they name."""
        for _ in range(MAX_REDIRECTIONS):
            if any(isinstance(reply, redis_errors.ClusterDownError) for reply in replies):
                self._start_refresh()
            redirected = [i for i, reply in enumerate(replies) if isinstance(reply, redis_errors.AskError)]
            if not redirected:
                return
            moved = []
            for index in redirected:
                redirection = replies[index]
                try:
                    node = self._node_at(redirection)
                except BrokerUnavailable as error:
                    replies[index] = error
                    continue
                # ASK is for this command only, while the slot is moving; MOVED is for good.
                if isinstance(redirection, redis_errors.MovedError):
                    self._slots[redirection.slot_id] = node
                    moved.append(index)
                else:
                    replies[index] = await node.execute_asking(commands[index])
            if moved:
                self._start_refresh()
                again = await self._send([commands[i] for i in moved], is_bulky)
                for index, reply in zip(moved, again, strict=True):
                    replies[index] = reply
        for index, reply in enumerate(replies):
            if isinstance(reply, redis_errors.AskError):
                replies[index] = BrokerUnavailable(reason="its cluster redirects too often")

    def _node_at(self, redirection: redis_errors.AskError) -> AsyncNode:
        """Return the node that a redirection names; it may be new to the topology. Raise BrokerUnavailable."""
        if not redirection.host:
            raise BrokerUnavailable(reason="its cluster redirects to an unknown node")
        return self._node(redirection.node_addr)

    def _node(self, address: Address) -> AsyncNode:
        node = self._nodes.get(address)
        if node is None:
            opens = partial(self._connector.open_node, address)
            host, port = address
            node = AsyncNode(opens, max_pending=self._max_pending, name=f"{host}:{port}")
            self._nodes[address] = node
        return node

    async def _wait_for_refresh(self) -> None:
        self._start_refresh()
        if self._refresh is not None:
            if self._waiting >= self._max_pending:
                raise BrokerBusy
            self._waiting += 1
            try:
                # `wait` leaves the refresh running when this request is cancelled or has waited long enough.
                await asyncio.wait([self._refresh], timeout=CONNECT_WAIT_S)
            finally:
                self._waiting -= 1
        if not self._slots:
            error = self._error or BrokerUnavailable(reason="connecting takes too long")
            raise type(error)(error.detail, reason=error.reason)

    def _start_refresh(self) -> None:
        """Start a topology refresh unless one is running or has just ended."""
        loop = asyncio.get_running_loop()
        if self._refresh is None and loop.time() - self._refreshed_s >= REFRESH_INTERVAL_S:
            self._refresh = loop.create_task(self._discover())

    async def _discover(self) -> None:
        """Ask the nodes one after another until one returns the topology."""
        # In random order, so that processes do not all ask the same node.
        known = random.sample(list(self._nodes), len(self._nodes))
        error: RunqyError | None = None
        try:
            for address in dict.fromkeys([*known, *self._connector.addresses]):
                try:
                    async with asyncio.timeout(CONNECT_WAIT_S):
                        self._apply_slots(await self._fetch_slots(address), address)
                except TimeoutError:
                    error = BrokerUnavailable(reason="a node of the cluster does not reply")
                except RunqyError as failure:
                    error = as_unsent(failure)
                else:
                    error = None
                    return
        finally:
            if error is not None and self._error is None:
                _log.warning("broker_disconnected", error=str(error))
            self._error = error
            self._refreshed_s = asyncio.get_running_loop().time()
            self._refresh = None

    async def _fetch_slots(self, address: Address) -> list[Reply]:
        connection = await self._connector.open_node(address)
        try:
            (reply,) = await connection.send([pack(("CLUSTER", "SLOTS"))], 1)
            slots: list[Reply] = check_reply(reply)
        finally:
            connection.close("its reply was received")
        if not slots:
            raise BrokerUnavailable(reason="a node reports no slots")
        return slots

    def _apply_slots(self, entries: list[Reply], address: Address) -> None:
        """Apply a new topology, and retire nodes that serve no slot any more."""
        slots: list[AsyncNode | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        masters = {}
        for first, last, master, *_ in entries:
            host = master[0].decode() if master[0] else address[0]  # empty: the node that was queried
            at = host, int(master[1])
            masters[at] = node = self._node(at)
            slots[first : last + 1] = [node] * (last + 1 - first)
        gone = [node for at, node in self._nodes.items() if at not in masters]
        self._slots, self._nodes = slots, masters
        self._connector.addresses = tuple(dict.fromkeys([*masters, *self._connector.addresses]))
        for node in gone:
            node.retire()
