"""Cancelling a task in each state."""

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.pubsub import WorkerEvent, parse_worker_event
from runqy.broker.tasks.cancel import Cancellation, cancel
from runqy.broker.tasks.finish import Failure, complete, retry
from runqy.errors import TaskNotCancelable, TaskNotFound
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed
from tests.support.tasks import QUEUE, counters, fields, listed, message, put, take, take_one

NOW_NS = 1_700_000_000_500_000_000
KEYS = QueueKeys(QUEUE)


def put_in(broker: Broker, state: str) -> None:
    """Bring a task into a state."""
    put(broker, "t1", process_at_s=broker.now_s() + 60 if state == "scheduled" else None)
    if state == "retry":
        taken = take_one(broker)
        failure = Failure(error="boom", retry_at_s=NOW_NS)
        broker.run(retry(taken.lease, taken.message, failure, now_ns=NOW_NS))
    if state == "aggregating":
        redis_of(broker).lrem(KEYS.pending, 0, "t1")
        redis_of(broker).hset(KEYS.task("t1"), mapping={"state": "aggregating", "group": "g"})
        redis_of(broker).zadd(KEYS.group("g"), {"t1": 1})
        redis_of(broker).sadd(KEYS.groups, "g")


@pytest.mark.parametrize("state", ["pending", "scheduled", "retry", "aggregating"])
def test_a_waiting_task_is_archived_immediately(broker: Broker, state: str) -> None:
    put_in(broker, state)
    before = counters(broker)

    outcome = broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

    assert outcome is Cancellation.CANCELED
    assert listed(broker) == {"archived": ["t1"]}
    assert redis_of(broker).zscore(KEYS.archived, "t1") == 1_700_000_000 + 259_200
    assert fields(broker, "t1")["archived_at"] == b"1700000000"
    assert not redis_of(broker).exists(KEYS.groups, KEYS.group("g"))
    stored = fields(broker, "t1")
    assert (stored["state"], stored["cancel"]) == (b"archived", str(NOW_NS).encode())
    assert "pending_since" not in stored
    assert (message(broker, "t1").error_msg, message(broker, "t1").payload) == ("canceled", b'{"n":1}')
    assert counters(broker) == before
    assert take(broker) == []


def test_a_cancelled_task_frees_its_lock(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "unique_key", KEYS.lock("u"))
    redis_of(broker).set(KEYS.lock("u"), "t1")

    broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

    assert not redis_of(broker).exists(KEYS.lock("u"))


def test_a_running_task_is_marked_and_runs_until_its_worker_acts(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)

    outcome = broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

    assert outcome is Cancellation.REQUESTED
    assert listed(broker) == {"active": ["t1"], "lease": ["t1"]}
    assert fields(broker, "t1")["owner"] == taken.lease.token.encode()
    assert fields(broker, "t1")["cancel"] == str(NOW_NS).encode()


CANCEL_CHANNELS = (keys.CANCEL_CHANNEL, keys.CHANGED_CHANNEL, keys.cancel_channel("i1"))


def test_workers_without_a_channel_of_their_own_are_notified_of_the_id_as_by_asynq(single_broker: Broker) -> None:
    put(single_broker, "t1")
    take_one(single_broker)
    with subscribed(redis_of(single_broker), *CANCEL_CHANNELS) as subscription:
        single_broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

        assert subscription.next() == (keys.CHANGED_CHANNEL, b"cancel t1")
        assert subscription.next() == (keys.CANCEL_CHANNEL, b"t1")


def test_the_process_that_a_token_names_is_notified_alone(single_broker: Broker) -> None:
    put(single_broker, "t 1")
    (taken,) = take(single_broker, wake_token="i1:1a2b")
    with subscribed(redis_of(single_broker), *CANCEL_CHANNELS) as subscription:
        outcome = single_broker.run(cancel(QUEUE, "t 1", now_ns=NOW_NS))
        redis_of(single_broker).publish(keys.CANCEL_CHANNEL, "last")

        assert outcome is Cancellation.REQUESTED
        channel, data = subscription.next()
        assert (channel, data) == (keys.cancel_channel("i1"), f"{taken.lease.token} {QUEUE} t 1".encode())
        assert parse_worker_event(channel, data) == (WorkerEvent.RUN_CANCELED, taken.lease.token)
        assert subscription.next() == (keys.CANCEL_CHANNEL, b"last")


def test_clients_waiting_for_a_pending_task_are_notified_of_its_end(single_broker: Broker) -> None:
    put(single_broker, "t1")
    with subscribed(redis_of(single_broker), keys.ended_channel("t1")) as subscription:
        single_broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

        assert subscription.next() == (keys.ended_channel("t1"), b"archived")


def test_a_finished_task_is_not_changed(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=NOW_NS))

    outcome = broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

    assert outcome is Cancellation.ALREADY_FINISHED
    assert listed(broker) == {"completed": ["t1"]}
    assert "cancel" not in fields(broker, "t1")


@pytest.mark.parametrize("is_running", [False, True])
def test_cancelling_twice_is_cancelling_once(broker: Broker, is_running: bool) -> None:
    put(broker, "t1")
    if is_running:
        take_one(broker)
    first = broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))
    before = fields(broker, "t1"), listed(broker)

    assert broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS + 1)) is first
    assert (fields(broker, "t1"), listed(broker)) == before


def test_no_task_is_no_task(broker: Broker) -> None:
    with pytest.raises(TaskNotFound):
        broker.run(cancel(QUEUE, "none", now_ns=NOW_NS))


def test_a_task_held_by_an_aggregator_is_not_changed(broker: Broker) -> None:
    put_in(broker, "aggregating")
    redis_of(broker).delete(KEYS.group("g"))

    with pytest.raises(TaskNotCancelable):
        broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))
    assert listed(broker) == {}


def test_a_pending_task_in_no_list_is_archived_too(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).delete(KEYS.pending)  # as when Go's worker dies between popping and registering

    broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

    assert listed(broker) == {"archived": ["t1"]}
