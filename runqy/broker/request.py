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

from runqy.broker.replies import Reply, ReplyLost, check_reply, is_wrong_type
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

    @property
    def may_repeat(self) -> bool:
        """Whether it is sent again, once, after a lost connection. What only reads always is."""
        return self.is_repeatable or not any(command.may_write for command in self.commands)

    def read(self, replies: Sequence[Reply]) -> T_co:
        """Return the outcome. Raise the RunqyError for an error reply, or what `parse` raises."""
        if self.tolerates_wrong_types:
            replies = [None if is_wrong_type(reply) else reply for reply in replies]
        return self.parse([check_reply(reply) if isinstance(reply, Exception) else reply for reply in replies])


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

        Raise BrokerUnavailable when Redis cannot be reached: any of the requests may have run.
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
    """Return an outcome of `ask_all`, or raise it if it is an error."""
    if isinstance(outcome, RunqyError):
        raise outcome
    return outcome
