"""Operations without I/O: generators that yield requests to Redis and receive the outcomes.

A rule for both blocking and asynchronous callers is written once, as a generator:

    def enqueue_task(requested: NewTask) -> Operation[EnqueuedTask]:
        context = yield from get_context()
        state = yield from ask(enqueue(task, now_ns=context.now_ns, is_cluster=context.is_cluster))
        return EnqueuedTask(...)

`Broker.run(operation)` drives it with blocking I/O, `await AsyncBroker.run(operation)` on an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from runqy import clock
from runqy.broker.replies import Reply, ReplyLost, check_reply, is_wrong_type
from runqy.broker.scripts import Command
from runqy.errors import BrokerUnavailable, OutcomeUnknown, RunqyError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Request(msgspec.Struct, Generic[T_co], frozen=True):
    """Commands for Redis and the function that parses their replies. Performs no I/O."""

    commands: tuple[Command, ...]
    parse: Callable[[Sequence[Reply]], T_co]
    """Takes the replies of `commands`, none of them an error; returns the outcome or raises a RunqyError."""
    is_repeatable: bool = False
    """Running it twice has the effect of running it once. It is sent again, once, after a lost connection."""
    is_bulky: bool = False
    """It or its replies may be large. It uses the connection for large requests, so that small ones need not wait."""
    tolerates_wrong_types: bool = False
    """A key of the wrong type reads as missing (None), because workers can write its keys."""

    def read(self, replies: Sequence[Reply]) -> T_co:
        """Return the outcome. Raise the RunqyError for an error reply, or what `parse` raises."""
        if self.tolerates_wrong_types:
            replies = [None if is_wrong_type(reply) else reply for reply in replies]
        return self.parse([check_reply(reply) for reply in replies])


class RequestBatch(msgspec.Struct, frozen=True):
    """Requests that share one round trip."""

    requests: tuple[Request[Any], ...]

    @property
    def commands(self) -> list[Command]:
        return [command for request in self.requests for command in request.commands]

    @property
    def is_repeatable(self) -> bool:
        return all(request.is_repeatable for request in self.requests)

    @property
    def is_bulky(self) -> bool:
        return any(request.is_bulky for request in self.requests)

    def read(self, replies: Sequence[Reply]) -> list[Any]:
        """Return one outcome per request, in order; the outcome of a failed request is its RunqyError."""
        outcomes: list[Any] = []
        start = 0
        for request in self.requests:
            end = start + len(request.commands)
            try:
                outcomes.append(request.read(replies[start:end]))
            except RunqyError as error:
                outcomes.append(error)
            start = end
        return outcomes


def raise_if_unknown(request: Request[Any] | RequestBatch, *errors: BrokerUnavailable) -> None:
    """Raise OutcomeUnknown if a request that can write was sent and its reply was lost, given the errors of its
    attempts.
    """
    lost = next((error for error in errors if isinstance(error, ReplyLost)), None)
    if lost is not None and any(command.may_write for command in request.commands):
        raise OutcomeUnknown(reason=lost.reason) from lost


class MemoryReading(msgspec.Struct, frozen=True):
    """What a server reports about its memory, and what maintenance stored about its queues."""

    used_bytes: int = 0
    max_bytes: int = 0
    """Its `maxmemory`; 0: no limit."""
    over_share: frozenset[str] = frozenset()
    """Redis queues that hold more than their share of the limit while others have tasks, as maintenance measured."""

    served: frozenset[str] | None = None
    """Redis queues that a worker serves, as maintenance saw; None: unknown."""

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
        return self._servers.setdefault(queue if self._is_cluster else "", _ServerMemory())


class BrokerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation knows about the broker that runs it."""

    now_ns: int
    """Unix ns by Redis's clock."""
    is_cluster: bool
    """Keys with different hash tags may be on different nodes."""
    memory: MemoryUse


Effect: TypeAlias = Request[Any] | RequestBatch | type[BrokerContext]
"""What an operation yields, to receive the outcome of a request, those of a batch, or a BrokerContext."""
Operation: TypeAlias = Generator[Effect, Any, T]


def ask(request: Request[T]) -> Operation[T]:
    """Return the outcome of one request. Raise BrokerUnavailable, or what the request's `parse` raises."""
    outcome: T = yield request
    return outcome


def ask_all(requests: Sequence[Request[T]]) -> Operation[list[T | RunqyError]]:
    """Return the outcomes of requests in one round trip; the outcome of a failed request is its error.

    Raise BrokerUnavailable when Redis cannot be reached: any of the requests may have run.
    """
    if not requests:
        return []
    outcomes: list[T | RunqyError] = yield RequestBatch(tuple(requests))
    return outcomes


def get_context() -> Operation[BrokerContext]:
    """Return the broker's time and topology, without a round trip."""
    context: BrokerContext = yield BrokerContext
    return context


def raise_error(outcome: T | RunqyError) -> T:
    """Return an outcome of `ask_all`, or raise it if it is an error."""
    if isinstance(outcome, RunqyError):
        raise outcome
    return outcome


def drive(operation: Operation[T], perform: Callable[[Effect], Any]) -> T:
    """Run an operation with blocking I/O: `perform` returns the outcome of an effect, or raises its RunqyError."""
    outcome: Any = None
    error: RunqyError | None = None
    while True:
        try:
            effect = operation.send(outcome) if error is None else operation.throw(error)
        except StopIteration as end:
            value: T = end.value
            return value
        outcome, error = None, None
        try:
            outcome = perform(effect)
        except RunqyError as raised:
            error = raised
