"""Enqueue and dequeue tasks in tests, and read what is in Redis."""

from typing import Any

from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.keys import QueueKeys
from runqy.broker.message import decode
from runqy.broker.request import raise_error
from runqy.broker.states import TaskState
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.tasks.finish import Failure, retry
from runqy.broker.tasks.lease import LeasedTask
from tests.support.redis_client import redis_of

QUEUE = "mail"


def new_task(task_id: str, queue: str = QUEUE, *, process_at_s: int | None = None, **options: Any) -> NewTask:
    options["process_at_us"] = (process_at_s or 0) * 10**6
    return NewTask(id=task_id, queue=queue, payload=options.pop("payload", b'{"n":1}'), **options)


def put(broker: Broker, *task_ids: str, queue: str = QUEUE, **options: Any) -> None:
    for task_id in task_ids:
        broker.run(enqueue(new_task(task_id, queue, **options), now_ns=broker.now_ns(), is_cluster=broker.is_cluster))


def put_in_group(broker: Broker, group: str, task_id: str, *, queue: str = QUEUE) -> None:
    """Move a pending task into a group, as one of asynq's clients stores it."""
    queue_keys = QueueKeys(queue)
    redis_of(broker).lrem(queue_keys.pending, 1, task_id)
    redis_of(broker).hset(queue_keys.task(task_id), mapping={"state": "aggregating", "group": group})
    redis_of(broker).zadd(queue_keys.group(group), {task_id: 1_700_000_000})
    redis_of(broker).sadd(queue_keys.groups, group)


def take(broker: Broker, count: int = 1, *queues: str, **options: Any) -> list[LeasedTask]:
    """Dequeue up to `count` tasks from queues of the same priority."""
    shares = [QueueWeight(queue=queue) for queue in queues or (QUEUE,)]
    order = plan_dequeue(shares, count, worker_id=options.pop("worker_id", "w1"), **options)
    return raise_error(broker.run(dequeue_tasks(broker, order, now_ns=broker.now_ns()))[0])


def take_one(broker: Broker, queue: str = QUEUE) -> LeasedTask:
    """Dequeue one task, which must exist."""
    (taken,) = take(broker, 1, queue)
    return taken


def fail(broker: Broker, taken: LeasedTask) -> None:
    """Let a run fail, and the task be pending again."""
    failure = Failure(error="boom", retry_at_s=broker.now_s() - 1)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    broker.run(forward(taken.lease.queue, TaskState.RETRY, now_ns=broker.now_ns()))


def ids(tasks: list[LeasedTask]) -> list[str]:
    return [taken.lease.task_id for taken in tasks]


def fields(broker: Broker, task_id: str, queue: str = QUEUE) -> dict[str, bytes]:
    """Return a task's hash without its message."""
    found = redis_of(broker).hgetall(QueueKeys(queue).task(task_id))
    return {name.decode(): value for name, value in found.items() if name != b"msg"}


def message(broker: Broker, task_id: str, queue: str = QUEUE) -> Any:
    return decode(redis_of(broker).hget(QueueKeys(queue).task(task_id), "msg"))


def listed(broker: Broker, queue: str = QUEUE) -> dict[str, list[str]]:
    """Return the ids in each index that is not empty. Those of lists are in the order in which they are dequeued."""
    keys, client = QueueKeys(queue), redis_of(broker)
    found = {
        "pending": client.lrange(keys.pending, 0, -1)[::-1],
        "active": client.lrange(keys.active, 0, -1)[::-1],
        "lease": client.zrange(keys.lease, 0, -1),
    }
    for state in (TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED, TaskState.COMPLETED):
        found[state.value] = client.zrange(keys.index(state), 0, -1)
    return {name: [task_id.decode() for task_id in members] for name, members in found.items() if members}


def counters(broker: Broker, queue: str = QUEUE) -> tuple[int, int]:
    """Return the numbers of attempts that were counted as processed and as failed."""
    keys = QueueKeys(queue)
    return int(redis_of(broker).get(keys.processed) or 0), int(redis_of(broker).get(keys.failed) or 0)
