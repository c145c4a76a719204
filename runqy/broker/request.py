"""Requests to Redis, and what operations know about the broker that they await.

A rule is a coroutine that awaits a broker, written once for event loops and for threads:

    async def enqueue_task(broker: AnyBroker, requested: NewTask) -> EnqueuedTask:
        state = await broker.send(enqueue(task, now_ns=broker.now_ns(), is_cluster=broker.is_cluster))
        return EnqueuedTask(...)

On an event loop it is awaited with an `AsyncBroker`. A thread calls `broker.run(enqueue_task(broker, requested))` with
a `Broker`, which runs it on the process's event loop. So a rule touches neither the database nor anything else that
belongs to the thread of its caller, and never blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

from runqy.broker.replies import Reply, ReplyLost, is_wrong_type, read_error
from runqy.broker.scripts import Command
from runqy.errors import BrokerUnavailable, OutcomeUnknown, RunqyError

if TYPE_CHECKING:
    from runqy.broker.memory import MemoryUse

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Request(msgspec.Struct, Generic[T_co], frozen=True):
    """Commands for Redis and the function that parses their replies. Performs no I/O."""

    commands: tuple[Command, ...]
    parse: Callable[[Sequence[Reply]], T_co]
    """Takes the replies of `commands`, none of them an error; returns the outcome or raises a RunqyError."""
    is_repeatable: bool = False
    """Running its writes twice has the effect of running them once."""
    is_bulky: bool = False
    """It or its replies may be large. It uses the connection for large requests, so that small ones need not wait."""
    tolerates_wrong_types: bool = False
    """A key of the wrong type reads as missing (None), because workers can write its keys."""
    is_decided_by_last: bool = False
    """Its last command is what changes something; what the others write has no effect without it."""

    @property
    def may_repeat(self) -> bool:
        """Whether it is sent again, once, after a lost connection. What only reads always is."""
        return self.is_repeatable or not any(command.may_write for command in self.commands)

    def read(self, replies: Sequence[Reply]) -> T_co:
        """Return the outcome. Raise the RunqyError for an error reply, or what `parse` raises."""
        if self.tolerates_wrong_types:
            replies = [None if is_wrong_type(reply) else reply for reply in replies]
        for reply in replies:
            if isinstance(reply, Exception):
                return self.parse(self._read_errors(replies))
        return self.parse(replies)

    def _read_errors(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Return the replies with None for commands that may fail. Raise the first error of another command.

        In a cluster, each command may be on another server. OutcomeUnknown if one that writes may have run.
        """
        read = list(replies)
        first: Exception | None = None
        for index, (command, reply) in enumerate(zip(self.commands, replies, strict=True)):
            if not isinstance(reply, Exception):
                continue
            error = read_error(reply)
            if command.may_fail and isinstance(error, BrokerUnavailable):
                read[index] = None
            else:
                first = first or error
        if isinstance(first, BrokerUnavailable) and self._may_have_written(replies):
            raise OutcomeUnknown(reason=first.reason) from first
        if first is not None:
            raise first
        return read

    def _may_have_written(self, replies: Sequence[Reply]) -> bool:
        start = -1 if self.is_decided_by_last else 0
        return any(
            command.may_write and (isinstance(reply, ReplyLost) or not isinstance(reply, Exception))
            for command, reply in zip(self.commands[start:], replies[start:], strict=True)
        )


class RequestBatch(msgspec.Struct, frozen=True):
    """Requests that share one round trip."""

    requests: tuple[Request[Any], ...]

    @property
    def commands(self) -> list[Command]:
        return [command for request in self.requests for command in request.commands]

    @property
    def may_repeat(self) -> bool:
        return all(request.may_repeat for request in self.requests)

    @property
    def is_bulky(self) -> bool:
        return any(request.is_bulky for request in self.requests)

    def read(self, replies: Sequence[Reply]) -> list[Any]:
        """Return one outcome per request, in order; the outcome of a failed request is its RunqyError.

        Raise BrokerUnavailable if no command has a reply.
        """
        outcomes: list[Any] = []
        start = 0
        for request in self.requests:
            end = start + len(request.commands)
            try:
                outcomes.append(request.read(replies[start:end]))
            except RunqyError as error:
                outcomes.append(error)
            start = end
        if replies and isinstance(replies[0], RunqyError) and all(isinstance(reply, RunqyError) for reply in replies):
            errors = [outcome for outcome in outcomes if isinstance(outcome, RunqyError)]
            raise next((error for error in errors if isinstance(error, OutcomeUnknown)), errors[0])
        return outcomes


class AnyBroker(Protocol):
    """What operations await: an AsyncBroker, or the Broker of a thread that runs them on the process's event loop."""

    @property
    def is_cluster(self) -> bool:
        """Keys with different hash tags may be on different nodes."""

    @property
    def memory(self) -> MemoryUse: ...

    @property
    def now_ns(self) -> Callable[[], int]:
        """Returns Unix time in ns by Redis's clock, as it was last measured."""

    async def send(self, request: Request[T]) -> T:
        """Return the outcome of a request. Raise BrokerUnavailable, or what its `parse` raises."""

    async def send_all(self, requests: Sequence[Request[T]]) -> list[T | RunqyError]:
        """Return the outcomes of requests in one round trip; the outcome of a failed request is its error.

        Raise BrokerUnavailable when no server that they need can be reached, OutcomeUnknown if one may have run.
        """

    async def nodes(self) -> list[str]:
        """Return the names of the servers that hold keys; that of a single one is empty. Raise BrokerUnavailable."""

    def node_of(self, key: str) -> str:
        """Return the name of the server that holds a key. The caller has called `nodes`."""

    async def send_to(self, node: str, request: Request[T]) -> T:
        """Return the outcome of a request on one of the servers that hold keys.

        Raise BrokerUnavailable, also if the server is no longer one of them, or the errors it documents.
        """


def raise_error(outcome: T | RunqyError) -> T:
    """Return an outcome of `send_all`, or raise it if it is an error."""
    if isinstance(outcome, RunqyError):
        raise outcome
    return outcome
