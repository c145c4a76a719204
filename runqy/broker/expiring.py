"""Deletes ended tasks that were kept long enough, in bounded slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.links import Reply
from runqy.broker.lookups import forget_lookups
from runqy.broker.operation import Request
from runqy.broker.scripts import script
from runqy.broker.sweeping import run_each, sweep
from runqy.broker.timing import ARCHIVE_MAX_AGE_S, ARCHIVE_MAX_TASKS, BATCH_MAX_TASKS


@dataclass(frozen=True, slots=True)
class Slice:
    """What came of looking at a slice of the archived tasks."""

    looked_at: int
    gone: list[str]
    """Ids that left the index."""


@dataclass(slots=True)
class ArchiveRounds:
    """Remembers how far the walk through each queue's archive has come.

    The oldest tasks are looked at every time. The walk is for those with a shorter time to live that stand behind.
    """

    offsets: dict[str, int] = field(default_factory=dict)

    def offset(self, queue: str) -> int:
        """Return where the next slice of a queue starts."""
        return self.offsets.get(queue, BATCH_MAX_TASKS)

    def advance(self, queue: str, outcome: Slice) -> None:
        """Go on behind a slice, or back to the start when it was the last."""
        if outcome.looked_at < BATCH_MAX_TASKS:
            self.offsets.pop(queue, None)
        else:
            self.offsets[queue] = self.offset(queue) + outcome.looked_at - len(outcome.gone)


def expire_completed(queue: str, *, now_ns: int, limit: int = BATCH_MAX_TASKS) -> Request[list[str]]:
    """Delete completed tasks of one queue that were kept long enough (contract 3.19), and return their ids."""
    keys = QueueKeys(queue)
    expire = script("expire_completed")(
        completed=keys.completed,
        task_prefix=keys.task_prefix,
        lock_prefix=keys.lock_prefix,
        now_s=now_ns // 1_000_000_000,
        limit=limit,
    )
    return Request((expire,), lambda replies: _texts(replies[0]))


def expire_archived(queue: str, *, now_ns: int, default_ttl_s: int, offset: int = 0) -> Request[Slice]:
    """Look at a slice of one queue's archived tasks and delete those that are too old or too many.

    A task says itself how long it is kept; `default_ttl_s` is for those of other producers. Nothing is kept longer
    than asynq would, 90 days, and no more than 10,000 tasks.
    """
    keys = QueueKeys(queue)
    expire = script("expire_archived")(
        archived=keys.archived,
        task_prefix=keys.task_prefix,
        lock_prefix=keys.lock_prefix,
        now_s=now_ns // 1_000_000_000,
        default_ttl_s=default_ttl_s,
        max_age_s=ARCHIVE_MAX_AGE_S,
        max_tasks=ARCHIVE_MAX_TASKS,
        offset=offset,
        limit=BATCH_MAX_TASKS,
    )

    def parse(replies: Sequence[Reply]) -> Slice:
        looked_at, gone = replies[0]
        return Slice(looked_at, _texts(gone))

    return Request((expire,), parse)


def expire_ended(broker: Broker, archived_ttls_s: Mapping[str, int], rounds: ArchiveRounds) -> int:
    """Delete what the queues (with how long each keeps archived tasks) have kept long enough; return how many tasks."""
    now_ns = broker.now_ns()
    completed = sweep(
        broker,
        archived_ttls_s,
        partial(expire_completed, now_ns=now_ns),
        has_more=lambda ids: len(ids) == BATCH_MAX_TASKS,
    )

    def make(queue: str, offset: int = 0) -> Request[Slice]:
        return expire_archived(queue, now_ns=now_ns, default_ttl_s=archived_ttls_s[queue], offset=offset)

    archived = sweep(broker, archived_ttls_s, make, has_more=lambda outcome: len(outcome.gone) == BATCH_MAX_TASKS)
    long_archives = [queue for queue, outcome in archived if outcome.looked_at == BATCH_MAX_TASKS > len(outcome.gone)]
    walked = run_each(broker, {queue: make(queue, rounds.offset(queue)) for queue in long_archives})
    for queue, outcome in walked.items():
        rounds.advance(queue, outcome)
    gone = completed + [(queue, outcome.gone) for queue, outcome in (*archived, *walked.items())]
    for queue, ids in gone:
        broker.run(forget_lookups(queue, ids))
    return sum(len(ids) for _, ids in gone)


def _texts(ids: Sequence[bytes]) -> list[str]:
    """Read ids from a reply."""
    return [task_id.decode(errors="replace") for task_id in ids]
