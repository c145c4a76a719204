"""The task that a client requests, and how the definition of a queue turns it into a stored task."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from queues.catalog import ResolvedQueue
from runqy.broker.tasks.enqueue import NewTask
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import PayloadTooLarge, QueueDisabled, RequestInvalid
from tasks import payloads

NS = 10**9
MIN_AWAITED_RETENTION_S = 60
"""The minimum time that the result is kept for a client that waits for it."""


class OnConflict(StrEnum):
    """What to do when another task has the same unique key."""

    REJECT = "reject"
    RETURN = "return"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniqueness:
    """A key that no two unfinished tasks of a Redis queue may share."""

    key: str
    for_s: int = 0
    """How long the key is unique after the task becomes pending; 0: until the task ends."""
    on_conflict: OnConflict = OnConflict.REJECT


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The task that a client requests."""

    queue: str
    """In any spelling."""
    payload: bytes
    """JSON on one line."""
    timeout_s: int | None = None
    """None: the queue's limit."""
    max_retry: int | None = None
    """None: the queue's limit."""
    delay_ns: int = 0
    process_at_ns: int = 0
    """Mutually exclusive with `delay_ns`. A time in the past means now; 0: now, or after the delay."""
    deadline_s: int = 0
    """Unix s after which the task does not run; 0: no deadline."""
    retention_s: int | None = None
    """How long its result is kept; None: the queue's ttl_completed."""
    unique: Uniqueness | None = None
    is_awaited: bool = False
    """The client waits for the result, so it must not be deleted before it is read."""

    def awaited(self) -> "TaskSpec":
        return msgspec.structs.replace(self, is_awaited=True)

    def starts_at_s(self, now_ns: int) -> int | None:
        """Return the Unix s at which the task may run; None: now."""
        starts_ns = self.process_at_ns or (now_ns + self.delay_ns if self.delay_ns else 0)
        # Rounded up, so that the task never runs early.
        return -(-starts_ns // NS) if starts_ns > now_ns else None


def build_task(
    spec: TaskSpec, resolved: ResolvedQueue, *, task_id: str, now_ns: int, headers: Mapping[str, str]
) -> NewTask:
    """Return the task of a spec on its queue. Raise PayloadInvalid, PayloadTooLarge, RequestInvalid."""
    limits, unique = resolved.queue.limits, spec.unique
    process_at_s = spec.starts_at_s(now_ns)
    retention_s = limits.ttl_completed_s if spec.retention_s is None else spec.retention_s
    if spec.deadline_s and spec.deadline_s * NS <= max(now_ns, (process_at_s or 0) * NS):
        raise RequestInvalid(errors=["deadline: Must be in the future, and after delay or process_at."])
    payload = payloads.add_defaults(spec.payload, resolved.queue.input)
    if 0 < limits.max_payload_bytes < len(payload):
        raise PayloadTooLarge(
            f"data: The payload has {len(payload):,} bytes; the queue {resolved.queue.name} accepts "
            f"{limits.max_payload_bytes:,} (max_payload_bytes)."
        )
    return NewTask(
        id=task_id,
        queue=resolved.redis_queue,
        payload=payload,
        timeout_s=spec.timeout_s or limits.active_timeout_s,
        deadline_s=spec.deadline_s,
        max_retry=limits.max_retry if spec.max_retry is None else spec.max_retry,
        retention_s=max(retention_s, MIN_AWAITED_RETENTION_S) if spec.is_awaited else retention_s,
        ttl_archived_s=limits.ttl_archived_s,
        process_at_s=process_at_s,
        headers=headers,
        unique_key=unique.key if unique else "",
        unique_for_s=unique.for_s if unique else 0,
        max_waiting=limits.max_waiting_tasks,
    )


def ensure_enabled(resolved: ResolvedQueue) -> None:
    if not resolved.queue.is_enabled:
        raise QueueDisabled(f"The queue {resolved.queue.name} is disabled and accepts no tasks.")


def build_record(task: NewTask, now_ns: int) -> TaskRecord:
    """Return the record of a task that was just enqueued, as it would be read back."""
    return TaskRecord(
        id=task.id,
        queue=task.queue,
        state=task.state_at(now_ns),
        message=task.message(),
        score_s=task.process_at_s,
        enqueued_at_ns=now_ns,
        ttl_archived_s=task.ttl_archived_s,
    )
