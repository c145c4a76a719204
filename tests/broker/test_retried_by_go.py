"""Tasks that a Go worker retried: it drops timeout, retention and headers from the message."""

from collections.abc import Callable

import pytest

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.dequeue import QueueWeight, dequeue, plan_dequeue
from runqy.broker.tasks.enqueue import NewTask, enqueue, enqueue_unique
from runqy.broker.tasks.enqueue_batch import BatchPart, RequestToken, enqueue_many, enqueue_unique_batch
from runqy.broker.tasks.finish import complete
from runqy.broker.tasks.reader import find_task
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, listed, new_task, put, take_one

KEYS = QueueKeys(QUEUE)
LATER_S = 4_000_000_000


def put_retried(broker: Broker, task_id: str = "t1", **hash_fields: str) -> None:
    """Enqueue a task with limits of its own, and leave it as a Go worker does that retried it once."""
    put(broker, task_id, timeout_s=2, retention_s=60, headers={"x-request-id": "r1"})
    retried = TaskMessage(type=QUEUE, queue=QUEUE, id=task_id, payload=b'{"n":1}', retry=3)
    redis_of(broker).hset(
        KEYS.task(task_id),
        mapping={"msg": retried.SerializeToString(), "retried": "1", "error_msg": "boom"} | hash_fields,
    )


@pytest.mark.parametrize("is_later", [False, True])
@pytest.mark.parametrize(
    "act",
    [
        lambda broker, task: broker.run(enqueue(task, now_ns=broker.now_ns(), is_cluster=broker.is_cluster)),
        lambda broker, task: broker.run(enqueue_many(broker, [task, new_task("t2")])),
        lambda broker, task: broker.run(enqueue_unique(task, now_ns=broker.now_ns(), is_cluster=broker.is_cluster)),
        lambda broker, task: broker.run(
            enqueue_unique_batch(
                BatchPart(queue=QUEUE, tasks=[task]),
                RequestToken("r", broker.now_ns()),
                is_cluster=broker.is_cluster,
            )
        ),
    ],
    ids=["one", "batch", "unique", "unique batch"],
)
def test_limits_are_stored_beside_the_message(
    broker: Broker, act: Callable[[Broker, NewTask], object], is_later: bool
) -> None:
    act(broker, new_task("t1", timeout_s=2, retention_s=60, process_at_s=LATER_S if is_later else None))

    stored = fields(broker, "t1")
    assert stored["state"] == (b"scheduled" if is_later else b"pending")
    assert (stored["ttl_completed"], stored["active_timeout"], stored["ttl_archived"]) == (b"60", b"2", b"259200")


def test_a_dequeued_task_has_its_limits_again(broker: Broker) -> None:
    put_retried(broker)

    message = take_one(broker).message

    assert (message.timeout, message.retention, message.retried, message.retry) == (2, 60, 1, 3)
    assert dict(message.headers) == {}


def test_a_repeated_dequeue_returns_the_limits_too(broker: Broker) -> None:
    put_retried(broker)
    request = plan_dequeue([QueueWeight(queue=QUEUE)], 1, worker_id="w1")
    broker.run(dequeue(request, now_ns=broker.now_ns()))

    (again,) = broker.run(dequeue(request.repeated(), now_ns=broker.now_ns()))

    assert (again.message.timeout, again.message.retention, again.message.retried) == (2, 60, 1)


def test_its_result_is_kept(broker: Broker) -> None:
    put_retried(broker)
    taken = take_one(broker)
    now_ns = broker.now_ns()

    broker.run(complete(taken.lease, taken.message, b'"done"', now_ns=now_ns))

    assert listed(broker) == {"completed": ["t1"]}
    assert redis_of(broker).zscore(KEYS.completed, "t1") == now_ns // 10**9 + 60
    assert fields(broker, "t1")["result"] == b'"done"'


def test_values_of_the_message_take_precedence(broker: Broker) -> None:
    put(broker, "t1", timeout_s=2, retention_s=60)
    redis_of(broker).hset(KEYS.task("t1"), mapping={"active_timeout": "9", "ttl_completed": "9"})

    message = take_one(broker).message

    assert (message.timeout, message.retention) == (2, 60)


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 20, "9" * 4000])
def test_fields_with_nonsense_end_no_worker(broker: Broker, text: str) -> None:
    put_retried(broker, retried=text, active_timeout=text, ttl_completed=text)

    message = take_one(broker).message

    assert message.id == "t1"
    assert max(message.timeout, message.retention, message.retried) <= 2**31 - 1


def test_a_task_of_another_producer_has_no_such_fields(broker: Broker) -> None:
    put(broker, "t1", timeout_s=2, retention_s=0)
    redis_of(broker).hdel(KEYS.task("t1"), "active_timeout", "ttl_completed", "ttl_archived")

    message = take_one(broker).message

    assert (message.timeout, message.retention, message.retried) == (2, 0, 0)


def test_its_limits_are_shown(broker: Broker) -> None:
    put_retried(broker)

    record = broker.run(find_task(broker, "t1", [QUEUE]))

    assert (record.message.timeout, record.message.retention) == (2, 60)
    assert (record.retried, record.error) == (1, "boom")
