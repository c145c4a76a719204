"""What follows when members of a batch changed: its counts, its end, its callback. The caller holds the row's lock."""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from django.conf import settings

from batches.models import Batch, CallbackState, Condition, MemberState
from runqy.broker.broker import Broker
from runqy.broker.notify import Notify
from runqy.broker.tasks.enqueue import NewTask
from runqy.formats.json_decoding import convert
from webhooks.messages import schedule_batch_ended


def lock_batch(batch_id: str) -> Batch | None:
    """Return the row of a batch, locked until the transaction ends. SQLite locks the whole database."""
    return Batch.objects.select_for_update().filter(pk=batch_id).first()


def encode_task(task: NewTask) -> bytes:
    """Return a task that a client requested, for a row."""
    return msgspec.msgpack.encode(task)


def decode_task(content: bytes | memoryview) -> NewTask:
    # Not decoded as a `NewTask`: the limits that its queue decides are not valid for a task.
    values = dict(zip(NewTask.__struct_fields__, msgspec.msgpack.decode(content), strict=False))
    notify = values.get("notify")
    return NewTask(**values | {"notify": notify and convert(notify, Notify)})


def settle(broker: Broker, batch: Batch, changes: Mapping[str, int]) -> None:
    """Add to the counts of members by state, and save what follows from them.

    The callback becomes due when its condition is met for the first time.
    """
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
