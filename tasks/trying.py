"""Puts a task on a queue because somebody wants to see what becomes of it."""

from collections.abc import Mapping

from queues.queries import resolve_queue
from runqy.audit.operations import announced
from runqy.broker.broker import Broker
from runqy.broker.producing import enqueue, new_task_id
from runqy.broker.records import TaskRecord
from tasks.creation import record_of
from tasks.orders import TaskOrder, make_task, refuse_disabled
from tasks.queries import await_queued_task

__all__ = ["try_task"]


def try_task(broker: Broker, *, order: TaskOrder, headers: Mapping[str, str], longest_s: float) -> TaskRecord:
    """Record that somebody queues a task, queue it, and return it once it is over, or as it is when time is up.

    Raises QueueNotFound, QueueDisabled, PayloadInvalid, RequestInvalid, BrokerUnavailable.
    """
    resolved = resolve_queue(order.queue)
    refuse_disabled(resolved)
    now_ns = broker.now_ns()
    task = make_task(order, resolved, task_id=new_task_id(), now_ns=now_ns, headers=headers)
    changes = {"queue": (None, task.queue)}
    with announced(action="task.created", object_kind="task", object_name=task.id, changes=changes):
        broker.run(enqueue(task, now_ns=now_ns, is_cluster=broker.is_cluster))
    return await_queued_task(broker, task.id, longest_s=longest_s) or record_of(task, now_ns)
