"""Tasks whose cancellation was requested while a worker ran them that knows none, and that puts them back."""

from collections.abc import Callable

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties.cancellations import enforce_cancellations
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.cancel import Cancellation, cancel
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed
from tests.support.tasks import QUEUE, counters, fields, ids, listed, message, put, take, take_one

KEYS = QueueKeys(QUEUE)


def run_elsewhere(broker: Broker, task_id: str = "t1") -> None:
    """Let a worker of asynq run a task, and request its cancellation."""
    put(broker, task_id)
    take_one(broker)
    redis_of(broker).hdel(KEYS.task(task_id), "owner")
    assert broker.run(cancel(QUEUE, task_id, now_ns=broker.now_ns())) is Cancellation.REQUESTED_ELSEWHERE


def enforce(broker: Broker) -> None:
    broker.run(enforce_cancellations(broker, [QUEUE]))


def leave_active(broker: Broker, task_id: str, state: str) -> None:
    redis_of(broker).lrem(KEYS.active, 0, task_id)
    redis_of(broker).zrem(KEYS.lease, task_id)
    redis_of(broker).hset(KEYS.task(task_id), "state", state)


def requeue(broker: Broker, task_id: str = "t1") -> None:
    """Put a task back as asynq's servers do when they stop."""
    leave_active(broker, task_id, "pending")
    redis_of(broker).rpush(KEYS.pending, task_id)


def retry(broker: Broker, task_id: str = "t1") -> None:
    """Add a task to the retry set as asynq's servers do."""
    leave_active(broker, task_id, "retry")
    redis_of(broker).zadd(KEYS.retry, {task_id: broker.now_s() - 1})


@pytest.mark.parametrize(
    ("put_back", "act"),
    [
        (requeue, take),
        (retry, lambda broker: broker.run(forward_due(broker, [QUEUE]))),
        (requeue, enforce),
        (retry, enforce),
    ],
    ids=["take", "forward", "enforce pending", "enforce retry"],
)
def test_it_is_archived_as_cancelled_instead_of_running_again(
    broker: Broker, put_back: Callable[[Broker], None], act: Callable[[Broker], object]
) -> None:
    run_elsewhere(broker)
    redis_of(broker).hset(KEYS.task("t1"), "unique_key", KEYS.lock("u"))
    redis_of(broker).set(KEYS.lock("u"), "t1")
    put_back(broker)
    before = counters(broker)

    with subscribed(redis_of(broker), keys.ended_channel("t1")) as subscription:
        act(broker)
        notified = subscription.next()

    assert listed(broker) == {"archived": ["t1"]}
    assert (fields(broker, "t1")["state"], message(broker, "t1").error_msg) == (b"archived", "canceled")
    assert message(broker, "t1").payload == b'{"n":1}'
    assert redis_of(broker).zscore(KEYS.archived, "t1") == int(fields(broker, "t1")["archived_at"]) + 259_200
    assert not redis_of(broker).exists(KEYS.lock("u"))
    assert counters(broker) == before
    assert notified == (keys.ended_channel("t1"), b"archived")


def test_it_is_not_forgotten_while_other_workers_take_it_again(broker: Broker) -> None:
    run_elsewhere(broker)
    requeue(broker)
    redis_of(broker).lmove(KEYS.pending, KEYS.active, "RIGHT", "LEFT")
    redis_of(broker).hset(KEYS.task("t1"), "state", "active")

    enforce(broker)
    assert redis_of(broker).smembers(KEYS.cancellations) == {b"t1"}
    requeue(broker)
    enforce(broker)

    assert listed(broker) == {"archived": ["t1"]}
    assert not redis_of(broker).exists(KEYS.cancellations)


def test_a_task_that_ended_or_is_run_again_later_is_forgotten(broker: Broker) -> None:
    run_elsewhere(broker)
    run_elsewhere(broker, "t2")
    leave_active(broker, "t1", "completed")
    redis_of(broker).hset(KEYS.task("t2"), "archived_at", broker.now_s() + 1)
    requeue(broker, "t2")  # asynq's tools ran it again

    enforce(broker)

    assert not redis_of(broker).exists(KEYS.cancellations)
    assert fields(broker, "t2")["state"] == b"pending"


def test_the_tasks_behind_it_are_dequeued(broker: Broker) -> None:
    run_elsewhere(broker)
    requeue(broker)
    put(broker, "t2")

    assert ids(take(broker)) == ["t2"]


def test_a_cancelled_task_that_asynqs_tools_run_again_is_dequeued(broker: Broker) -> None:
    put(broker, "t1")
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))
    redis_of(broker).zrem(KEYS.archived, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "state", "pending")
    redis_of(broker).lpush(KEYS.pending, "t1")

    assert ids(take(broker)) == ["t1"]
    assert "cancel" not in fields(broker, "t1")


def test_a_task_that_ran_again_elsewhere_can_be_cancelled_again(broker: Broker) -> None:
    put(broker, "t1")
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns() - 60 * 10**9))
    redis_of(broker).zrem(KEYS.archived, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "state", "active")  # by asynq's inspector, and taken by a server of asynq

    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))
    requeue(broker)

    assert take(broker) == []
    assert listed(broker) == {"archived": ["t1"]}


def test_a_lost_worker_changes_nothing(broker: Broker) -> None:
    run_elsewhere(broker)
    redis_of(broker).zadd(KEYS.lease, {"t1": 1})

    broker.run(recover_lost(broker, [QUEUE], LeaselessWatch()))

    assert listed(broker) == {"archived": ["t1"]}
