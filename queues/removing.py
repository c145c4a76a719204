"""Owns the removals under way: what is to be emptied in Redis, and what may not be saved meanwhile."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from queues.definitions import QueueSpec
from queues.models import QueueRemoval
from queues.names import SEPARATORS, AllowedQueues
from runqy import clock
from runqy.audit.actors import current_actor
from runqy.broker.counting import QueueCounts, count_tasks
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, QueueBeingRemoved, QueueNotEmpty

__all__ = ["Claim", "find_removal", "note_removal", "refuse_stranding", "refuse_tasks", "settle_removals"]

CLAIM_S = 30
"""How long after its process was last heard of somebody else takes a removal over."""

_RENEW_AFTER_S = 5


class Claim:
    """One process's right to go on with a removal, so that nothing is deleted under a name that was given back."""

    def __init__(self, removal: QueueRemoval) -> None:
        """Take the removal over. Raises QueueBeingRemoved while another process is at it."""
        self._pk, self._token = removal.pk, secrets.token_hex(16)
        free = QueueRemoval.objects.filter(pk=self._pk, claimed_until__lte=timezone.now())
        self._expect(free.update(claim=self._token, claimed_until=_in(CLAIM_S)))

    def renew(self) -> None:
        """Keep the right; call this before every step. Raises QueueBeingRemoved when it is lost."""
        if clock.monotonic_s() - self._renewed_at >= _RENEW_AFTER_S:
            self._expect(self._own.update(claimed_until=_in(CLAIM_S)))

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let others go on with what was not finished; later, where it waits for tasks to be over."""
        if kind:
            self._own.update(claim="", claimed_until=_in(CLAIM_S if kind is QueueNotEmpty else 0))

    @property
    def _own(self) -> "QuerySet[QueueRemoval]":
        """Return the removal while the claim holds."""
        return QueueRemoval.objects.filter(pk=self._pk, claim=self._token)

    def _expect(self, count: int) -> None:
        """Note that the claim holds from now on, or raise QueueBeingRemoved."""
        if not count:
            raise QueueBeingRemoved
        self._renewed_at = clock.monotonic_s()


def find_removal(name: str, *, allowed_queues: AllowedQueues = None) -> QueueRemoval | None:
    """Return the removal under way that a name means."""
    for removal in QueueRemoval.objects.all():
        names = {removal.queue} if removal.is_whole else _names_of_sub_queue(removal)
        if name in names and (allowed_queues is None or removal.queue in allowed_queues):
            return removal
    return None


def note_removal(
    queue: str, sub_queue: str = "", *, redis_queues: Sequence[str], is_whole: bool = False
) -> QueueRemoval:
    """Write down what is to be removed, in the transaction that takes it out of use.

    A queue's removal has what is left of its sub-queues too.
    """
    noted = QueueRemoval.objects.filter(queue=queue)
    names = [*redis_queues, *(name for removal in noted if is_whole for name in removal.redis_queues)]
    noted.filter(sub_queue=sub_queue, is_whole=is_whole).delete()
    return QueueRemoval.objects.create(
        queue=queue,
        sub_queue=sub_queue,
        redis_queues=[*dict.fromkeys(names)],
        is_whole=is_whole,
        actor=msgspec.structs.asdict(current_actor()),
        claimed_until=timezone.now(),
    )


def settle_removals(before: QueueSpec | None, after: QueueSpec) -> None:
    """Note which Redis queues go when a queue is saved; forget those that come back. Raises QueueBeingRemoved.

    Call it in the transaction of the change, when no other is under way.
    """
    claimed = {name for mark in SEPARATORS for name, _ in after.redis_queues(mark)}
    for removal in QueueRemoval.objects.all():
        is_concerned = not claimed.isdisjoint(removal.redis_queues)
        if (is_concerned and (removal.is_decided or removal.is_whole)) or (
            removal.is_whole and removal.queue == after.name
        ):
            raise QueueBeingRemoved(f"What was removed as {removal} is not all gone yet; try again in a few seconds.")
        if is_concerned:
            removal.delete()
    for name, sub_queue in _dropped(before, after):
        note_removal(after.name, sub_queue, redis_queues=[name])


def refuse_stranding(before: QueueSpec, after: QueueSpec) -> None:
    """Raise QueueNotEmpty if tasks are left in a Redis queue that a change of its queue takes out of use."""
    if not (dropped := _dropped(before, after)):
        return
    try:
        broker = get_broker()
        refuse_tasks(broker.run(count_tasks([name for name, _ in dropped], now_ns=broker.now_ns())))
    except BrokerUnavailable:
        return  # the removal waits for them to be over


def refuse_tasks(counts: Sequence[QueueCounts]) -> None:
    """Raise QueueNotEmpty when tasks are not over."""
    for queue in counts:
        waiting = queue.pending + queue.scheduled + queue.retry + queue.aggregating
        if waiting or queue.active:
            raise QueueNotEmpty(
                f"In {queue.queue} {waiting} tasks wait and {queue.active} run; "
                f"removing {queue.queue} with force=true removes them too."
            )


def _dropped(before: QueueSpec | None, after: QueueSpec) -> list[tuple[str, str]]:
    """Return the Redis queues, each with its sub-queue's name, that a queue has no more."""
    if before is None:
        return []
    mark = settings.RUNQY_SUBQUEUE_SEPARATOR
    kept = {name for name, _ in after.redis_queues(mark)}
    subs = [sub.name for sub in before.sub_queues] or [""]
    return [(name, sub) for (name, _), sub in zip(before.redis_queues(mark), subs, strict=True) if name not in kept]


def _names_of_sub_queue(removal: QueueRemoval) -> set[str]:
    """Return every name that means the sub-queue that is removed; none where the queue's own line is, not the queue."""
    if not removal.sub_queue:
        return set()
    return {*removal.redis_queues, *(f"{removal.queue}{mark}{removal.sub_queue}" for mark in SEPARATORS)}


def _in(seconds: int) -> datetime:
    """Return the time in some seconds."""
    return timezone.now() + timedelta(seconds=seconds)
