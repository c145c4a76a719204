"""What a worker counts between two heartbeats."""

import pytest

from runqy import clock
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.finish import FinishOutcome
from runqy.broker.tasks.lease import Lease, LeasedTask
from tests.support.maintenance_duties import MovingClock
from workers.runtime.heartbeat import RunCounts
from workers.runtime.task_runs import Run, RunResult, RunStatus

S = 10**9


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    monkeypatch.setattr(clock, "monotonic_s", lambda: clock.monotonic_ns() / 1e9)
    return MovingClock(monkeypatch)


def make_run(
    queue: str = "mail", *, pending_since_ns: int = 100 * S, started_ns: int = 103 * S, attempt: int = 1
) -> Run:
    """Return a run that waited for three seconds."""
    task = LeasedTask(
        lease=Lease(queue, "t1", "token"),
        message=TaskMessage(),
        lease_end_s=0,
        pending_since_ns=pending_since_ns,
        attempt=attempt,
    )
    return Run(task=task, line=b"", started_ns=started_ns, started_s=clock.monotonic_s())


def test_a_run_is_counted_with_its_wait_time_and_outcome(moving: MovingClock) -> None:
    counts, run = RunCounts(), make_run()

    counts.record_start(run)
    moving.advance(2.5)
    counts.record_end(run)
    counts.record_outcome(run, FinishOutcome.RETRIED)

    counters = counts.take(["mail"])["mail"]
    assert (counters["wait_ms"], counters["run_ms"]) == (3000, 2500)
    assert +counters.by_outcome() == {RunOutcome.RETRIED: 1}
    assert counts.take(["mail"]) == {}


@pytest.mark.parametrize(
    ("attempt", "end", "also"),
    [
        (1, FinishOutcome.RETRIED, {"first_timed_out"}),
        (2, FinishOutcome.RETRIED, set()),
        (1, FinishOutcome.ARCHIVED, {"first_timed_out", "ended_timed_out"}),
        (2, FinishOutcome.ARCHIVED, {"ended_timed_out"}),
    ],
)
def test_a_run_that_timed_out_is_counted_as_in_the_history(attempt: int, end: FinishOutcome, also: set[str]) -> None:
    counts, run = RunCounts(), make_run(attempt=attempt)
    run.result = RunResult(RunStatus.TIMED_OUT, "timeout")

    counts.record_outcome(run, end)

    assert +counts.take(["mail"])["mail"] == dict.fromkeys({"timed_out", *also}, 1)


def test_a_task_that_was_not_started_because_its_deadline_had_passed_is_counted_as_expired() -> None:
    counts, run = RunCounts(), make_run(started_ns=0)
    run.result = RunResult(RunStatus.EXPIRED, "deadline exceeded")

    counts.record_end(run)
    counts.record_outcome(run, FinishOutcome.ARCHIVED)

    assert +counts.take(["mail"])["mail"] == {"expired": 1, "first_expired": 1, "ended_expired": 1}


def test_a_task_that_was_given_back_ends_no_run() -> None:
    counts = RunCounts()

    counts.record_outcome(make_run(), FinishOutcome.REQUEUED)

    counters = counts.take(["mail"])["mail"]
    assert counters == {"requeued": 1}


def test_runs_of_a_release_are_known_after_any_number_of_newer_ones() -> None:
    counts, run = RunCounts(), make_run()
    run.release = 1
    counts.record_outcome(run, FinishOutcome.RETRIED)

    for number in range(2, 9):
        counts.of_release(number).runs += 1

    assert (counts.of_release(1).runs, counts.of_release(1).failures) == (1, 1)
    assert [counts.of_release(number).runs for number in range(2, 9)] == [1] * 7


def test_a_run_that_never_started_has_no_duration() -> None:
    counts, run = RunCounts(), make_run(started_ns=0)

    counts.record_end(run)

    assert counts.take(["mail"]) == {}


def test_a_wait_is_not_counted_where_nothing_knows_its_begin() -> None:
    counts, run = RunCounts(), make_run(pending_since_ns=0)

    counts.record_start(run)

    assert counts.take(["mail"]) == {}


def test_clocks_that_disagree_count_no_negative_wait() -> None:
    counts, run = RunCounts(), make_run(pending_since_ns=200 * S)

    counts.record_start(run)

    assert counts.take(["mail"])["mail"]["wait_ms"] == 0


def test_the_workers_own_numbers_go_to_its_first_queue() -> None:
    counts = RunCounts()

    counts.record_child_restart()
    counts.record_deployment(is_successful=True)
    counts.record_deployment(is_successful=False)

    taken = counts.take(["high", "low"])
    assert taken["high"] == {"child_restarts": 1, "deployments": 1, "failed_deployments": 1}
    assert "low" not in taken
    assert counts.take(["high", "low"]) == {}


def test_queues_that_the_worker_no_longer_serves_are_dropped() -> None:
    counts = RunCounts()
    counts.record_outcome(make_run("before"), FinishOutcome.COMPLETED)
    counts.record_outcome(make_run("mail"), FinishOutcome.COMPLETED)

    assert counts.take(["mail"]).keys() == {"mail"}
    assert counts.take(["before", "mail"]) == {}


def test_what_was_not_delivered_is_sent_with_the_next_heartbeat() -> None:
    counts, run = RunCounts(), make_run()
    counts.record_outcome(run, FinishOutcome.COMPLETED)
    undelivered = counts.take(["mail"])
    counts.record_outcome(run, FinishOutcome.COMPLETED)

    counts.restore(undelivered)

    expected = {"completed": 2, "first_completed": 2, "ended_completed": 2}
    assert +counts.take(["mail"])["mail"] == expected


def test_batches_are_counted_and_their_mean_is_that_of_the_last_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, counts = MovingClock(monkeypatch), RunCounts()
    for members in (16, 16, 4):
        counts.record_batch(members)

    assert +counts.take(["mail"])["mail"] == {"batches": 3, "batch_tasks": 36}
    assert counts.mean_batch == 12
    moving.advance(60)
    counts.record_batch(8)
    assert counts.mean_batch == 11
    moving.advance(60)
    assert counts.mean_batch == 8
    moving.advance(120)
    assert counts.mean_batch == 0


def test_deaths_with_several_tasks_are_reported_for_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, counts = MovingClock(monkeypatch), RunCounts()
    counts.record_shared_death(32)
    moving.advance(300)
    counts.record_shared_death(7)

    assert counts.recent_shared_deaths == [32, 7]
    moving.advance(301)
    assert counts.recent_shared_deaths == [7]
    assert +counts.take(["mail"])["mail"] == {"shared_deaths": 2}


def test_the_number_of_tasks_at_a_time_is_a_mean_over_time(moving: MovingClock) -> None:
    moving.advance(60 - clock.monotonic_ns() / 1e9 % 60)  # to the start of a minute
    counts = RunCounts()
    counts.record_start(long := make_run())
    moving.advance(30)
    counts.record_start(short := make_run())
    moving.advance(15)
    counts.record_end(short)

    assert counts.mean_running == 1.3  # 30 s with one, 15 s with two
    moving.advance(10)
    counts.record_end(long)
    assert counts.mean_running == 1.3  # 10 s more with one
    moving.advance(115)
    assert counts.mean_running == 0


def test_a_run_that_is_given_back_while_it_waits_to_start_again_is_under_way_no_more(moving: MovingClock) -> None:
    counts, run = RunCounts(), make_run()
    counts.record_start(run)
    counts.record_interruption()
    run.runs_alone, run.started_ns = True, 0

    counts.record_end(run)
    moving.advance(3600)

    assert counts.mean_running == 0
    assert counts.take(["mail"])["mail"]["wait_ms"] == 3000
