"""Waking idle workers when a task becomes pending."""

from collections.abc import Iterator

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.queues.pausing import pause, unpause
from runqy.broker.tasks.dequeue import QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import requeue
from tests.support.redis_client import redis_of
from tests.support.subscriptions import Subscription, subscribed
from tests.support.tasks import QUEUE, ids, new_task, put, take_one


@pytest.fixture
def subscription(broker: Broker) -> Iterator[Subscription]:
    """Return a subscription on the same Redis."""
    with subscribed(redis_of(broker)) as subscription:
        yield subscription


pytestmark = pytest.mark.usefixtures("stopped_clock")  # an idle worker listens for a few seconds


def publish_end(broker: Broker, subscription: Subscription) -> None:
    """Publish the last message; in a cluster messages of several nodes may overtake one another."""
    subscription.subscribe("end")
    redis_of(broker).publish("end", "")


def go_idle(broker: Broker, subscription: Subscription, token: str, *queues: str, ago_ms: int = 0) -> list[str]:
    """Subscribe to a worker's wake-up channel and poll; return the tasks."""
    subscription.subscribe(keys.wake_channel(token))
    return look(broker, token, *queues, ago_ms=ago_ms)


def look(broker: Broker, token: str, *queues: str, ago_ms: int = 0) -> list[str]:
    """Let a worker look for work, at the first queue first."""
    shares = [QueueWeight(queue=queue) for queue in queues or (QUEUE,)]
    order = plan_dequeue(shares, 1, worker_id=token, wake_token=token, is_strict=True)
    return ids(broker.run(dequeue_tasks(broker, order, now_ns=broker.now_ns() - ago_ms * 1_000_000))[0])


def test_a_task_wakes_one_idle_worker_and_names_its_queue(broker: Broker, subscription: Subscription) -> None:
    go_idle(broker, subscription, "w1", ago_ms=100)
    go_idle(broker, subscription, "w2")

    put(broker, "t1")

    publish_end(broker, subscription)
    assert {subscription.next(), subscription.next()} == {(keys.wake_channel("w2"), QUEUE.encode()), ("end", b"")}


def test_as_many_workers_wake_as_there_are_tasks(broker: Broker, subscription: Subscription) -> None:
    for ago_ms, token in enumerate(("w3", "w2", "w1")):
        go_idle(broker, subscription, token, ago_ms=100 * ago_ms)

    put(broker, "t1")
    put(broker, "t2")

    publish_end(broker, subscription)
    assert {subscription.next()[0] for _ in range(3)} == {keys.wake_channel("w3"), keys.wake_channel("w2"), "end"}


def test_a_batch_wakes_as_many_workers_as_it_has_tasks(broker: Broker, subscription: Subscription) -> None:
    for ago_ms, token in enumerate(("w3", "w2", "w1")):
        go_idle(broker, subscription, token, ago_ms=100 * ago_ms)

    broker.run(enqueue_many(broker, [new_task("t1"), new_task("t2")]))

    publish_end(broker, subscription)
    assert {subscription.next()[0] for _ in range(3)} == {keys.wake_channel("w3"), keys.wake_channel("w2"), "end"}


def test_a_worker_is_woken_for_every_queue_it_serves(broker: Broker, subscription: Subscription) -> None:
    go_idle(broker, subscription, "w1", "a", "b")

    put(broker, "t1", queue="b")

    assert subscription.next() == (keys.wake_channel("w1"), b"b")


def test_a_worker_that_stopped_listening_is_not_woken(broker: Broker, subscription: Subscription) -> None:
    subscription.subscribe(keys.wake_channel("w1"))
    order = plan_dequeue([QueueWeight(queue=QUEUE)], 1, worker_id="w1", wake_token="w1")
    broker.run(dequeue_tasks(broker, order, now_ns=broker.now_ns() - 10_000_000_000))

    put(broker, "t1")

    publish_end(broker, subscription)
    assert subscription.next()[0] == "end"


def test_a_channel_that_is_no_wake_up_channel_gets_no_message(broker: Broker, subscription: Subscription) -> None:
    """Workers can write the names of idle workers, but may not publish to every channel."""
    subscription.subscribe(keys.CANCEL_CHANNEL)
    redis_of(broker).zadd(keys.QueueKeys(QUEUE).idle, {keys.CANCEL_CHANNEL: broker.now_ns() // 10**6 + 60_000})

    put(broker, "t1")

    publish_end(broker, subscription)
    assert subscription.next()[0] == "end"


def test_a_busy_worker_passes_its_wake_up_on(broker: Broker, subscription: Subscription) -> None:
    go_idle(broker, subscription, "other", "b", ago_ms=100)
    go_idle(broker, subscription, "both", "a", "b")
    put(broker, "a1", queue="a")
    put(broker, "b1", queue="b")
    assert [subscription.next()[0], subscription.next()[0]] == [keys.wake_channel("both")] * 2

    found = look(broker, "both", "a", "b")

    assert found == ["a1"]
    assert subscription.next() == (keys.wake_channel("other"), b"b")


def test_a_requeued_task_wakes_a_worker(broker: Broker, subscription: Subscription) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    go_idle(broker, subscription, "w2")

    broker.run(requeue(taken.lease, now_ns=broker.now_ns()))

    assert subscription.next() == (keys.wake_channel("w2"), QUEUE.encode())


def test_resuming_wakes_workers_for_pending_tasks(broker: Broker, subscription: Subscription) -> None:
    put(broker, "t1")
    broker.run(pause(QUEUE, now_ns=broker.now_ns()))
    assert go_idle(broker, subscription, "w1") == []

    broker.run(unpause(QUEUE, now_ns=broker.now_ns()))

    assert subscription.next() == (keys.wake_channel("w1"), QUEUE.encode())
