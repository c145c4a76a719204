"""Dequeuing tasks."""

from collections import Counter

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import pause
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.dequeue import DequeueRequest, QueueWeight, dequeue_tasks, plan_dequeue
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.finish import Failure, archive, retry
from runqy.errors import LeaseLost
from tests.support.full_redis import full_redis
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, ids, listed, message, new_task, put, take, take_one

NOW_NS = 1_700_000_000_500_000_000
KEYS = QueueKeys(QUEUE)


def order_of(count: int, *shares: QueueWeight, **options) -> DequeueRequest:
    """Return an order of one worker."""
    return plan_dequeue(shares or [QueueWeight(queue=QUEUE)], count, worker_id="w1", **options)


def test_a_dequeued_task_is_active_and_leased(broker: Broker) -> None:
    put(broker, "t1", "t2")

    (taken,), _ = broker.run(dequeue_tasks(broker, order_of(1), now_ns=NOW_NS))

    assert (taken.lease.queue, taken.lease.task_id, taken.payload) == (QUEUE, "t1", b'{"n":1}')
    assert taken.lease_end_s == 1_700_000_030
    assert listed(broker) == {"pending": ["t2"], "active": ["t1"], "lease": ["t1"]}
    assert redis_of(broker).zscore(KEYS.lease, "t1") == 1_700_000_030
    stored = fields(broker, "t1")
    assert (stored["state"], stored["worker"]) == (b"active", b"w1")
    assert (stored["owner"], stored["started"]) == (taken.lease.token.encode(), str(NOW_NS).encode())
    assert "pending_since" not in stored


def test_attempts_are_counted_and_a_repeated_dequeue_is_none(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "shared_deaths", 2)
    first = order_of(1)
    (taken,), _ = broker.run(dequeue_tasks(broker, first, now_ns=NOW_NS))

    (repeated,), _ = broker.run(dequeue_tasks(broker, first.repeated(), now_ns=NOW_NS))
    failure = Failure(error="busy", retry_at_s=NOW_NS // 10**9)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=NOW_NS))
    broker.run(forward(QUEUE, TaskState.RETRY, now_ns=NOW_NS))
    (again,), _ = broker.run(dequeue_tasks(broker, order_of(1), now_ns=NOW_NS))

    assert (taken.attempt, repeated.attempt, again.attempt) == (1, 1, 2)
    assert (taken.is_suspect, repeated.is_suspect, again.is_suspect) == (True, True, False)


def test_free_slots_are_filled_in_the_order_of_the_queue(broker: Broker) -> None:
    put(broker, "t1", "t2", "t3")

    taken = take(broker, 5)

    assert ids(taken) == ["t1", "t2", "t3"]
    assert len({one.lease.token for one in taken}) == 3
    assert listed(broker)["active"] == ["t1", "t2", "t3"]


def test_an_empty_queue_returns_no_task(broker: Broker) -> None:
    assert take(broker) == []


def test_a_paused_queue_returns_no_task(broker: Broker) -> None:
    put(broker, "t1")
    put(broker, "t2", queue="other")
    broker.run(pause(QUEUE, now_ns=NOW_NS))

    taken = take(broker, 5, QUEUE, "other")

    assert ids(taken) == ["t2"]
    assert listed(broker) == {"pending": ["t1"]}


def test_a_paused_queue_does_not_keep_others_waiting(broker: Broker) -> None:
    put(broker, "h1", queue="high")
    put(broker, "l1", queue="low")
    broker.run(pause("high", now_ns=NOW_NS))
    order = order_of(1, QueueWeight(queue="high", priority=9), QueueWeight(queue="low"), is_strict=True)

    taken, _ = broker.run(dequeue_tasks(broker, order, now_ns=NOW_NS))

    assert ids(taken) == ["l1"]


def test_a_repeated_dequeue_returns_the_same_tasks(broker: Broker) -> None:
    put(broker, "a1", queue="a")
    put(broker, "b1", "b2", queue="b")
    order = order_of(2, QueueWeight(queue="a"), QueueWeight(queue="b"))
    first, _ = broker.run(dequeue_tasks(broker, order, now_ns=NOW_NS))

    again, _ = broker.run(dequeue_tasks(broker, order.repeated(), now_ns=NOW_NS))

    assert {one.lease for one in again} == {one.lease for one in first}
    assert len(again) == 2
    assert all(one.message == next(o for o in first if o.lease == one.lease).message for one in again)


def test_a_repeated_dequeue_extends_the_lease(broker: Broker) -> None:
    put(broker, "t1")
    order = order_of(1, QueueWeight(queue=QUEUE), QueueWeight(queue="other"))
    broker.run(dequeue_tasks(broker, order, now_ns=NOW_NS))

    (again,), _ = broker.run(dequeue_tasks(broker, order.repeated(), now_ns=NOW_NS + 20_000_000_000))

    assert again.lease_end_s == 1_700_000_050
    assert redis_of(broker).zscore(KEYS.lease, "t1") == 1_700_000_050


def test_a_repeated_dequeue_fills_the_remaining_slots(broker: Broker) -> None:
    put(broker, "a1", queue="a")
    order = order_of(3, QueueWeight(queue="a"), QueueWeight(queue="b"))
    broker.run(dequeue_tasks(broker, order, now_ns=NOW_NS))
    put(broker, "a2", queue="a")
    put(broker, "b1", "b2", queue="b")

    again, _ = broker.run(dequeue_tasks(broker, order.repeated(), now_ns=NOW_NS))

    assert len(again) == 3
    assert "a1" in ids(again)
    assert len({one.lease.token for one in again}) == 3


def test_an_id_without_a_task_is_dropped(broker: Broker) -> None:
    put(broker, "gone", "t2")
    redis_of(broker).delete(KEYS.task("gone"))

    taken = take(broker, 2)

    assert ids(taken) == ["t2"]
    assert listed(broker) == {"active": ["t2"], "lease": ["t2"]}
    assert not redis_of(broker).exists(KEYS.task("gone"))


def test_a_remnant_without_a_message_no_longer_blocks_its_id(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).delete(KEYS.task("t1"))
    redis_of(broker).hset(KEYS.task("t1"), "result", "written too late")

    taken = take(broker)

    assert taken == []
    put(broker, "t1")
    assert listed(broker) == {"pending": ["t1"]}


def test_an_id_that_is_listed_twice_is_dequeued_once(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).rpush(KEYS.pending, "t1")

    taken = take(broker, 2)

    assert ids(taken) == ["t1"]
    assert listed(broker) == {"active": ["t1"], "lease": ["t1"]}


def test_an_id_whose_task_waits_elsewhere_is_dropped(broker: Broker) -> None:
    broker.run(enqueue(new_task("t1", process_at_s=broker.now_s() + 60), now_ns=broker.now_ns()))
    redis_of(broker).rpush(KEYS.pending, "t1")

    taken = take(broker)

    assert taken == []
    assert listed(broker) == {"scheduled": ["t1"]}


def test_a_call_drops_a_thousand_ids_at_most(single_broker: Broker) -> None:
    put(single_broker, "t1")
    redis_of(single_broker).rpush(KEYS.pending, *(f"gone{n}" for n in range(1500)))

    first, second = take(single_broker), take(single_broker)

    assert (ids(first), ids(second)) == ([], ["t1"])


def test_a_cancelled_task_that_is_listed_twice_is_not_archived_while_it_runs(broker: Broker) -> None:
    put(broker, "t1")
    take(broker)
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))
    redis_of(broker).rpush(KEYS.pending, "t1")

    taken = take(broker)

    assert taken == []
    assert listed(broker) == {"active": ["t1"], "lease": ["t1"]}


def test_a_task_whose_state_is_stale_is_dequeued(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "state", "active")  # as Go's worker leaves it when it dies between two steps

    assert ids(take(broker)) == ["t1"]


def test_an_id_that_is_not_text_does_not_affect_others(broker: Broker) -> None:
    put(broker, "t1")
    message = redis_of(broker).hget(KEYS.task("t1"), "msg")
    redis_of(broker).hset(KEYS.task_prefix.encode() + b"\xff", mapping={"msg": message, "state": "pending"})
    redis_of(broker).lpush(KEYS.pending, b"\xff")

    good, bad = take(broker, 2)

    assert (good.lease.task_id, good.is_readable) == ("t1", True)
    assert not bad.is_readable
    with pytest.raises(LeaseLost):
        broker.run(archive(bad.lease, bad.message, error="no text", now_ns=broker.now_ns()))


def test_a_damaged_message_is_returned_as_unreadable(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "msg", b"\xff\xff\xff")

    taken = take_one(broker)

    assert not taken.is_readable
    assert (taken.message.id, taken.message.queue) == ("t1", QUEUE)


def test_a_cancellation_of_an_earlier_run_does_not_end_the_next(broker: Broker) -> None:
    put(broker, "t1")
    archived_s = broker.now_s()
    redis_of(broker).hset(KEYS.task("t1"), mapping={"cancel": archived_s * 10**9, "archived_at": archived_s})

    take(broker)

    assert "cancel" not in fields(broker, "t1")


def test_strict_order_empties_the_higher_queue_first(broker: Broker) -> None:
    put(broker, "l1", "l2", queue="low")
    put(broker, "h1", "h2", queue="high")
    order = order_of(3, QueueWeight(queue="low", priority=1), QueueWeight(queue="high", priority=9), is_strict=True)

    taken, _ = broker.run(dequeue_tasks(broker, order, now_ns=NOW_NS))

    assert sorted(ids(taken)) == ["h1", "h2", "l1"]


def test_a_full_queue_does_not_starve_one_of_low_priority(broker: Broker) -> None:
    put(broker, *[f"l{i}" for i in range(60)], queue="low")
    put(broker, *[f"h{i}" for i in range(60)], queue="high")
    shares = [QueueWeight(queue="low", priority=1), QueueWeight(queue="high", priority=3)]

    taken, _ = broker.run(dequeue_tasks(broker, order_of(60, *shares), now_ns=NOW_NS))

    share = Counter(one.lease.queue for one in taken)
    assert share["low"] + share["high"] == 60
    assert 3 <= share["low"] <= 30  # 15 expected; outside once in 10 million runs


def test_weights_decide_how_often_a_queue_comes_first() -> None:
    shares = [QueueWeight(queue=name, priority=priority) for name, priority in (("a", 6), ("b", 3), ("c", 1))]

    order = order_of(10_000, *shares)

    firsts = Counter(preference[0] for preference in order.preferences)
    assert firsts[0] / 10_000 == pytest.approx(0.6, abs=0.04)
    assert firsts[2] / 10_000 == pytest.approx(0.1, abs=0.03)
    assert all(sorted(preference) == [0, 1, 2] for preference in order.preferences)


def test_a_dequeue_shares_a_round_trip_with_other_requests(broker: Broker) -> None:
    broker.run(enqueue(new_task("t0"), now_ns=NOW_NS))  # loads the script: an unknown one would run after the others
    ids(broker.run(dequeue_tasks(broker, order_of(1), now_ns=NOW_NS))[0])
    first = enqueue(new_task("t1"), now_ns=NOW_NS)

    taken, (state, conflict) = broker.run(
        dequeue_tasks(
            broker, order_of(1), now_ns=NOW_NS, extra_requests=[first, enqueue(new_task("t1"), now_ns=NOW_NS + 1)]
        )
    )

    assert ids(taken) == ["t1"]
    assert state == "pending"
    assert conflict.code == "task_exists"


def idle_at(broker: Broker, queue: str = QUEUE) -> list[bytes]:
    """Return the workers listed as idle."""
    return redis_of(broker).zrange(QueueKeys(queue).idle, 0, -1)


def test_a_worker_with_free_slots_is_idle_in_all_its_queues(broker: Broker) -> None:
    put(broker, "t1")
    order = order_of(2, QueueWeight(queue=QUEUE), QueueWeight(queue="other"), wake_token="tok")

    broker.run(dequeue_tasks(broker, order, now_ns=broker.now_ns()))

    channel = keys.wake_channel("tok").encode()
    assert idle_at(broker) == idle_at(broker, "other") == [channel]
    assert 0 < redis_of(broker).pttl(KEYS.idle) < 120_000


def test_a_worker_without_a_free_slot_is_not_idle(broker: Broker) -> None:
    queues = [QueueWeight(queue=QUEUE), QueueWeight(queue="other")]
    broker.run(dequeue_tasks(broker, order_of(1, *queues, wake_token="tok"), now_ns=broker.now_ns()))
    put(broker, "t1")

    broker.run(dequeue_tasks(broker, order_of(1, *queues, wake_token="tok"), now_ns=broker.now_ns()))

    assert idle_at(broker) == idle_at(broker, "other") == []


def test_a_worker_that_takes_the_last_task_wakes_no_other(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).zadd(KEYS.idle, {keys.wake_channel("idle"): broker.now_ns() // 10**6 + 60_000})

    (taken,), _ = broker.run(dequeue_tasks(broker, order_of(1, wake_token="busy"), now_ns=broker.now_ns()))

    assert taken.lease.task_id == "t1"
    assert idle_at(broker) == [keys.wake_channel("idle").encode()]


def test_a_request_for_no_task_passes_a_wake_up_on(broker: Broker) -> None:
    broker.run(dequeue_tasks(broker, order_of(1, wake_token="busy"), now_ns=broker.now_ns()))
    put(broker, "t1")
    channels = {keys.wake_channel(token): broker.now_ns() // 10**6 + 60_000 for token in ("busy", "idle")}
    redis_of(broker).zadd(KEYS.idle, channels)

    tasks, _ = broker.run(dequeue_tasks(broker, order_of(0, wake_token="busy"), now_ns=broker.now_ns()))

    assert tasks == []
    assert idle_at(broker) == []


def test_workers_that_stopped_listening_are_removed(broker: Broker) -> None:
    broker.run(dequeue_tasks(broker, order_of(1, wake_token="old"), now_ns=broker.now_ns() - 60_000_000_000))

    broker.run(dequeue_tasks(broker, order_of(1, wake_token="new"), now_ns=broker.now_ns()))

    assert idle_at(broker) == [keys.wake_channel("new").encode()]


def test_tasks_are_dequeued_when_redis_is_full(single_broker: Broker) -> None:
    put(single_broker, "t1")

    with full_redis(redis_of(single_broker)):
        taken = take(single_broker)

    assert ids(taken) == ["t1"]
    assert message(single_broker, "t1").id == "t1"
