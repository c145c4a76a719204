"""A queue with a limit of waiting tasks accepts no more, however they are sent, and stores nothing of the others."""

from collections.abc import Callable

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.enqueue import (
    IdempotencyKey,
    IdempotencyRecord,
    LockConflict,
    NewTask,
    TaskCreated,
    enqueue,
    enqueue_unique,
)
from runqy.broker.tasks.enqueue_batch import BatchPart, RequestToken, enqueue_many, enqueue_unique_batch
from runqy.broker.tasks.finish import Failure, retry
from runqy.broker.tasks.inspector import delete_tasks
from runqy.errors import QueueFull
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, listed, new_task, put, take_one

LIMIT = 2
Send = Callable[[Broker, NewTask], object]


def send(broker: Broker, task: NewTask) -> object:
    return broker.run(enqueue(task, now_ns=broker.now_ns(), is_cluster=broker.is_cluster))


def send_unique(broker: Broker, task: NewTask) -> object:
    return broker.run(enqueue_unique(task, now_ns=broker.now_ns(), is_cluster=broker.is_cluster))


def send_batch(broker: Broker, task: NewTask) -> object:
    (outcome,) = broker.run(enqueue_many(broker, [task]))
    if isinstance(outcome, QueueFull):
        raise outcome
    return outcome


def send_unique_batch(broker: Broker, task: NewTask) -> object:
    part = BatchPart(queue=task.queue, tasks=[task])
    request = enqueue_unique_batch(part, RequestToken("t", broker.now_ns()), is_cluster=broker.is_cluster)
    (outcome,) = broker.run(request).outcomes
    if isinstance(outcome, QueueFull):
        raise outcome
    return outcome


WAYS = pytest.mark.parametrize("send", [send, send_unique, send_batch, send_unique_batch])


def limited(task_id: str, **options: object) -> NewTask:
    return new_task(task_id, max_waiting=LIMIT, **options)


@WAYS
@pytest.mark.parametrize("delay_s", [0, 60])
def test_a_full_queue_accepts_no_task_and_stores_nothing_of_it(broker: Broker, send: Send, delay_s: int) -> None:
    put(broker, "t1")
    put(broker, "t2", process_at_s=broker.now_s() + 60)
    before = listed(broker)

    with pytest.raises(QueueFull):
        send(broker, limited("t3", unique_key="k", process_at_s=broker.now_s() + delay_s))

    assert listed(broker) == before
    assert not redis_of(broker).exists(QueueKeys(QUEUE).task("t3"))
    assert not redis_of(broker).exists(QueueKeys(QUEUE).lock("k"))


@WAYS
def test_there_is_room_again_as_soon_as_a_task_is_dequeued(broker: Broker, send: Send) -> None:
    put(broker, "t1", "t2")
    take_one(broker)

    send(broker, limited("t3"))

    assert listed(broker)["pending"] == ["t2", "t3"]


@WAYS
def test_a_task_that_is_to_be_retried_waits_too(broker: Broker, send: Send) -> None:
    put(broker, "t1", "t2")
    taken = take_one(broker)
    broker.run(
        retry(taken.lease, taken.message, Failure(error="e", retry_at_s=broker.now_s() + 60), now_ns=broker.now_ns())
    )

    with pytest.raises(QueueFull):
        send(broker, limited("t3"))


@WAYS
def test_a_task_that_runs_does_not_wait(broker: Broker, send: Send) -> None:
    put(broker, "t1", "t2", "t3")
    for _ in range(3):
        take_one(broker)

    send(broker, limited("t4"))

    assert listed(broker)["pending"] == ["t4"]


def test_a_request_can_be_repeated_when_the_queue_has_become_full(broker: Broker) -> None:
    put(broker, "t1")
    now_ns = broker.now_ns()
    first = enqueue(limited("t2"), now_ns=now_ns, is_cluster=broker.is_cluster)

    assert broker.run(first) == broker.run(first)
    assert listed(broker)["pending"] == ["t1", "t2"]


def test_one_call_of_a_batch_fills_the_queue_in_order(broker: Broker) -> None:
    later_s = broker.now_s() + 60
    # A script that the queue's server does not know yet is sent again, after the others.
    broker.run(enqueue_many(broker, [new_task("w1"), new_task("w2", process_at_s=later_s)]))
    broker.run(delete_tasks(QUEUE, ["w1", "w2"]))
    put(broker, "t1")

    outcomes = broker.run(enqueue_many(broker, [limited("t2"), limited("t3"), limited("t4", process_at_s=later_s)]))

    assert [isinstance(outcome, QueueFull) for outcome in outcomes] == [False, True, True]
    assert str(outcomes[1]) == "The queue mail has 2 waiting tasks, its limit (max_waiting_tasks)."


def test_a_batch_with_unique_keys_fills_the_queue(broker: Broker) -> None:
    put(broker, "t1")
    tasks = [limited(name, unique_key=name) for name in ("t2", "t3")]
    request = enqueue_unique_batch(
        BatchPart(queue=QUEUE, tasks=tasks), RequestToken("t", broker.now_ns()), is_cluster=broker.is_cluster
    )

    first, second = broker.run(request).outcomes

    assert first is TaskCreated.NOW
    assert isinstance(second, QueueFull)
    assert not redis_of(broker).exists(QueueKeys(QUEUE).lock("t3"))


def test_an_existing_task_is_returned_by_its_unique_key_although_the_queue_is_full(broker: Broker) -> None:
    put(broker, "t1")
    send_unique(broker, limited("t2", unique_key="k"))

    assert send_unique(broker, limited("t3", unique_key="k")) == LockConflict("t2")


def test_a_refused_request_is_not_stored_for_its_idempotency_key(broker: Broker) -> None:
    put(broker, "t1", "t2")
    record = IdempotencyRecord(IdempotencyKey(scope="s", fingerprint="f"), b"response")

    def post() -> object:
        request = enqueue_unique(limited("t3"), now_ns=broker.now_ns(), record=record, is_cluster=broker.is_cluster)
        return broker.run(request)

    with pytest.raises(QueueFull):
        post()
    take_one(broker)

    assert post() is TaskCreated.NOW


def test_a_single_server_keeps_no_lookup_of_a_task_that_was_refused(single_broker: Broker) -> None:
    put(single_broker, "t1", "t2")

    for way in (send, send_unique):
        with pytest.raises(QueueFull):
            way(single_broker, limited("t3"))

    assert not redis_of(single_broker).exists(keys.lookup("t3"))
