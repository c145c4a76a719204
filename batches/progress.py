"""What follows when members of a batch changed: its counts, its end, its callback. The caller holds the row's lock."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from django.conf import settings
from django.db.models import F

from batches.models import Batch, CallbackState, Condition, MemberState, WaitingMembers
from runqy.broker.broker import Broker
from runqy.broker.streams.ends import Notify
from runqy.broker.tasks.enqueue import NewTask
from runqy.core.formats.json_decoding import convert
from runqy.maintenance.wakeups import wake_duty
from webhooks.messages import schedule_batch_ended

SMALL_CALLBACK_BYTES = 4096
"""A callback of this size takes no more than the row of its batch. One that is never due is kept as long."""


def lock_batch(batch_id: str) -> Batch | None:
    """Return the row of a batch, locked until the transaction ends. SQLite locks the whole database."""
    # Without the callback, which may be large: it would be written back with each change.
    return Batch.objects.select_for_update().defer("callback_request").filter(pk=batch_id).first()


def encode_task(task: NewTask) -> bytes:
    """Return a task that a client requested, for a row."""
    return msgspec.msgpack.encode(task)


def decode_task(content: bytes | memoryview) -> NewTask:
    # Not decoded as a `NewTask`: the limits that its queue decides are not valid for a task.
    values = dict(zip(NewTask.__struct_fields__, msgspec.msgpack.decode(content), strict=False))
    notify = values.get("notify")
    return NewTask(**values | {"notify": notify and convert(notify, Notify)})


@dataclass(frozen=True, slots=True)
class Waiting:
    """Members that wait, or no longer do if the numbers are negative."""

    count: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Waiting") -> "Waiting":
        return Waiting(self.count + other.count, self.size_bytes + other.size_bytes)

    def __neg__(self) -> "Waiting":
        return Waiting(-self.count, -self.size_bytes)


def sum_waiting(sizes: Iterable[tuple[str, int]]) -> dict[str, Waiting]:
    """Return what members are together, by Redis queue; each is given by its Redis queue and its size."""
    found: defaultdict[str, Waiting] = defaultdict(Waiting)
    for redis_queue, size_bytes in sizes:
        found[redis_queue] += Waiting(1, size_bytes)
    return found


def measure_callback(batch: Batch) -> dict[str, Waiting]:
    """Return what the callback of a batch takes in the database, by Redis queue. A small one is not counted."""
    size_bytes = len(batch.callback_request or b"")
    return {batch.callback_queue: Waiting(0, size_bytes)} if size_bytes > SMALL_CALLBACK_BYTES else {}


def count_waiting(batch: Batch, changes: Mapping[str, Waiting]) -> None:
    """Add to the members of a batch that wait, by Redis queue."""
    for redis_queue, change in sorted(changes.items()):
        row = WaitingMembers.objects.filter(batch=batch, redis_queue=redis_queue)
        if row.update(count=F("count") + change.count, size_bytes=F("size_bytes") + change.size_bytes):
            row.filter(count__lte=0, size_bytes__lte=0).delete()
        elif change.count > 0 or change.size_bytes > 0:
            new = WaitingMembers(batch=batch, redis_queue=redis_queue, owner=batch.owner)
            new.count, new.size_bytes = change.count, change.size_bytes
            new.save(force_insert=True)


def settle(
    broker: Broker, batch: Batch, changes: Mapping[str, int], waiting: Mapping[str, Waiting] | None = None
) -> None:
    """Add to the counts of members by state, of `waiting` by Redis queue, and save what follows from them.

    The callback becomes due when its condition is met for the first time.
    """
    count_waiting(batch, waiting or {})
    counts = {state: batch.counts.get(state, 0) + changes.get(state, 0) for state in MemberState.values}
    batch.counts = {state: count for state, count in counts.items() if count}
    batch.has_problem = batch.has_problem or bool(batch.counts.get(MemberState.UNKNOWN))
    now = broker.now()
    if batch.is_ended and batch.ended_at is None:
        batch.ended_at = now
        schedule_batch_ended(batch_id=batch.pk, queues=batch.queues, data=describe_end(batch), now=now)
    if batch.callback_state == CallbackState.PLANNED and _is_condition_met(batch):
        batch.callback_state, batch.callback_task_id = CallbackState.WAITING, str(uuid.uuid4())
        batch.callback_requested_s = int(now.timestamp())
    batch.save()
    if batch.busy_until is not None or batch.callback_state == CallbackState.WAITING:
        wake_duty("batches")


def describe_end(batch: Batch) -> dict[str, Any]:
    """Return what a callback and webhooks are told of a batch."""
    return {
        "id": batch.pk,
        "name": batch.name,
        "total": batch.total,
        "counts": {state: batch.counts.get(state, 0) for state in MemberState.values},
        "ended_at": batch.ended_at and f"{batch.ended_at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "url": f"{settings.RUNQY_PUBLIC_URL}/batches/{batch.pk}",
    }


def _is_condition_met(batch: Batch) -> bool:
    is_success = batch.completed_count == batch.total
    wanted = {Condition.ENDED: True, Condition.SUCCEEDED: is_success, Condition.FAILED: not is_success}
    return batch.is_ended and wanted[Condition(batch.on)]
