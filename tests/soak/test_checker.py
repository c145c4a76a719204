"""The checker of the soak detects each kind of error: it gets a run with one error."""

from dataclasses import replace

import pytest

from tools.soak.checker import Accepted, Evidence, Fault, Incident, Process, QueueCounts, StoredTask, check
from tools.soak.runs import Run

SIZES = {"pending": 0, "active": 0, "scheduled": 0, "retry": 0, "archived": 1, "completed": 2}
DONE = StoredTask(task_id="done", queue="q", state="completed", number="1", result_run="r1", indexes=("completed",))
RETRIED = replace(DONE, task_id="retried", number="2", result_run="r3")
FAILED = replace(DONE, task_id="failed", number="3", state="archived", result_run="", indexes=("archived",))
FIRST = Run(task_id="done", run_id="r1", worker="a", started_at=10.0, ended_at=11.0, outcome="ok")
AGAIN = replace(FIRST, run_id="r9", worker="b", started_at=15.0, ended_at=16.0)


def evidence() -> Evidence:
    """Return a run in which nothing is wrong."""
    tasks = {task.task_id: task for task in (DONE, RETRIED, FAILED)}
    kinds = {"done": "ok", "retried": "flaky", "failed": "fail"}
    return Evidence(
        accepted={name: Accepted(task_id=name, kind=kind) for name, kind in kinds.items()},
        tasks=tasks,
        runs={
            "done": [FIRST],
            "retried": [
                replace(FIRST, task_id="retried", run_id="r2", outcome="retry"),
                replace(FIRST, task_id="retried", run_id="r3", started_at=12.0, ended_at=13.0),
            ],
            "failed": [replace(FIRST, task_id="failed", run_id="r4", outcome="fail")],
        },
        counts={"q": QueueCounts(sizes=SIZES, reported=SIZES, processed=4, failed=2)},
        first_ends={"done": ("completed", "r1")},
        processes=[Process(name="web 1", descriptors=40, allowed=60)],
    )


def broken(found: Evidence) -> set[str]:
    """Return which invariants the checker finds broken."""
    return {violation.invariant for violation in check(found).violations}


def with_task(found: Evidence, task: StoredTask) -> Evidence:
    """Return a run in which Redis stores a task differently."""
    return replace(found, tasks={**found.tasks, task.task_id: task})


def test_finds_nothing_where_nothing_is_wrong() -> None:
    check_result = check(evidence())

    assert check_result.violations == []
    assert check_result.reruns == {"the task requested it": 1}


def test_notices_an_accepted_task_that_is_gone() -> None:
    found = evidence()

    lost = replace(found, accepted={**found.accepted, "gone": Accepted(task_id="gone", kind="ok")})

    assert broken(lost) == {"lost"}


def test_counts_what_a_failover_of_redis_may_lose() -> None:
    found = evidence()
    gone = Accepted(task_id="gone", kind="ok", may_be_lost=True)

    check_result = check(replace(found, accepted={**found.accepted, "gone": gone}))

    assert check_result.violations == []
    assert check_result.lost_with_redis == 1


@pytest.mark.parametrize("state", ["pending", "active", "scheduled", "retry"])
def test_notices_a_task_that_does_not_end(state: str) -> None:
    stuck = replace(DONE, state=state, indexes=(state,), result_run="")

    assert "stuck" in broken(with_task(evidence(), stuck))


def test_detects_a_remaining_owner() -> None:
    assert broken(with_task(evidence(), replace(DONE, has_owner=True))) == {"stuck"}


def test_detects_a_worker_that_dequeued_nothing() -> None:
    assert broken(replace(evidence(), stuck_workers=["Worker a is ready"])) == {"stuck worker"}


def test_notices_a_task_that_was_created_twice() -> None:
    assert "created twice" in broken(with_task(evidence(), replace(DONE, task_id="other")))


def test_notices_a_task_that_was_stored_though_its_client_was_told_that_it_was_not() -> None:
    assert broken(replace(evidence(), denied=frozenset({"1"}))) == {"denied"}


def test_detects_a_run_without_a_reason() -> None:
    found = evidence()

    twice = replace(found, runs={**found.runs, "done": [FIRST, AGAIN]})

    assert broken(twice) == {"ran twice"}


@pytest.mark.parametrize(
    ("incident", "is_reason"),
    [
        (Incident(fault=Fault.WORKER_KILLED, worker="a", began_at=11.0, ended_at=12.0), True),
        (Incident(fault=Fault.CUT_OFF, began_at=9.0, ended_at=30.0), True),
        (Incident(fault=Fault.WORKER_KILLED, worker="b", began_at=11.0, ended_at=12.0), False),
        (Incident(fault=Fault.WORKER_KILLED, worker="a", began_at=2.0, ended_at=3.0), False),
        (Incident(fault=Fault.WORKER_KILLED, worker="a", began_at=15.5, ended_at=17.0), False),
    ],
    ids=["of its worker", "of all", "of another worker", "before it", "after the next run began"],
)
def test_accepts_a_fault_as_a_reason_only_if_it_hit_the_run(incident: Incident, *, is_reason: bool) -> None:
    found = evidence()
    runs = {**found.runs, "done": [FIRST, AGAIN]}

    check_result = check(replace(found, runs=runs, incidents=[incident]))

    assert (check_result.violations == []) is is_reason
    assert check_result.reruns[incident.fault.value] == int(is_reason)


def test_notices_two_runs_at_once_of_a_task_that_requested_a_retry() -> None:
    found = evidence()
    first, second = found.runs["retried"]

    overlapping = replace(found, runs={**found.runs, "retried": [first, replace(second, started_at=10.5)]})

    assert broken(overlapping) == {"ran twice"}


def test_detects_a_result_without_a_run() -> None:
    assert "result" in broken(with_task(evidence(), replace(DONE, result_run="r99")))


def test_detects_a_result_that_changed_after_a_client_saw_it() -> None:
    found = evidence()

    assert broken(replace(found, first_ends={"done": ("completed", "r0")})) == {"result"}


def test_notices_a_task_that_was_archived_though_it_succeeded() -> None:
    wrong = replace(DONE, state="archived", indexes=("archived",), result_run="")

    assert "end" in broken(with_task(evidence(), wrong))


@pytest.mark.parametrize("indexes", [(), ("completed", "completed"), ("pending", "completed"), ("archived",)])
def test_notices_a_task_that_is_not_listed_once_under_its_state(indexes: tuple[str, ...]) -> None:
    assert broken(with_task(evidence(), replace(DONE, indexes=indexes))) == {"counters"}


@pytest.mark.parametrize(
    "counts",
    [
        QueueCounts(sizes={**SIZES, "completed": 3}, reported={**SIZES, "completed": 3}, processed=4, failed=2),
        QueueCounts(sizes=SIZES, reported={**SIZES, "completed": 3}, processed=4, failed=2),
        QueueCounts(sizes=SIZES, reported=SIZES, processed=5, failed=2),
        QueueCounts(sizes=SIZES, reported=SIZES, processed=4, failed=3),
    ],
    ids=["listed", "reported", "processed", "failed"],
)
def test_detects_wrong_counters(counts: QueueCounts) -> None:
    assert broken(replace(evidence(), counts={"q": counts})) == {"counters"}


def test_detects_leaks() -> None:
    found = replace(
        with_task(evidence(), replace(DONE, has_lookup=False)),
        dangling_ids=["q/dangling_id"],
        locks=["asynq:{q}:unique:q:0"],
        leftovers={4711: "python main.py"},
        processes=[Process(name="web 1", descriptors=90, allowed=60)],
        checkouts={"a/deployments/q/checkouts": 9},
        errors_500=1,
    )

    assert broken(found) == {"lookups", "counters", "locks", "orphans", "descriptors", "folders", "errors"}


def test_notices_lookups_without_a_task() -> None:
    assert broken(replace(evidence(), orphan_lookups=1)) == {"lookups"}
