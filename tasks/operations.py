"""What can be done to tasks."""

from collections.abc import Mapping

from queues.queries import resolve_queue
from runqy.broker.broker import Broker
from runqy.broker.creating import Once
from runqy.broker.producing import enqueue, new_task_id
from tasks.creation import EnqueuedTask, create_task, record_of
from tasks.orders import TaskOrder, make_task, refuse_disabled

__all__ = ["EnqueuedTask", "TaskOrder", "enqueue_task"]


def enqueue_task(
    broker: Broker,
    *,
    order: TaskOrder,
    among: frozenset[str] | None = None,
    headers: Mapping[str, str] | None = None,
    once: Once | None = None,
) -> EnqueuedTask:
    """Put a task on a queue, one round trip; with `once` the same request only once.

    `among` are the queues, by their own names, that exist for whoever asks; None: all. `headers` go with the task.
    Raises QueueNotFound, QueueDisabled, PayloadInvalid, RequestInvalid, TaskNotUnique, IdempotencyKeyReused,
    BrokerUnavailable.
    """
    resolved = resolve_queue(order.queue, among=among)
    if once is not None or order.unique is not None:
        return create_task(broker, order, resolved, headers=headers or {}, once=once)
    refuse_disabled(resolved)
    now_ns = broker.now_ns()
    task = make_task(order, resolved, task_id=new_task_id(), now_ns=now_ns, headers=headers or {})
    broker.run(enqueue(task, now_ns=now_ns, is_cluster=broker.is_cluster))
    return EnqueuedTask(record_of(task, now_ns))
