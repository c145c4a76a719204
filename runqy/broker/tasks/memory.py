"""Refuse new tasks when Redis is nearly full, and estimate the memory that queues use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from runqy.broker import keys
from runqy.broker.health import parse_memory
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import MemoryReading, MemoryUse, Operation, Request, ask, ask_all, raise_error
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command, command, script
from runqy.broker.tasks.enqueue import QUEUE_FULL_RETRY_S
from runqy.errors import BrokerFull, QueueMemoryExceeded, RunqyError

OVER_SHARE_TTL_S = 30
"""How long a measurement counts if maintenance does not repeat it."""

T = TypeVar("T")


def read_memory(queue: str) -> Request[MemoryReading]:
    """Return the memory use of a Redis queue's server, with what maintenance stored about queues."""
    commands = (
        command("INFO", "memory", key=QueueKeys(queue).pending),
        command("GET", keys.OVER_SHARE, key=keys.OVER_SHARE),
        command("GET", keys.SERVED, key=keys.SERVED),
    )
    return Request(commands, _parse_reading, is_repeatable=True, tolerates_wrong_types=True)


def ask_with_memory_check(request: Request[T], *, queue: str, size_bytes: int, memory: MemoryUse) -> Operation[T]:
    """Return the outcome of a request that adds tasks of this size to a Redis queue. Raise as `ensure_memory`.

    Once a second, and after large tasks, it reads the server's memory in the same round trip.
    """
    yield from ensure_memory(queue, size_bytes=size_bytes, memory=memory)
    sent_bytes = memory.begin_check(queue, size_bytes)
    if sent_bytes is None:
        result: T = yield request
        return result
    outcome, reading = yield from ask_all([request, read_memory(queue)])
    if isinstance(reading, MemoryReading):
        memory.record(queue, reading, sent_bytes)
    return raise_error(outcome)  # type: ignore[return-value] # the outcome of the first request


def ask_all_with_memory_check(
    requests: Sequence[Request[T]], *, queue: str, size_bytes: int, memory: MemoryUse
) -> Operation[list[T | RunqyError]]:
    """Return the outcomes of requests as `ask_all` does, and read the memory as `ask_with_memory_check` does."""
    sent_bytes = memory.begin_check(queue, size_bytes)
    if sent_bytes is None:
        return (yield from ask_all(requests))
    *outcomes, reading = yield from ask_all([*requests, read_memory(queue)])
    if isinstance(reading, MemoryReading):
        memory.record(queue, reading, sent_bytes)
    return outcomes  # type: ignore[return-value] # those of the requests


def ensure_memory(queue: str, *, size_bytes: int, memory: MemoryUse) -> Operation[None]:
    """Raise BrokerFull if the server of a Redis queue has no room for tasks of this size, or QueueMemoryExceeded if the
    queue's share has none.

    The memory is read once a second, and before each large task.
    """
    must_read = memory.must_read(queue, size_bytes)
    if not must_read and memory.has_room(queue, size_bytes) and not memory.is_over_share(queue, size_bytes):
        return
    if (sent_bytes := memory.begin_check(queue, must_read=must_read)) is not None:
        try:
            memory.record(queue, (yield from ask(read_memory(queue))), sent_bytes)
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
    return replace(parse_memory(replies[0]), over_share=over_share or frozenset(), served=served)


def _read_names(reply: bytes) -> frozenset[str]:
    return frozenset(reply.decode("utf-8", "replace").splitlines())


def store_over_share(max_results: Mapping[str, int], *, no_longer: Collection[str] = ()) -> Request[None]:
    """Store for OVER_SHARE_TTL_S which Redis queues hold more than their share of the memory.

    `max_results` has for each the size in bytes of the largest result that is still stored. What is stored about
    `no_longer` is removed.
    """
    write = script("write_record")
    stored = [
        write(record=QueueKeys(queue).max_result, content=size, ttl_s=OVER_SHARE_TTL_S)
        for queue, size in max_results.items()
    ]
    removed = [command("DEL", key, key=key) for queue in no_longer for key in [QueueKeys(queue).max_result]]
    names = "\n".join(max_results)
    listed = (
        write(record=keys.OVER_SHARE, content=names, ttl_s=OVER_SHARE_TTL_S)
        if names
        else command("DEL", keys.OVER_SHARE, key=keys.OVER_SHARE)
    )
    return Request((*stored, *removed, listed), lambda _: None, is_repeatable=True)


def find_max_results(queues: Sequence[str]) -> Request[dict[str, int]]:
    """Return the largest size of a result that is stored, for those of the queues that exceed their share."""
    names = {queue: QueueKeys(queue).max_result for queue in queues}
    commands = tuple(command("GET", name, key=name) for name in names.values())

    def parse(replies: Sequence[Reply]) -> dict[str, int]:
        sizes = zip(names, replies, strict=True)
        return {queue: int(size) for queue, size in sizes if size is not None and size.isdigit()}

    return Request(commands, parse, is_repeatable=True, tolerates_wrong_types=True)


def estimate_memory(queues: Sequence[str]) -> Request[list[int]]:
    """Estimate the bytes that the tasks of Redis queues use, from a sample of each; 0 for a queue with a key of the
    wrong type.
    """
    return Request(
        commands=tuple(_estimate_call(QueueKeys(name)) for name in queues),
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
