"""Restore pending tasks that are in no list.

Go's runqy-worker first pops a task and then registers it: a crash in between leaves such a task. Our own scripts do
both at once, so the search runs only while Go workers are registered, and for an hour after the last one vanished.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import structlog

from runqy.broker import keys as redis_keys
from runqy.broker.broker import Broker
from runqy.broker.duties.pending_timeouts import PendingTask, list_pending
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import KeyScanner, run_requests
from runqy.broker.scripts import command, script
from runqy.broker.workers.heartbeats import MAX_LISTED, is_go_worker

CONFIRM_AFTER_S = 60
MAX_SUSPECTS = 10_000
CHECKS_PER_STEP = 20
"""The number of suspects in one round trip. Each check searches up to 20,000 ids, which takes about 1 ms."""
SUSPECTS_PER_SEARCH = 1000
"""The number of suspects that one search through a long pending list looks for."""
SLICE_SIZE = 5000
SLICE_OVERLAP = 500
"""The number of ids that may leave a list between two slices before the search misses one."""

_TASK_KEY = re.compile(r"asynq:\{([^{}]+)\}:t:(.+)", re.DOTALL)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A task whose hash has the state `pending`, as it was read."""

    queue: str
    waiting: PendingTask


def has_go_workers() -> Request[bool]:
    """Return whether workers that can leave such tasks are registered."""
    return Request(
        (command("ZRANGE", redis_keys.WORKERS, 0, MAX_LISTED - 1, key=redis_keys.WORKERS),),
        lambda replies: any(is_go_worker(member.decode(errors="replace")) for member in replies[0]),
    )


class RestoreOutcome(IntEnum):
    """The outcome of restoring a suspect; the values are the script's return codes."""

    UNCHANGED = 0
    RESTORED = 1
    LIST_TOO_LONG = 2
    """The pending list has to be searched first."""


def restore_orphan(suspect: Suspect, *, now_ns: int, is_searched: bool = False) -> Request[RestoreOutcome]:
    """Push a task to the front of its pending list, if it is unchanged and in no list.

    `is_searched`: `find_listed` did not find the id.
    """
    keys = QueueKeys.of(suspect.queue)
    restore = script("restore_orphan")(
        task=keys.task(suspect.waiting.task_id),
        pending=keys.pending,
        active=keys.active,
        lease=keys.lease,
        idle=keys.idle,
        id=suspect.waiting.task_id,
        queue=suspect.queue,
        seen_since=suspect.waiting.since,
        now_ms=now_ns // 1_000_000,
        is_searched=int(is_searched),
    )
    return Request((restore,), lambda replies: RestoreOutcome(replies[0]))


async def find_listed(broker: AnyBroker, queue: str, task_ids: Sequence[str]) -> set[str]:
    """Return which ids are in the pending list of a queue, which may be long, in slices of about 1 ms each.

    It starts at the end to which tasks are pushed, so that those pushed meanwhile only shift ids into later slices. A
    task that is dequeued meanwhile is in another list.
    """
    pending, offset, listed = QueueKeys.of(queue).pending, 0, set[str]()
    while True:
        find = script("find_pending")(pending=pending, offset=offset, limit=SLICE_SIZE, ids=task_ids)
        size, found = await broker.send(Request((find,), lambda replies: replies[0]))
        listed |= {task_id.decode(errors="replace") for task_id in found}
        if size < SLICE_SIZE:
            return listed
        offset += SLICE_SIZE - SLICE_OVERLAP


class OrphanSearch:
    """Scans all tasks in bounded steps, and restores those that were in no list twice, CONFIRM_AFTER_S apart."""

    def __init__(self, step: int = 1000) -> None:
        self._scanner = KeyScanner(QueueKeys.of("*").task("*"), step)
        self._suspects: dict[Suspect, int] = {}  # -> s at which it was first seen

    @property
    def is_round_complete(self) -> bool:
        return self._scanner.is_at_start

    async def run_step(self, broker: Broker) -> int:
        """Check the tasks of the next step, and restore suspects that have been so for a minute; return how many were
        restored.
        """
        if not await broker.send(has_go_workers()):
            self._suspects.clear()
            return 0
        now_s = broker.now_s()
        for suspect in await self._next_suspects(broker):
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects.setdefault(suspect, now_s)
        due = [suspect for suspect, since_s in self._suspects.items() if now_s - since_s >= CONFIRM_AFTER_S]
        return await self._restore(broker, due)

    async def _next_suspects(self, broker: Broker) -> list[Suspect]:
        """Return tasks of the next step whose state is pending, but that are older than the front of their pending
        list.

        A task in the list was pushed after every task that was popped before it, so a younger task cannot be an orphan.
        """
        matches = [match for key in await self._scanner.next_keys(broker) if (match := _TASK_KEY.fullmatch(key))]
        seen = await broker.send(_read_states([(match[1], match[2]) for match in matches]))
        return await _older_than_front(broker, seen)

    async def _restore(self, broker: Broker, due: Sequence[Suspect]) -> int:
        older = sorted(
            await _older_than_front(broker, due), key=_since_ns, reverse=True
        )  # restored last, so in front: the oldest
        checked = older[:CHECKS_PER_STEP]
        outcomes = await _restore_all(broker, checked)
        for queue in {
            suspect.queue for suspect, outcome in outcomes.items() if outcome is RestoreOutcome.LIST_TOO_LONG
        }:
            suspects = [suspect for suspect in older if suspect.queue == queue][:SUSPECTS_PER_SEARCH]
            listed = await find_listed(broker, queue, [suspect.waiting.task_id for suspect in suspects])
            unlisted = [suspect for suspect in suspects if suspect.waiting.task_id not in listed]
            outcomes |= dict.fromkeys(suspects, RestoreOutcome.UNCHANGED)
            outcomes |= await _restore_all(broker, unlisted, is_searched=True)
        for suspect in ({*due} - {*older}) | {*checked} | {*outcomes}:
            del self._suspects[suspect]
        return list(outcomes.values()).count(RestoreOutcome.RESTORED)


async def _restore_all(
    broker: Broker, suspects: Sequence[Suspect], *, is_searched: bool = False
) -> dict[Suspect, RestoreOutcome]:
    """Restore suspects that are in no list, some at a time. The outcome of a request that failed is missing."""
    outcomes: dict[Suspect, RestoreOutcome] = {}
    for start in range(0, len(suspects), CHECKS_PER_STEP):
        now_ns = broker.now_ns()
        batch = {f"{s.queue}:{s.waiting.task_id}": s for s in suspects[start : start + CHECKS_PER_STEP]}
        requests = {name: restore_orphan(s, now_ns=now_ns, is_searched=is_searched) for name, s in batch.items()}
        for name, outcome in (await run_requests(broker, requests)).items():
            outcomes[batch[name]] = outcome
            if outcome is RestoreOutcome.RESTORED:
                _log.warning("orphan_restored", task=name)
    return outcomes


def _since_ns(suspect: Suspect) -> int:
    """Return since when a suspect has been pending; 0 without a time, as it may be the oldest."""
    return suspect.waiting.since_ns or 0


def _read_states(tasks: Sequence[tuple[str, str]]) -> Request[list[Suspect]]:
    hashes = [QueueKeys.of(queue).task(task_id) for queue, task_id in tasks]

    def parse(replies: Sequence[Reply]) -> list[Suspect]:
        return [
            Suspect(queue, PendingTask(task_id, (since or b"").decode(errors="replace")))
            for (queue, task_id), (state, since) in zip(
                tasks, (reply or (None, None) for reply in replies), strict=True
            )
            if state == b"pending"
        ]

    return Request(
        tuple(command("HMGET", key, "state", "pending_since", key=key) for key in hashes),
        parse,
        tolerates_wrong_types=True,
    )


async def _older_than_front(broker: Broker, suspects: Sequence[Suspect]) -> list[Suspect]:
    fronts = await run_requests(broker, {s.queue: list_pending(s.queue, limit=1) for s in suspects})

    def is_older(suspect: Suspect) -> bool:
        front_ns = next((waiting.since_ns for waiting in fronts.get(suspect.queue, [])), None)
        return front_ns is None or _since_ns(suspect) < front_ns

    return [suspect for suspect in suspects if is_older(suspect)]
