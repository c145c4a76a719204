"""Counters of runs in Redis, and since when a dequeued task was pending."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import (
    BUCKETS_S,
    OutcomeCount,
    RunCount,
    RunCounters,
    RunTime,
    add_run_counters,
    read_run_counters,
)
from runqy.errors import BrokerUnavailable
from tests.broker.test_heartbeats import RECORD
from tests.support.lost_replies import lose_reply
from tests.support.redis_client import redis_of
from tests.support.tasks import put, take_one
from workers.runtime.heartbeat import RunCounts, send_heartbeat


def counted(**changes: int) -> RunCounters:
    """Return the numbers of a worker that completed a task."""
    counters = RunCounters(**changes)
    counters.count_outcome(RunOutcome.COMPLETED, is_first=True, is_final=False)
    counters.observe(RunTime.WAIT, 0.2)
    counters.observe(RunTime.RUN, BUCKETS_S[-1] + 1)
    return counters


def test_counts_of_workers_are_added(broker: Broker) -> None:
    broker.run(add_run_counters("mail", counted(child_restarts=2)))
    broker.run(add_run_counters("mail", counted(deployments=1, failed_deployments=3)))
    broker.run(add_run_counters("other", counted()))

    mail, other, nothing = broker.run(read_run_counters(["mail", "other", "unused"]))

    assert [mail.by_outcome(counted)[RunOutcome.COMPLETED] for counted in OutcomeCount] == [2, 2, 0]
    assert (mail[RunCount.CHILD_RESTARTS], mail[RunCount.DEPLOYMENTS], mail[RunCount.FAILED_DEPLOYMENTS]) == (2, 1, 3)
    assert mail.by_bucket(RunTime.WAIT)[BUCKETS_S.index(0.25)] == 2
    assert mail.by_bucket(RunTime.RUN)[-1] == 2
    assert (mail["wait_ms"], mail["run_ms"]) == (400, 2 * 3_601_000)
    assert other.by_outcome()[RunOutcome.COMPLETED] == 1
    assert nothing == RunCounters()


def test_a_counter_that_is_no_number_begins_again(broker: Broker) -> None:
    redis_of(broker).hset(QueueKeys("mail").run_counters, mapping={"completed": "forged", "wait_ms": 2**63 - 1})

    broker.run(add_run_counters("mail", counted()))

    (counters,) = broker.run(read_run_counters(["mail"]))
    assert (counters[RunOutcome.COMPLETED], counters["wait_ms"]) == (1, 200)


def test_after_a_lost_reply_numbers_count_twice_and_no_further(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = RunCounts()
    counts.record_deployment(is_successful=True)
    lost = lose_reply(monkeypatch, "add_run_counters")

    undelivered = counts.take(["mail"])
    with pytest.raises(BrokerUnavailable):
        single_broker.run(send_heartbeat(single_broker, RECORD, [], lease_s=30, counted=undelivered))
    counts.restore(undelivered)
    single_broker.run(send_heartbeat(single_broker, RECORD, [], lease_s=30, counted=counts.take(["mail"])))

    (counters,) = single_broker.run(read_run_counters(["mail"]))
    assert lost
    assert counters[RunCount.DEPLOYMENTS] == 2
    assert counts.take(["mail"]) == {}


def test_a_dequeued_task_knows_since_when_it_was_pending(broker: Broker) -> None:
    before_ns = broker.now_ns()
    put(broker, "t1")

    taken = take_one(broker)

    assert before_ns <= taken.pending_since_ns <= broker.now_ns()
