"""Extending leases."""

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.lease import Lease, extend
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, listed, put, take, take_one

NOW_NS = 1_700_000_000_500_000_000


def test_leases_of_all_queues_are_prolonged_in_one_request(broker: Broker) -> None:
    put(broker, "t1", "t2")
    put(broker, "o1", queue="other")
    leases = [taken.lease for taken in take(broker, 3, QUEUE, "other")]

    extension = broker.run(extend(leases, now_ns=NOW_NS))

    assert (extension.lease_end_s, extension.lost, extension.canceled) == (1_700_000_030, (), ())
    scores = [redis_of(broker).zscore(QueueKeys(lease.queue).lease, lease.task_id) for lease in leases]
    assert scores == [1_700_000_030] * 3


def test_a_task_leased_by_another_worker_is_lost(broker: Broker) -> None:
    put(broker, "t1", "t2")
    first, second = (taken.lease for taken in take(broker, 2))
    foreign = Lease(QUEUE, first.task_id, "foreign")

    extension = broker.run(extend([foreign, second], now_ns=NOW_NS))

    assert extension.lost == (foreign,)
    assert redis_of(broker).zscore(QueueKeys(QUEUE).lease, first.task_id) != 1_700_000_030
    assert redis_of(broker).zscore(QueueKeys(QUEUE).lease, second.task_id) == 1_700_000_030


def test_a_lease_that_is_gone_does_not_come_back(broker: Broker) -> None:
    put(broker, "t1")
    lease = take_one(broker).lease
    redis_of(broker).delete(QueueKeys(QUEUE).lease)

    extension = broker.run(extend([lease, Lease(QUEUE, "gone", "x")], now_ns=NOW_NS))

    assert len(extension.lost) == 2
    assert "lease" not in listed(broker)


def test_a_task_that_was_cancelled_is_named_and_still_held(broker: Broker) -> None:
    put(broker, "t1")
    lease = take_one(broker).lease
    broker.run(cancel(QUEUE, "t1", now_ns=NOW_NS))

    extension = broker.run(extend([lease], now_ns=NOW_NS))

    assert (extension.canceled, extension.lost) == ((lease,), ())
    assert redis_of(broker).zscore(QueueKeys(QUEUE).lease, "t1") == 1_700_000_030


def test_more_leases_than_one_call_carries_are_all_extended(broker: Broker) -> None:
    put(broker, "t1")
    lease = take_one(broker).lease
    others = [Lease(QUEUE, f"gone{i}", "x") for i in range(1200)]

    extension = broker.run(extend([*others, lease], now_ns=NOW_NS))

    assert extension.lost == tuple(others)


def test_no_lease_is_extended_without_leases(broker: Broker) -> None:
    assert broker.run(extend([], now_ns=NOW_NS)).lost == ()
