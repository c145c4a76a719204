"""Delete finished tasks whose time to live is over, in bounded slices, and uniqueness locks without a task.

Go's runqy-worker leaves the locks of tasks that it deletes. They block nothing, as the next task takes them over, but
those without an expiry would stay for good.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from runqy.broker.broker import Broker
from runqy.broker.constants import ARCHIVE_MAX_AGE_S, ARCHIVE_MAX_TASKS, BATCH_MAX_TASKS
from runqy.broker.duties.orphans import has_go_workers
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scanning import KeyScanner, for_each_queue, run_requests
from runqy.broker.scripts import script
from runqy.broker.tasks.reader import remove_lookups


@dataclass(frozen=True, slots=True)
class ExpiredSlice:
    """The outcome of checking a slice of the archived tasks."""

    scanned: int
    deleted_ids: list[str]


@dataclass(slots=True)
class ArchiveCursors:
    """How far the scan through each queue's archive has come.

    The tasks at the front, usually the first to expire, are checked in every run. The scan looks for tasks behind them
    that have a shorter time to live.
    """

    offsets: dict[str, int] = field(default_factory=dict)

    def offset(self, queue: str) -> int:
        return self.offsets.get(queue, BATCH_MAX_TASKS)

    def advance(self, queue: str, outcome: ExpiredSlice) -> None:
        """Move on to the next slice, or back to the start after the last one."""
        if outcome.scanned < BATCH_MAX_TASKS:
            self.offsets.pop(queue, None)
        else:
            # Deleted tasks no longer count: those behind them have moved up.
            self.offsets[queue] = self.offset(queue) + outcome.scanned - len(outcome.deleted_ids)


def expire_completed(queue: str, *, now_ns: int, limit: int = BATCH_MAX_TASKS) -> Request[list[str]]:
    """Delete completed tasks of one queue whose retention is over, and return their ids."""
    keys = QueueKeys.of(queue)
    expire = script("expire_completed")(
        completed=keys.completed,
        task_prefix=keys.task_prefix,
        lock_prefix=keys.lock_prefix,
        now_s=now_ns // 1_000_000_000,
        limit=limit,
    )
    return Request((expire,), lambda replies: _decode_ids(replies[0]))


def expire_archived(
    queue: str, *, now_ns: int, default_ttl_s: int, offset: int = 0, max_archived: int = ARCHIVE_MAX_TASKS
) -> Request[ExpiredSlice]:
    """Check a slice of one queue's archived tasks and delete those that are too old or too many.

    Each task has its own time to live; `default_ttl_s` is for tasks of other producers. As in asynq, no task is kept
    for longer than 90 days.
    """
    keys = QueueKeys.of(queue)
    expire = script("expire_archived")(
        archived=keys.archived,
        task_prefix=keys.task_prefix,
        lock_prefix=keys.lock_prefix,
        now_s=now_ns // 1_000_000_000,
        default_ttl_s=default_ttl_s,
        max_age_s=ARCHIVE_MAX_AGE_S,
        max_tasks=max_archived,
        offset=offset,
        limit=BATCH_MAX_TASKS,
    )

    def parse(replies: Sequence[Reply]) -> ExpiredSlice:
        scanned, deleted = replies[0]
        return ExpiredSlice(scanned, _decode_ids(deleted))

    return Request((expire,), parse)


async def delete_expired(
    broker: AnyBroker,
    archived_ttls_s: Mapping[str, int],
    cursors: ArchiveCursors,
    *,
    max_archived: int = ARCHIVE_MAX_TASKS,
) -> int:
    """Delete the expired tasks of queues and return how many. `archived_ttls_s` has each queue's time to live of
    archived tasks.
    """
    now_ns = broker.now_ns()
    completed = await for_each_queue(
        broker,
        archived_ttls_s,
        partial(expire_completed, now_ns=now_ns),
        has_more=lambda ids: len(ids) == BATCH_MAX_TASKS,
    )

    def make(queue: str, offset: int = 0) -> Request[ExpiredSlice]:
        return expire_archived(
            queue,
            now_ns=now_ns,
            default_ttl_s=archived_ttls_s[queue],
            offset=offset,
            max_archived=max_archived,
        )

    archived = await for_each_queue(
        broker, archived_ttls_s, make, has_more=lambda outcome: len(outcome.deleted_ids) == BATCH_MAX_TASKS
    )
    long_archives = [
        queue for queue, outcome in archived if outcome.scanned == BATCH_MAX_TASKS > len(outcome.deleted_ids)
    ]
    scanned_slices = await run_requests(broker, {queue: make(queue, cursors.offset(queue)) for queue in long_archives})
    for queue, outcome in scanned_slices.items():
        cursors.advance(queue, outcome)
    deleted = completed + [(queue, outcome.deleted_ids) for queue, outcome in (*archived, *scanned_slices.items())]
    for queue, ids in deleted:
        # An index entry is in another slot of a cluster, so the script could not remove it.
        await remove_lookups(broker, queue, ids)
    return sum(len(ids) for _, ids in deleted)


def _decode_ids(ids: Sequence[bytes]) -> list[str]:
    return [task_id.decode(errors="replace") for task_id in ids]


_LOCK_KEY = re.compile(r"asynq:\{([^{}]+)\}:unique:.*", re.DOTALL)


def delete_stray_lock(queue: str, lock: str) -> Request[bool]:
    """Delete a lock of a queue if it has no expiry and its task is gone; return whether it was deleted."""
    call = script("delete_stray_lock")(lock=lock, task_prefix=QueueKeys.of(queue).task_prefix)
    return Request((call,), lambda replies: replies[0] == 1)


class StrayLockSearch:
    """Scans all locks in bounded steps while Go workers are registered, and for an hour after the last one vanished."""

    def __init__(self, step: int = 1000) -> None:
        self._scanner = KeyScanner(f"{QueueKeys.of('*').lock_prefix}*", step, "string")

    @property
    def is_round_complete(self) -> bool:
        return self._scanner.is_at_start

    async def run_step(self, broker: Broker) -> int:
        """Check the locks of the next step; return how many were deleted."""
        if not await broker.send(has_go_workers()):
            return 0
        matches = [match for key in await self._scanner.next_keys(broker) if (match := _LOCK_KEY.fullmatch(key))]
        outcomes = await run_requests(broker, {match[0]: delete_stray_lock(match[1], match[0]) for match in matches})
        return sum(outcomes.values())
