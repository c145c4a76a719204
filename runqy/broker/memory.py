"""Reserves the last of Redis's memory: when it is nearly full, tasks are refused before they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.operation import MemoryUse, Operation, Request, ask, ask_all, raise_error
from runqy.broker.scripts import command
from runqy.errors import BrokerFull, RunqyError

T = TypeVar("T")


def read_memory_use(queue: str) -> Request[float]:
    """Return which part of its `maxmemory` the server of a Redis queue uses; 0 where it has no limit."""
    return Request((command("INFO", "memory", key=QueueKeys(queue).pending),), _parse, is_repeatable=True)


def ask_to_add(request: Request[T], *, queue: str, memory: MemoryUse) -> Operation[T]:
    """Return the outcome of a request that adds tasks to a Redis queue. Raises BrokerFull when Redis is nearly full.

    Once a second the server's memory is read, in the same round trip.
    """
    yield from require_memory(queue, memory=memory)
    if not memory.begin_look(queue):
        return (yield from ask(request))
    outcome, use = yield from ask_all([request, read_memory_use(queue)])
    if isinstance(use, float):
        memory.record(queue, use)
    return raise_error(outcome)  # type: ignore[return-value] # the outcome of the first request


def ask_all_to_add(requests: Sequence[Request[T]], *, queue: str, memory: MemoryUse) -> Operation[list[T | RunqyError]]:
    """Return the outcomes of requests as `ask_all` does, and read the memory as `ask_to_add` does."""
    if not memory.begin_look(queue):
        return (yield from ask_all(requests))
    *outcomes, use = yield from ask_all([*requests, read_memory_use(queue)])
    if isinstance(use, float):
        memory.record(queue, use)
    return outcomes  # type: ignore[return-value] # those of the requests


def require_memory(queue: str, *, memory: MemoryUse) -> Operation[None]:
    """Raise BrokerFull while the server of a Redis queue is nearly full; it is asked once a second."""
    if not memory.is_nearly_full(queue):
        return
    if memory.begin_look(queue):
        try:
            memory.record(queue, (yield from ask(read_memory_use(queue))))
        except RunqyError:
            memory.record(queue, 0)  # the request itself finds out
    if memory.is_nearly_full(queue):
        raise BrokerFull(f"Redis uses more than {memory.HIGHEST:.0%} of its memory limit and takes no new tasks.")


def _parse(replies: Sequence[Reply]) -> float:
    """Read the report; services that hide the limit have none."""
    lines = replies[0].decode("utf-8", "replace").splitlines()
    numbers = {name: int(value) for name, _, value in (line.partition(":") for line in lines) if value.isdigit()}
    limit = numbers.get("maxmemory", 0)
    used = numbers.get("used_memory", 0) - numbers.get("mem_not_counted_for_evict", 0)
    return used / limit if limit else 0.0
