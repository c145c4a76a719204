"""Refuse new tasks when Redis is nearly full, and estimate the memory that queues use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from runqy.broker.health import parse_memory_use
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import MemoryUse, Operation, Request, ask, ask_all, raise_error
from runqy.broker.scripts import Command, command, script
from runqy.errors import BrokerFull, RunqyError

T = TypeVar("T")


def read_memory_use(queue: str) -> Request[float]:
    """Return which fraction of its `maxmemory` the server of a Redis queue uses; 0 without a limit."""
    return Request(
        (command("INFO", "memory", key=QueueKeys(queue).pending),),
        lambda replies: parse_memory_use(replies[0]),
        is_repeatable=True,
    )


def ask_with_memory_check(request: Request[T], *, queue: str, memory: MemoryUse) -> Operation[T]:
    """Return the outcome of a request that adds tasks to a Redis queue. Raise BrokerFull when Redis is nearly full.

    Once a second the server's memory use is read in the same round trip.
    """
    if memory.is_nearly_full(queue):
        yield from ensure_memory(queue, memory=memory)
    if not memory.begin_check(queue):
        result: T = yield request
        return result
    outcome, use = yield from ask_all([request, read_memory_use(queue)])
    if isinstance(use, float):
        memory.record(queue, use)
    return raise_error(outcome)  # type: ignore[return-value] # the outcome of the first request


def ask_all_with_memory_check(
    requests: Sequence[Request[T]], *, queue: str, memory: MemoryUse
) -> Operation[list[T | RunqyError]]:
    """Return the outcomes of requests as `ask_all` does, and check the memory as `ask_with_memory_check` does."""
    if not memory.begin_check(queue):
        return (yield from ask_all(requests))
    *outcomes, use = yield from ask_all([*requests, read_memory_use(queue)])
    if isinstance(use, float):
        memory.record(queue, use)
    return outcomes  # type: ignore[return-value] # those of the requests


def ensure_memory(queue: str, *, memory: MemoryUse) -> Operation[None]:
    """Raise BrokerFull while the server of a Redis queue is nearly full. It is queried once a second."""
    if not memory.is_nearly_full(queue):
        return
    if memory.begin_check(queue):
        try:
            memory.record(queue, (yield from ask(read_memory_use(queue))))
        except RunqyError:
            memory.record(queue, 0)  # the request itself will fail the same way
    if memory.is_nearly_full(queue):
        raise BrokerFull


def estimate_memory(queues: Sequence[str]) -> Request[list[int]]:
    """Estimate from a sample the bytes that the tasks of Redis queues use, in one round trip (contract 3.26).

    0 for a queue with a key of the wrong type.
    """
    return Request(
        commands=tuple(_estimate_call(QueueKeys(queue)) for queue in queues),
        parse=lambda replies: [reply or 0 for reply in replies],
        tolerates_wrong_types=True,
    )


def _estimate_call(keys: QueueKeys) -> Command:
    return script("estimate_memory")(
        active=keys.active,
        pending=keys.pending,
        scheduled=keys.scheduled,
        retry=keys.retry,
        archived=keys.archived,
        completed=keys.completed,
        groups=keys.groups,
        task_prefix=keys.task_prefix,
        group_prefix=keys.group(""),
    )
