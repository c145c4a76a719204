"""Refuse new tasks when Redis is nearly full, and estimate the memory that queues use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from runqy import clock
from runqy.broker import keys
from runqy.broker.constants import QUEUE_FULL_RETRY_S
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request, raise_error
from runqy.broker.scripts import Command, command, script
from runqy.errors import BrokerFull, QueueMemoryExceeded, RunqyError

OVER_SHARE_TTL_S = 30
"""How long a measurement counts if maintenance does not repeat it."""

BY_GO = "go "
"""Begins a line of the Redis queues that Go workers serve; names of queues have no space."""

T = TypeVar("T")


class MemoryReading(msgspec.Struct, frozen=True):
    """What a server reports about its memory, and what maintenance stored about its queues."""

    used_bytes: int = 0
    max_bytes: int = 0
    """Its `maxmemory`; 0: no limit."""
    over_share: frozenset[str] = frozenset()
    """Redis queues that hold more than their share of the limit while others have tasks, as maintenance measured."""

    served: frozenset[str] | None = None
    """Redis queues that a worker serves, as maintenance saw; None: unknown."""
    served_by_go: frozenset[str] = frozenset()
    """Those of them that a worker of another program serves."""

    @property
    def use(self) -> float:
        """The fraction of the limit that is used; 0 without a limit."""
        return self.used_bytes / self.max_bytes if self.max_bytes else 0.0


class _ServerMemory:
    """The last reading of a server, and how much this process has sent to it."""

    __slots__ = ("checked_s", "included_bytes", "reading", "sent_bytes")

    def __init__(self) -> None:
        self.reading = MemoryReading()
        self.checked_s = float("-inf")
        # The size of all tasks, and of those that the reading includes.
        self.sent_bytes = self.included_bytes = 0

    @property
    def unread_bytes(self) -> int:
        return self.sent_bytes - self.included_bytes


class MemoryUse:
    """The last reading of each server's memory, and the size of the tasks that this process has sent since.

    In a cluster it is kept per Redis queue, because queues are on different servers; otherwise once.
    """

    CHECK_INTERVAL_S = 1.0
    MAX_USE = 0.97
    """Above this fraction no tasks are added, so that all other scripts can still write."""
    SHARED_USE = 0.8
    """Above this fraction no tasks are added to queues that hold more than their share."""
    UNREAD_USE = 0.01
    """After sending this fraction the memory is read again, even within CHECK_INTERVAL_S."""
    LARGE_USE = 0.001
    """Before a task larger than this fraction the memory is read, because other processes may send such tasks too."""
    LARGE_BYTES = 1 << 20
    """The same limit in bytes, for a process that has not read the memory yet."""
    ROOM = 8
    """A task is added only while this many of its size fit, so that large tasks are refused before small ones.

    While a script stores a task, Redis holds it four times: in the query buffer, as an argument, in Lua and in the key.
    The buffers of each connection stay for two seconds, and no reading includes the tasks that other processes are
    sending.
    """

    def __init__(self, *, is_cluster: bool) -> None:
        self._is_cluster = is_cluster
        self._servers: dict[str, _ServerMemory] = {}

    def has_room(self, queue: str, size_bytes: int) -> bool:
        """Return whether tasks of this size fit into the memory of the server of a Redis queue."""
        server = self._of(queue)
        # Large tasks that no reading includes may still fill their buffers. Small ones have left theirs already.
        unread = server.unread_bytes * (self.ROOM if self._is_large(server, size_bytes) else 1)
        used = server.reading.used_bytes + unread + self.ROOM * size_bytes
        return not server.reading.max_bytes or used <= self.MAX_USE * server.reading.max_bytes

    def is_over_share(self, queue: str, size_bytes: int) -> bool:
        """Return whether a Redis queue holds so much that tasks of this size must not be added to it now."""
        server = self._of(queue)
        if not (size_bytes and server.reading.max_bytes and queue in server.reading.over_share):
            return False
        used = server.reading.used_bytes + server.unread_bytes + size_bytes
        return used > self.SHARED_USE * server.reading.max_bytes or not self.has_room(queue, size_bytes)

    def is_unserved(self, queue: str) -> bool:
        """Return whether no worker serves a Redis queue, by the last reading; False while that is unknown."""
        served = self._of(queue).reading.served
        return served is not None and queue not in served

    def is_served_by_go(self, queue: str) -> bool:
        """Return whether a Go worker serves a Redis queue, by the last reading."""
        return queue in self._of(queue).reading.served_by_go

    def must_read(self, queue: str, size_bytes: int) -> bool:
        """Return whether the use must be read before tasks of this size are added."""
        server = self._of(queue)
        is_unknown = server.checked_s == float("-inf") and size_bytes > self.LARGE_BYTES
        return is_unknown or self._is_large(server, size_bytes)

    def begin_check(self, queue: str, size_bytes: int = 0, *, must_read: bool = False) -> int | None:
        """Count tasks that are about to be sent. Return the value for `record` if the caller should read the memory
        now.

        That is one caller each second, each caller after UNREAD_USE was sent, and each with `must_read`. None for all
        others.
        """
        server, now_s = self._of(queue), clock.monotonic_s()
        server.sent_bytes += size_bytes
        is_much = server.unread_bytes > self.UNREAD_USE * server.reading.max_bytes > 0
        if not (must_read or is_much) and now_s - server.checked_s < self.CHECK_INTERVAL_S:
            return None
        # Set before the reply arrives, so that concurrent callers do not read too.
        server.checked_s = now_s
        return server.sent_bytes

    def record(self, queue: str, reading: MemoryReading, sent_bytes: int) -> None:
        """Store a reading that includes the first `sent_bytes` that this process sent."""
        server = self._of(queue)
        server.reading, server.included_bytes = reading, max(server.included_bytes, sent_bytes)

    def _is_large(self, server: _ServerMemory, size_bytes: int) -> bool:
        return size_bytes > self.LARGE_USE * server.reading.max_bytes > 0

    def _of(self, queue: str) -> _ServerMemory:
        name = queue if self._is_cluster else ""
        server = self._servers.get(name)
        if server is None:
            server = self._servers[name] = _ServerMemory()
        return server


def read_memory(queue: str) -> Request[MemoryReading]:
    """Return the memory use of a Redis queue's server, with what maintenance stored about queues."""
    commands = (
        command("INFO", "memory", key=QueueKeys.of(queue).pending),
        command("GET", keys.OVER_SHARE, key=keys.OVER_SHARE),
        command("GET", keys.SERVED, key=keys.SERVED),
    )
    return Request(commands, _parse_reading, tolerates_wrong_types=True)


async def send_with_memory_check(broker: AnyBroker, request: Request[T], *, queue: str, size_bytes: int) -> T:
    """Return the outcome of a request that adds tasks of this size to a Redis queue. Raise as `ensure_memory`.

    Once a second, and after large tasks, it reads the server's memory in the same round trip.
    """
    await ensure_memory(broker, queue, size_bytes=size_bytes)
    sent_bytes = broker.memory.begin_check(queue, size_bytes)
    if sent_bytes is None:
        return await broker.send(request)
    outcome, reading = await broker.send_all([request, read_memory(queue)])
    if isinstance(reading, MemoryReading):
        broker.memory.record(queue, reading, sent_bytes)
    return raise_error(outcome)  # type: ignore[return-value] # the outcome of the first request


async def send_all_with_memory_check(
    broker: AnyBroker, requests: Sequence[Request[T]], *, queue: str, size_bytes: int
) -> list[T | RunqyError]:
    """Return the outcomes of requests as `send_all` does, and read the memory as `send_with_memory_check` does."""
    sent_bytes = broker.memory.begin_check(queue, size_bytes)
    if sent_bytes is None:
        return await broker.send_all(requests)
    *outcomes, reading = await broker.send_all([*requests, read_memory(queue)])
    if isinstance(reading, MemoryReading):
        broker.memory.record(queue, reading, sent_bytes)
    return outcomes  # type: ignore[return-value] # those of the requests


async def ensure_memory(broker: AnyBroker, queue: str, *, size_bytes: int) -> None:
    """Raise BrokerFull if the server of a Redis queue has no room for tasks of this size, or QueueMemoryExceeded if the
    queue's share has none.

    The memory is read once a second, and before each large task.
    """
    memory = broker.memory
    must_read = memory.must_read(queue, size_bytes)
    if not must_read and memory.has_room(queue, size_bytes) and not memory.is_over_share(queue, size_bytes):
        return
    if (sent_bytes := memory.begin_check(queue, must_read=must_read)) is not None:
        try:
            memory.record(queue, await broker.send(read_memory(queue)), sent_bytes)
        except RunqyError:
            memory.record(queue, MemoryReading(), sent_bytes)  # allows all: the request itself will fail the same way
    # From here to the caller's `begin_check`, which counts the tasks, there is no I/O: an event loop cannot run another
    # request in between, which would take the same room.
    if memory.is_over_share(queue, size_bytes):
        raise QueueMemoryExceeded(retry_after_s=QUEUE_FULL_RETRY_S)
    if not memory.has_room(queue, 0):
        raise BrokerFull
    if not memory.has_room(queue, size_bytes):
        room = f"{memory.ROOM} times their size must fit below {memory.MAX_USE:.0%} of maxmemory"
        raise BrokerFull(f"Redis has no room for {size_bytes:,} bytes of tasks now: {room}. Try again later.")


def _parse_reading(replies: Sequence[Reply]) -> MemoryReading:
    over_share, served = (None if reply is None else _read_names(reply) for reply in replies[1:])
    by_go = frozenset(name.removeprefix(BY_GO) for name in served or () if name.startswith(BY_GO))
    return msgspec.structs.replace(
        parse_memory(replies[0]), over_share=over_share or frozenset(), served=served, served_by_go=by_go
    )


def parse_memory(info: bytes) -> MemoryReading:
    """Parse INFO. A hosted Redis that hides its limit counts as one without a limit."""
    lines = info.decode("utf-8", "replace").splitlines()
    numbers = {name: int(value) for name, _, value in (line.partition(":") for line in lines) if value.isdigit()}
    # Redis compares its limit with the same difference: buffers of replicas and of the AOF do not count.
    used = numbers.get("used_memory", 0) - numbers.get("mem_not_counted_for_evict", 0)
    return MemoryReading(used_bytes=used, max_bytes=numbers.get("maxmemory", 0))


def _read_names(reply: bytes) -> frozenset[str]:
    return frozenset(reply.decode("utf-8", "replace").splitlines())


def store_over_share(max_results: Mapping[str, int], *, no_longer: Collection[str] = ()) -> Request[None]:
    """Store for OVER_SHARE_TTL_S which Redis queues hold more than their share of the memory.

    `max_results` has for each the size in bytes of the largest result that is still stored. What is stored about
    `no_longer` is removed.
    """
    write = script("write_record")
    stored = [
        write(record=QueueKeys.of(queue).max_result, content=size, ttl_s=OVER_SHARE_TTL_S)
        for queue, size in max_results.items()
    ]
    removed = [command("DEL", key, key=key) for queue in no_longer for key in [QueueKeys.of(queue).max_result]]
    names = "\n".join(max_results)
    listed = (
        write(record=keys.OVER_SHARE, content=names, ttl_s=OVER_SHARE_TTL_S)
        if names
        else command("DEL", keys.OVER_SHARE, key=keys.OVER_SHARE)
    )
    return Request((*stored, *removed, listed), lambda _: None, is_repeatable=True)


def find_max_results(queues: Sequence[str]) -> Request[dict[str, int]]:
    """Return the largest size of a result that is stored, for those of the queues that exceed their share."""
    names = {queue: QueueKeys.of(queue).max_result for queue in queues}
    commands = tuple(command("GET", name, key=name) for name in names.values())

    def parse(replies: Sequence[Reply]) -> dict[str, int]:
        sizes = zip(names, replies, strict=True)
        return {queue: int(size) for queue, size in sizes if size is not None and size.isdigit()}

    return Request(commands, parse, tolerates_wrong_types=True)


def estimate_memory(queues: Sequence[str]) -> Request[list[int]]:
    """Estimate the bytes that the tasks of Redis queues use, from a sample of each; 0 for a queue with a key of the
    wrong type.
    """
    return Request(
        commands=tuple(_estimate_call(QueueKeys.of(name)) for name in queues),
        parse=lambda replies: [reply or 0 for reply in replies],
        tolerates_wrong_types=True,
    )


def _estimate_call(queue: QueueKeys) -> Command:
    return script("estimate_memory")(
        active=queue.active,
        pending=queue.pending,
        scheduled=queue.scheduled,
        retry=queue.retry,
        archived=queue.archived,
        completed=queue.completed,
        groups=queue.groups,
        task_prefix=queue.task_prefix,
        group_prefix=queue.group(""),
    )
