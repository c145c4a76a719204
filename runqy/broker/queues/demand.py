"""What the demand of a queue is computed from: tasks that run or could run, and records of the last minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number, read_time_ns
from runqy.broker.request import Request
from runqy.broker.scripts import Command, Value, command, script
from runqy.broker.streams.run_counters import BUCKETS_S
from runqy.core.formats.json_decoding import read_json

_RUN_FIELDS = ("run_ms", *(f"run_{bucket}" for bucket in range(len(BUCKETS_S) + 1)))
MAX_COUNT = 1 << 53
"""Workers can write any number into the counters of their runs."""


class DemandSample(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Counters of a queue at one time. All but the tasks only grow."""

    at_s: int
    tasks: int
    """Pending and active."""
    processed: int
    """Attempts that ended, of any program's workers."""
    runs: int
    """Those whose duration runqy's workers reported."""
    run_ms: int


class DemandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What maintenance knows of a queue's last minutes and of its workers."""

    samples: tuple[DemandSample, ...] = ()
    """The oldest first."""
    mean_run_s: float | None = None
    """Of the last five minutes that had runs."""
    slots_per_worker: float | None = None
    """Of the workers that it has, or had last."""
    workers: int = 0
    """Live processes, whatever their state."""
    slots: int = 0
    """Of the ready ones."""
    failed_workers: int = 0
    """Those whose code does not start."""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


NO_RECORD = DemandRecord()


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandCounts:
    """The tasks of a Redis queue that run or could run."""

    pending: int
    active: int
    due: int
    """Scheduled tasks and retries whose time has come, which maintenance has not forwarded yet."""
    is_paused: bool
    oldest_pending_s: float
    processed: int
    runs: int
    run_ms: int


def count_demand(queues: Sequence[str], *, now_ns: int) -> Request[list[DemandCounts]]:
    """Count the tasks of Redis queues in one round trip. A queue that does not exist has zeros."""
    return Request(
        commands=tuple(part for queue in queues for part in _commands(QueueKeys.of(queue), now_ns // 1_000_000_000)),
        parse=lambda replies: [
            _parse(counts, runs, now_ns) for counts, runs in zip(replies[::2], replies[1::2], strict=True)
        ],
        tolerates_wrong_types=True,
    )


def _commands(queue: QueueKeys, now_s: int) -> tuple[Command, Command]:
    call = script("count_demand")(
        pending=queue.pending,
        active=queue.active,
        scheduled=queue.scheduled,
        retry=queue.retry,
        paused=queue.paused,
        processed=queue.processed,
        task_prefix=queue.task_prefix,
        now_s=now_s,
    )
    return call, command("HMGET", queue.run_counters, *_RUN_FIELDS, key=queue.run_counters)


def _parse(counts: Reply, runs: Reply, now_ns: int) -> DemandCounts:
    pending, active, due, is_paused, processed, since = counts or (0, 0, 0, 0, b"", b"")
    run_ms, *by_bucket = (min(read_number(value) or 0, MAX_COUNT) for value in runs or (None,) * len(_RUN_FIELDS))
    since_ns = read_time_ns(since)
    return DemandCounts(
        pending=pending,
        active=active,
        due=due,
        is_paused=bool(is_paused),
        oldest_pending_s=0.0 if since_ns is None else max(now_ns - since_ns, 0) / 1e9,
        processed=read_number(processed) or 0,
        runs=sum(by_bucket),
        run_ms=run_ms,
    )


def read_demand_records(names: Sequence[str]) -> Request[list[DemandRecord]]:
    """Return the records of queues or sub-queues; an empty one where none is stored."""
    return Request(
        (command("HMGET", keys.DEMAND, *names, key=keys.DEMAND),),
        lambda replies: [_decode(content) for content in replies[0]],
    )


def read_all_demand_records() -> Request[dict[str, DemandRecord]]:
    """Return all records by name. Not for a request path."""

    def parse(replies: Sequence[Reply]) -> dict[str, DemandRecord]:
        pairs = iter(replies[0])
        return {name.decode(): _decode(content) for name, content in zip(pairs, pairs, strict=True)}

    return Request((command("HGETALL", keys.DEMAND, key=keys.DEMAND),), parse)


def write_demand_records(records: Mapping[str, bytes], *, removed: Sequence[str]) -> Request[None]:
    """Write encoded records by name, and remove others."""
    parts: list[Value] = [part for name, record in records.items() for part in (name, record)]
    commands = [command("HSET", keys.DEMAND, *parts, key=keys.DEMAND)] if parts else []
    commands += [command("HDEL", keys.DEMAND, *removed, key=keys.DEMAND)] if removed else []
    return Request(tuple(commands), lambda _: None, is_repeatable=True)


def _decode(content: bytes | None) -> DemandRecord:
    if not content:
        return NO_RECORD
    try:
        return read_json(content, DemandRecord)
    except (msgspec.DecodeError, RecursionError):
        return NO_RECORD
