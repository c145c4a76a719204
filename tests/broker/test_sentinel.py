"""A master behind Sentinel: tasks go on when it dies and its replica takes its place."""

from collections.abc import Callable
from typing import TypeVar

from runqy.broker.broker import Broker
from runqy.broker.finishing import Outcome, complete
from runqy.broker.holding import Taken
from runqy.errors import BrokerUnavailable
from tests.support.servers import SentinelSet
from tests.support.tasks import ids, listed, put, take
from tests.support.waiting import wait_until

T = TypeVar("T")
FAILOVER_S = 60.0
"""Generous: a Sentinel needs about one second on an idle machine."""


def finish(broker: Broker, taken: Taken) -> Outcome:
    return broker.run(complete(taken.hold, taken.message, b"1", now_ns=broker.now_ns()))


def once_available(act: Callable[[], T]) -> T:
    """Do what may be repeated until Redis answers."""
    results: list[T] = []

    def is_done() -> bool:
        try:
            results.append(act())
        except BrokerUnavailable:
            return False
        return True

    wait_until(is_done, FAILOVER_S)
    return results[0]


def test_tasks_go_on_after_the_master_was_killed(sentinel_set: SentinelSet, sentinel_broker: Broker) -> None:
    broker = sentinel_broker
    put(broker, "before", "held", "waiting")
    before, held = take(broker, 2)
    assert finish(broker, before) is Outcome.COMPLETED
    assert broker.client.wait(1, 10_000) == 1

    sentinel_set.master.kill()
    outcome = once_available(lambda: finish(broker, held))
    put(broker, "after")
    taken = take(broker, 5)
    outcomes = [finish(broker, one) for one in taken]

    assert outcome is Outcome.COMPLETED
    assert ids(taken) == ["waiting", "after"]
    assert set(outcomes) == {Outcome.COMPLETED}
    assert sorted(listed(broker)["completed"]) == ["after", "before", "held", "waiting"]
    with sentinel_set.replica.client() as promoted:
        assert promoted.info("replication")["role"] == "master"
