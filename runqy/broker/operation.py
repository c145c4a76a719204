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
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

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
