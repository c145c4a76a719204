"""Counters of runs in Redis, and since when a dequeued task was pending."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import BUCKETS_S, RunCounters, add_run_counters, read_run_counters
from runqy.errors import BrokerUnavailable
from tests.broker.test_heartbeats import RECORD
from tests.support.lost_replies import lose_reply
from tests.support.tasks import put, take_one
from workers.runtime.heartbeat import RunCounts, send_heartbeat


def counted(**changes: int) -> RunCounters:
    """Return the numbers of a worker that completed a task."""
    counters = RunCounters(**changes)
    counters.outcomes[RunOutcome.COMPLETED] += 1
    counters.waits.observe(0.2)
    counters.runs.observe(BUCKETS_S[-1] + 1)
    return counters


def test_counts_of_workers_are_added(broker: Broker) -> None:
    broker.run(add_run_counters("mail", counted(child_restarts=2)))
    broker.run(add_run_counters("mail", counted(deployments=1, failed_deployments=3)))
    broker.run(add_run_counters("other", counted()))

    mail, other, nothing = broker.run(read_run_counters(["mail", "other", "unused"]))

    assert mail.outcomes[RunOutcome.COMPLETED] == 2
    assert (mail.child_restarts, mail.deployments, mail.failed_deployments) == (2, 1, 3)
    assert mail.waits.counts[BUCKETS_S.index(0.25)] == 2
    assert mail.runs.counts[-1] == 2
    assert (mail.waits.sum_ms, mail.runs.sum_ms) == (400, 2 * 3_601_000)
    assert other.outcomes[RunOutcome.COMPLETED] == 1
    assert nothing == RunCounters()


def test_a_counter_that_is_no_number_begins_again(broker: Broker) -> None:
    broker.client.hset(QueueKeys("mail").run_counters, mapping={"completed": "forged", "wait_ms": 2**63 - 1})

    broker.run(add_run_counters("mail", counted()))

    (counters,) = broker.run(read_run_counters(["mail"]))
    assert (counters.outcomes[RunOutcome.COMPLETED], counters.waits.sum_ms) == (1, 200)


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
    assert counters.deployments == 2
    assert counts.take(["mail"]) == {}


def test_a_dequeued_task_knows_since_when_it_was_pending(broker: Broker) -> None:
    before_ns = broker.now_ns()
    put(broker, "t1")

    taken = take_one(broker)

    assert before_ns <= taken.pending_since_ns <= broker.now_ns()
