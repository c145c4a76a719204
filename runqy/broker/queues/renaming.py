"""Move the pause and the counters of a Redis queue whose tasks are moved to another name, and drop it."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence

from runqy.broker import keys as redis_keys
from runqy.broker.constants import COUNTER_TTL_S
from runqy.broker.keys import QueueKeys
from runqy.broker.operation import Operation, Request, ask, get_context
from runqy.broker.queues.moving import CLAIM_TTL_S
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command, command, script
from runqy.broker.streams.run_counters import FIELDS

_COUNTER_DAYS = COUNTER_TTL_S // 86_400 + 1
_RUN_PREFIX = "run:"


def move_pause(source: str, destination: str) -> Operation[None]:
    """Pause a Redis queue if the one that it replaces is paused, once for each pause."""
    keys, other = QueueKeys(source), QueueKeys(destination)
    paused, details = yield from ask(
        Request(
            (
                command("GET", keys.paused, key=keys.paused),
                command("HMGET", keys.pause_details, "by", "since", "moved", key=keys.pause_details),
            ),
            lambda replies: (replies[0], replies[1]),
        )
    )
    by, since, moved = details
    if paused is None or moved == paused:
        return
    details_command: tuple[Command, ...] = ()
    if by is not None and since == paused:
        noted = ("HSET", other.pause_details, "by", by, "since", since)
        details_command = (command(*noted, key=other.pause_details),)
    pause = command("SET", other.paused, paused, "NX", key=other.paused)
    yield from ask(Request((*details_command, pause), lambda _: None))
    note = command("HSET", keys.pause_details, "moved", paused, key=keys.pause_details)
    yield from ask(Request((note,), lambda _: None))


def close_moved_queue(source: str, destination: str) -> Operation[bool]:
    """Add the counters of a Redis queue without tasks to another, and drop the queue.

    Return False if it has tasks, or ended attempts that the history has not recorded yet. Producers may still add to
    it: the caller looks at it again.
    """
    context = yield from get_context()
    counters = yield from ask(_close(source, now_ns=context.now_ns))
    if counters is None:
        return False
    keys, token = QueueKeys(source), counters.pop("token")
    yield from ask(_add_counters(destination, token, counters))
    drop = (
        command("DEL", keys.closing, key=keys.closing),
        command("SREM", redis_keys.QUEUES, source, key=redis_keys.QUEUES),
    )
    yield from ask(Request(drop, lambda _: None))
    return True


def _close(source: str, *, now_ns: int) -> Request[dict[str, str] | None]:
    """Return the token and the counters of a Redis queue without tasks; None if it has tasks."""
    keys = QueueKeys(source)
    counters = {name: _counter_key(keys, name) for name in _counter_names(now_ns // 1_000_000_000)}
    call = script("close_moved_queue")(
        closing=keys.closing,
        pending=keys.pending,
        active=keys.active,
        lease=keys.lease,
        scheduled=keys.scheduled,
        retry=keys.retry,
        archived=keys.archived,
        completed=keys.completed,
        groups=keys.groups,
        aggregation_sets=keys.aggregation_sets,
        claims=keys.claims,
        paused=keys.paused,
        pause_details=keys.pause_details,
        idle=keys.idle,
        runs=keys.runs,
        run_counters=keys.run_counters,
        counters=list(counters.values()),
        token=secrets.token_hex(8),
        run_field_count=len(FIELDS),
        names=[*FIELDS, *counters],
    )

    def parse(replies: Sequence[Reply]) -> dict[str, str] | None:
        if replies[0] == 0:
            return None
        return {name.decode(): value.decode() for name, value in zip(replies[0][::2], replies[0][1::2], strict=True)}

    return Request((call,), parse)


def _counter_names(now_s: int) -> list[str]:
    """Return the names of all counters of a queue: the totals, and those of each day that is kept."""
    days = [redis_keys.counter_day(now_s - back * 86_400) for back in range(_COUNTER_DAYS)]
    return [*("processed", "failed"), *(f"{name}:{day}" for name in ("processed", "failed") for day in days)]


def _counter_key(keys: QueueKeys, name: str) -> str:
    total, _, day = name.partition(":")
    if day:
        return keys.processed_on(day) if total == "processed" else keys.failed_on(day)
    return keys.processed if total == "processed" else keys.failed


def _counter_expiry(name: str) -> str:
    """Return the Unix s at which the counter of a day expires; empty for a total."""
    _, _, day = name.partition(":")
    if not day:
        return ""
    return str(int(datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) + COUNTER_TTL_S)


def _add_counters(destination: str, token: str, counters: dict[str, str]) -> Request[None]:
    keys = QueueKeys(destination)
    runs = {name: value for name, value in counters.items() if name.startswith(_RUN_PREFIX)}
    others = {name: value for name, value in counters.items() if name not in runs}
    values = [part for name, value in others.items() for part in (value, _counter_expiry(name))]
    fields_and_values = [part for name, value in runs.items() for part in (name.removeprefix(_RUN_PREFIX), value)]
    call = script("add_counters")(
        moved=keys.moved(token),
        run_counters=keys.run_counters,
        counters=[_counter_key(keys, name) for name in others],
        keep_moved_s=CLAIM_TTL_S,
        values_and_expiries_and_runs=[*values, *fields_and_values],
    )
    return Request((call,), lambda _: None, is_repeatable=True)
