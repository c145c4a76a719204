"""The demand of a queue: what it is computed from, and how many workers that needs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from queues import demand
from queues.demand import get_demand, record_demand
from queues.demand_estimates import DemandReason, QueueDemand, estimate_demand, sample_counters
from queues.models import QueueSource
from queues.operations import save_queue
from queues.pausing import pause_queue
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.demand import NO_RECORD, DemandCounts, DemandRecord, DemandSample
from runqy.broker.streams.run_counters import RunCounters, RunTime, add_run_counters
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.maintenance.failed_rows import RowFailures
from tests.queues.samples import spec
from tests.support.links import count_round_trips
from tests.support.maintenance_duties import MovingClock
from tests.support.redis_client import redis_of
from tests.support.tasks import put, take
from tests.tasks.task_helpers import succeed

NOW_S = 1_800_000_000
NOTHING = DemandCounts(pending=0, active=0, due=0, is_paused=False, oldest_pending_s=0.0, processed=0, runs=0, run_ms=0)
KNOWN = DemandRecord(
    samples=(DemandSample(at_s=NOW_S - 300, tasks=0, processed=0, runs=0, run_ms=0),),
    slots_per_worker=4.0,
    workers=2,
    slots=8,
)
IDLE = replace(NOTHING, processed=600, runs=600, run_ms=1_200_000)
"""Two tasks a second of two seconds in the window of KNOWN: four slots are busy."""


def sampled(*, processed: int) -> DemandRecord:
    """Return KNOWN, with a sample of twenty seconds ago."""
    sample = DemandSample(at_s=NOW_S - 20, tasks=0, processed=processed, runs=processed, run_ms=0)
    return msgspec.structs.replace(KNOWN, samples=(*KNOWN.samples, sample))


def estimate(counts: DemandCounts, record: DemandRecord = KNOWN, **options: Any) -> QueueDemand:
    return estimate_demand("mail", [counts], record, now_s=NOW_S, **options)


@pytest.mark.parametrize(
    ("counts", "record", "wanted"),
    [
        pytest.param(IDLE, KNOWN, 0, id="no demand"),
        pytest.param(IDLE, sampled(processed=590), 1, id="empty between two short tasks"),
        pytest.param(IDLE, sampled(processed=600), 0, id="nothing has ended lately"),
        pytest.param(replace(IDLE, pending=20), KNOWN, 2, id="arrivals need more than four slots"),
        pytest.param(replace(IDLE, pending=1), KNOWN, 1, id="no more slots than tasks"),
        pytest.param(replace(IDLE, active=4, processed=596), KNOWN, 1, id="arrivals fill one worker"),
        pytest.param(replace(IDLE, active=9), KNOWN, 3, id="running tasks keep their slots"),
        pytest.param(replace(NOTHING, active=5), KNOWN, 1, id="a first long run"),
        pytest.param(replace(IDLE, pending=150, active=4), KNOWN, 4, id="a backlog starts within the wait"),
        pytest.param(replace(NOTHING, pending=3, runs=1, run_ms=600_000), KNOWN, 1, id="a burst of long tasks"),
        pytest.param(replace(NOTHING, pending=500), NO_RECORD, 1, id="nothing is known"),
        pytest.param(
            replace(NOTHING, pending=150), DemandRecord(mean_run_s=2.0, slots_per_worker=4.0), 3, id="the last means"
        ),
        pytest.param(replace(IDLE, pending=500, is_paused=True), KNOWN, 0, id="paused"),
    ],
)
def test_desired_workers_follow_littles_law(counts: DemandCounts, record: DemandRecord, wanted: int) -> None:
    assert estimate(counts, record).desired_workers == wanted


def test_the_inputs_are_shown() -> None:
    found = estimate(replace(IDLE, pending=150, active=6), target_wait_s=60.0)

    assert (found.arrival_per_s, found.mean_run_s, found.slots_per_worker) == (2.52, 2.0, 4.0)
    assert (found.demand, found.target_wait_s, found.desired_workers) == (156, 60.0, 3)


@pytest.mark.parametrize(
    ("counts", "record", "reason"),
    [
        (replace(NOTHING, pending=1), NO_RECORD, DemandReason.NO_WORKER),
        (NOTHING, NO_RECORD, DemandReason.NONE),
        (replace(NOTHING, pending=1), DemandRecord(workers=2, failed_workers=2), DemandReason.WORKERS_FAILED),
        (replace(NOTHING, pending=1), DemandRecord(workers=2, failed_workers=1), DemandReason.NONE),
        (replace(NOTHING, pending=1, is_paused=True), NO_RECORD, DemandReason.PAUSED),
    ],
)
def test_the_reason_says_why_nothing_runs(counts: DemandCounts, record: DemandRecord, reason: DemandReason) -> None:
    assert estimate(counts, record).reason is reason


@pytest.mark.usefixtures("configuration")
def test_demand_is_that_of_all_sub_queues_without_a_worker_and_with_one(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = MovingClock(monkeypatch)
    save_queue(spec=spec("mail", "high:10", "low:3"), source=QueueSource.API)
    record_demand(single_broker, RowFailures("demand"))
    put(single_broker, "t1", "t2", "t3", queue="mail_high")
    put(single_broker, "t4", queue="mail_low")
    put(single_broker, "t5", queue="mail_low", process_at_s=single_broker.now_s() + 2)
    clock.advance(10)

    without = get_demand(single_broker, "mail")
    (leased,) = take(single_broker, 1, "mail_high")
    succeed(single_broker, leased, b"1")
    counters = RunCounters()
    counters.observe(RunTime.RUN, 6.0)
    single_broker.run(add_run_counters("mail_high", counters))
    record = WorkerRecord(
        worker_id="w1",
        host="h",
        pid=1,
        server_id="s",
        queue="mail",
        redis_queues={"mail_high": 10, "mail_low": 3},
        concurrency=2,
        state=WorkerState.READY,
        started_at_s=single_broker.now_s(),
    )
    single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))
    record_demand(single_broker, RowFailures("demand"))
    served = get_demand(single_broker, "mail", target_wait_s=6)
    high = get_demand(single_broker, "mail.high")

    assert (without.pending, without.scheduled_due, without.desired_workers) == (4, 1, 1)
    assert (without.reason, without.oldest_pending_s >= 10, without.arrival_per_s) == ("no_worker", True, 0.4)
    assert (served.workers, served.slots, served.mean_run_s, served.reason) == (1, 2, 6.0, "none")
    assert served.desired_workers == 2
    assert (high.queue, high.pending) == ("mail_high", 2)


@pytest.mark.usefixtures("configuration")
def test_a_paused_sub_queue_needs_no_workers_and_a_deleted_queue_no_record(single_broker: Broker) -> None:
    save_queue(spec=spec("mail", "high:10", "low:3"), source=QueueSource.API)
    put(single_broker, "t1", queue="mail_high")
    record_demand(single_broker, RowFailures("demand"))
    redis_of(single_broker).hset(keys.DEMAND, "gone", b"{}")

    pause_queue(single_broker, name="mail_high")
    partly = get_demand(single_broker, "mail")
    pause_queue(single_broker, name="mail_low")
    wholly = get_demand(single_broker, "mail")
    record_demand(single_broker, RowFailures("demand"))

    assert (partly.demand, partly.desired_workers, partly.reason) == (1, 0, "no_worker")
    assert (wholly.demand, wholly.desired_workers, wholly.reason) == (1, 0, "paused")
    assert {*redis_of(single_broker).hkeys(keys.DEMAND)} == {b"mail", b"mail_high", b"mail_low"}


def test_a_worker_that_reports_nonsense_spoils_the_demand_of_no_other_queue(
    configuration: None, single_broker: Broker
) -> None:
    for number, queue in enumerate(("chat", "mail")):
        save_queue(spec=spec(queue), source=QueueSource.API)
        record = WorkerRecord(
            worker_id=queue,
            host="h",
            pid=number,
            server_id=queue,
            queue=queue,
            redis_queues={queue: 1},
            started_at_s=1,
            last_beat_s=single_broker.now_s(),
        )
        single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))
    forged = replace(record, worker_id="chat", queue="chat", redis_queues={"chat": 1}, concurrency=10**400)
    redis_of(single_broker).set(keys.worker_record("chat"), forged.encode())

    record_demand(single_broker, RowFailures("demand"))

    assert [get_demand(single_broker, queue).workers for queue in ("chat", "mail")] == [0, 1]


def test_a_failure_of_one_queue_spoils_the_demand_of_no_other(
    configuration: None, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in ("chat", "mail"):
        save_queue(spec=spec(queue), source=QueueSource.API)
    redis_of(single_broker).set(QueueKeys("chat").processed, 7)

    def fail_for_chat(counts: Sequence[DemandCounts], now_s: int) -> DemandSample:
        if counts[0].processed == 7:
            raise ValueError("a bug")
        return sample_counters(counts, now_s)

    monkeypatch.setattr(demand, "sample_counters", fail_for_chat)
    with capture_logs() as entries:
        record_demand(single_broker, RowFailures("demand"))

    assert redis_of(single_broker).hkeys(keys.DEMAND) == [b"mail"]
    assert [entry["queue"] for entry in entries if entry["event"] == "row_failed"] == ["chat"]


def test_reading_it_takes_one_round_trip(
    configuration: None, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_queue(spec=spec("mail", "high:10", "low:3"), source=QueueSource.API)
    get_demand(single_broker, "mail")
    trips = count_round_trips(monkeypatch, single_broker)

    get_demand(single_broker, "mail")

    assert trips == [5]
