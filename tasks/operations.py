"""What can be done to tasks."""

from collections.abc import Mapping
from dataclasses import dataclass

from queues.definitions import QueueDefinition
from queues.queries import get_catalog
from runqy.broker.broker import Broker
from runqy.broker.producing import NewTask, enqueue_safely, new_task_id
from runqy.broker.records import TaskRecord
from runqy.errors import QueueDisabled
from tasks import payloads


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOrder:
    """What somebody wants to have done."""

    queue: str
    """In any spelling."""
    payload: bytes
    """A JSON object on one line."""
    timeout_s: int | None = None
    """None: the queue's."""
    max_retry: int | None = None
    """None: the queue's."""
    delay_ns: int = 0


def enqueue_task(
    broker: Broker, *, order: TaskOrder, among: frozenset[str] | None = None, headers: Mapping[str, str] | None = None
) -> TaskRecord:
    """Put a task on a queue, one round trip.

    `among` are the queues, by their own names, that exist for whoever asks; None: all. `headers` go with the task.
    Raises QueueNotFound, QueueDisabled, PayloadInvalid, BrokerUnavailable.
    """
    resolved = get_catalog().resolve(order.queue, among=among)
    if not resolved.queue.is_enabled:
        raise QueueDisabled(f"The queue {resolved.queue.name} is disabled: it takes no tasks.")
    now_ns = broker.now_ns()
    task = _new_task(order, resolved.queue, resolved.redis_queue, now_ns, headers or {})
    state = enqueue_safely(broker, task, now_ns=now_ns)
    return TaskRecord(
        id=task.id,
        queue=task.queue,
        state=state,
        message=task.message(),
        score_s=task.process_at_s,
        enqueued_at_ns=now_ns,
        ttl_archived_s=task.ttl_archived_s,
    )


def _new_task(
    order: TaskOrder, queue: QueueDefinition, redis_queue: str, now_ns: int, headers: Mapping[str, str]
) -> NewTask:
    """Return the task that an order makes on a queue."""
    limits = queue.limits
    return NewTask(
        id=new_task_id(),
        queue=redis_queue,
        payload=payloads.completed(order.payload, queue.input),
        timeout_s=order.timeout_s or limits.active_timeout_s,
        max_retry=limits.max_retry if order.max_retry is None else order.max_retry,
        retention_s=limits.ttl_completed_s,
        ttl_archived_s=limits.ttl_archived_s,
        # Rounded up: a task may start late, never early.
        process_at_s=-(-(now_ns + order.delay_ns) // 10**9) if order.delay_ns else None,
        headers=headers,
    )
