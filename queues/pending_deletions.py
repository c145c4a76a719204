"""Deletions in progress: their leases, and the names that cannot be used until they have finished."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from queues.catalog import AllowedQueues
from queues.definitions import QueueSpec
from queues.models import QueueDeletion
from runqy import clock
from runqy.audit.actors import current_actor
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.core.formats.names import SEPARATORS
from runqy.errors import BrokerUnavailable, QueueBeingDeleted, QueueNotEmpty
from runqy.redis_connection import get_broker

LEASE_S = 30
"""After this time without an extension another process may take over the deletion."""

_EXTEND_AFTER_S = 5
_UNFINISHED = ("pending", "scheduled", "retry", "aggregating", "active")


class DeletionLease:
    """The exclusive right of a process to continue a deletion.

    Without it a slow process could delete tasks of a new queue under the same name.
    """

    def __init__(self, deletion: QueueDeletion) -> None:
        """Take the lease. Raise QueueBeingDeleted while another process holds it."""
        self._pk, self._token = deletion.pk, secrets.token_hex(16)
        expired = QueueDeletion.objects.filter(pk=self._pk, leased_until__lte=timezone.now())
        self._require(expired.update(lease=self._token, leased_until=_after(LEASE_S)))

    def extend(self) -> None:
        """Extend the lease before a step. Raise QueueBeingDeleted if it is lost."""
        if clock.monotonic_s() - self._extended_at >= _EXTEND_AFTER_S:
            self._require(self._own.update(leased_until=_after(LEASE_S)))

    def release(self) -> None:
        """End the lease, so that maintenance continues."""
        self._own.update(lease="", leased_until=_after(0))

    def __enter__(self) -> None:
        """Hold the lease until the block raises; the deletion of the row ends it otherwise."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            # Maintenance tries again at once after other errors; tasks need time to end.
            self._own.update(lease="", leased_until=_after(LEASE_S if kind is QueueNotEmpty else 0))

    @property
    def _own(self) -> "QuerySet[QueueDeletion]":
        return QueueDeletion.objects.filter(pk=self._pk, lease=self._token)

    def _require(self, updated: int) -> None:
        if not updated:
            raise QueueBeingDeleted
        self._extended_at = clock.monotonic_s()


def find_deletion(name: str, *, allowed_queues: AllowedQueues = None) -> QueueDeletion | None:
    for deletion in QueueDeletion.objects.all():
        names = {deletion.queue} if deletion.is_whole else _aliases_of_sub_queue(deletion)
        if name in names and (allowed_queues is None or deletion.queue in allowed_queues):
            return deletion
    return None


def record_deletion(
    queue: str, sub_queue: str = "", *, redis_queues: Sequence[str], is_whole: bool = False
) -> QueueDeletion:
    """Record a deletion in the transaction that closes the queue or drops the sub-queue.

    The deletion of a whole queue includes the pending deletions of its sub-queues.
    """
    recorded = QueueDeletion.objects.filter(queue=queue)
    names = [*redis_queues, *(name for deletion in recorded if is_whole for name in deletion.redis_queues)]
    recorded.filter(sub_queue=sub_queue, is_whole=is_whole).delete()
    return QueueDeletion.objects.create(
        queue=queue,
        sub_queue=sub_queue,
        redis_queues=[*dict.fromkeys(names)],
        is_whole=is_whole,
        actor=msgspec.structs.asdict(current_actor()),
        leased_until=timezone.now(),
    )


def update_pending_deletions(before: QueueSpec | None, after: QueueSpec) -> None:
    """Record the Redis queues that a change drops, and cancel the deletions of those that it adds again.

    Call this in the transaction of the change, which holds the lock of all changes. Raise QueueBeingDeleted if a name
    of the queue belongs to a deletion that cannot be cancelled.
    """
    aliases = {name for mark in SEPARATORS for name, _ in after.redis_queues(mark)}
    for deletion in QueueDeletion.objects.all():
        is_reused = not aliases.isdisjoint(deletion.redis_queues)
        if (is_reused and (deletion.is_decided or deletion.is_whole)) or (
            deletion.is_whole and deletion.queue == after.name
        ):
            raise QueueBeingDeleted(f"{deletion} is still being deleted; try again in a few seconds.")
        if is_reused:
            deletion.delete()
    for name, sub_queue in dropped_redis_queues(before, after):
        record_deletion(after.name, sub_queue, redis_queues=[name])


def ensure_no_tasks_stranded(before: QueueSpec, after: QueueSpec) -> None:
    """Raise QueueNotEmpty if a Redis queue that a change drops has unfinished tasks."""
    if not (dropped := dropped_redis_queues(before, after)):
        return
    try:
        broker = get_broker()
        ensure_empty(broker.run(count_tasks([name for name, _ in dropped], now_ns=broker.now_ns())))
    except BrokerUnavailable:
        return  # the change is allowed: the deletion waits until such tasks have finished


def ensure_empty(counts: Sequence[QueueCounts]) -> None:
    """Raise QueueNotEmpty if a Redis queue has unfinished tasks."""
    for queue in counts:
        numbers = {state: getattr(queue, state) for state in _UNFINISHED}
        if any(numbers.values()):
            found = " and ".join(f"{number:,} {state}" for state, number in numbers.items() if number)
            raise QueueNotEmpty(
                f"{queue.queue} has {found} {'task' if sum(numbers.values()) == 1 else 'tasks'}; "
                f"delete {queue.queue} with force=true to delete them too."
            )


def dropped_redis_queues(before: QueueSpec | None, after: QueueSpec) -> list[tuple[str, str]]:
    """Return the Redis queues that a change of a queue drops, each with the name of its sub-queue."""
    if before is None:
        return []
    mark = settings.RUNQY_SUBQUEUE_SEPARATOR
    kept = {name for name, _ in after.redis_queues(mark)}
    subs = [sub.name for sub in before.sub_queues] or [""]
    return [(name, sub) for (name, _), sub in zip(before.redis_queues(mark), subs, strict=True) if name not in kept]


def _aliases_of_sub_queue(deletion: QueueDeletion) -> set[str]:
    if not deletion.sub_queue:
        return set()  # the Redis queue of a queue that had no sub-queues: its name means the queue
    return {*deletion.redis_queues, *(f"{deletion.queue}{mark}{deletion.sub_queue}" for mark in SEPARATORS)}


def _after(seconds: int) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)
