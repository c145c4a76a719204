"""The steps of a rollout, as they follow from what its workers report."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.rollouts import (
    GO_ON,
    LONGEST_BAKE,
    OUTPUT_MAX_CHARS,
    Live,
    Reverted,
    Step,
    Wait,
    decide,
    explain_wait,
)
from runqy.broker.workers.records import DeploymentStep, WorkerRecord, WorkerState
from tests.support.releases import N1, N2, N3, NEW, W1, W2, W3, worker

NOW = timezone.now()
BUILD = 'uv pip failed: Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nValueError: no'


def release(**changes: Any) -> Release:
    columns = {"number": 2, "commit": NEW, "source": ReleaseSource.MANUAL, "state": ReleaseState.ROLLING_OUT}
    return Release(**columns | changes)


def step(row: Release, *workers: WorkerRecord, **queue: Any) -> Step:
    return decide(row, Queue(name="mail", **queue), workers, now=NOW)


READY_AT = NOW - timedelta(seconds=61)


def test_a_rollout_begins_with_the_least_busy_ready_worker() -> None:
    failed = worker("w0", state=WorkerState.START_FAILED)
    busy = replace(W1, running=("t1",), release_runs=10, release_failures=3)

    found = step(release(), failed, busy, W2)

    assert found == Wait({"workers": ["w2"], "runs_before": 10, "failures_before": 3})
    assert step(release()) == GO_ON
    assert step(release(), failed) == Wait({"workers": ["w0"], "runs_before": 0, "failures_before": 0})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param({"release_runs": 9, "release_failures": 5}, GO_ON, id="few-runs-of-which-most-fail"),
        pytest.param({"release_runs": 9, "release_failures": 4}, Wait({"is_baked": True}), id="few-failures"),
        pytest.param({"release_runs": 10, "release_failures": 5}, Wait({"is_baked": True}), id="half-of-the-runs"),
        pytest.param({"release_runs": 10, "release_failures": 6}, Reverted("6 of its first 10 runs failed"), id="most"),
        pytest.param({"release_runs": 0}, GO_ON, id="no-run-yet"),
        pytest.param(
            {"release_runs": 1, "release_failures": 1, "release_deaths": 1},
            Reverted("A process that ran it died while it worked on a task"),
            id="death",
        ),
        pytest.param(
            {"release_runs": 30, "release_failures": 1, "release_deaths": 1}, Wait({"is_baked": True}), id="ok"
        ),
        pytest.param({"state": WorkerState.STARTING, "release": 1}, GO_ON, id="loading"),
        pytest.param(
            {"state": WorkerState.STARTING, "release_runs": 1, "release_failures": 1, "release_deaths": 1},
            Reverted("A process that ran it died while it worked on a task"),
            id="dying-again-and-again",
        ),
        pytest.param(
            {"release": 1, "failed_release": 2, "reason": "no such folder"},
            Reverted("w1 could not start it: no such folder"),
            id="failed-start",
        ),
        pytest.param(
            {"release": 1, "failed_release": 2, "reason": "no such branch", "failed_step": DeploymentStep.FETCH},
            Reverted("w1 could not fetch it: no such branch"),
            id="failed-fetch",
        ),
        pytest.param(
            {"release": 1, "failed_release": 2, "reason": BUILD, "failed_step": DeploymentStep.INSTALL},
            Reverted("w1 could not install its requirements: ValueError: no", BUILD),
            id="failed-installation",
        ),
    ],
)
def test_the_first_worker_decides_whether_the_others_follow(found: dict[str, Any], expected: Step) -> None:
    row = release(workers=["w1"], ready_at=READY_AT, runs_before=100, failures_before=10)

    assert step(row, replace(N1, **found), W2) == expected


def test_a_few_runs_that_fail_hold_it_up_for_ten_minutes() -> None:
    failing = replace(N1, release_runs=3, release_failures=3)

    waiting = release(workers=["w1"], ready_at=NOW - LONGEST_BAKE + timedelta(seconds=1))
    assert step(waiting, failing, W2) == GO_ON
    assert explain_wait(waiting, Queue(name="mail"), [failing, W2]) == "waits for 10 runs, since 3 of 3 failed"
    assert step(release(workers=["w1"], ready_at=NOW - LONGEST_BAKE), failing, W2) == Wait({"is_baked": True})


def test_failures_that_the_live_release_had_too_are_not_held_against_a_new_one() -> None:
    row = release(workers=["w1"], ready_at=READY_AT, runs_before=100, failures_before=20)

    assert step(row, replace(N1, release_runs=10, release_failures=10), W2) == Wait({"is_baked": True})


def test_baking_begins_when_the_first_worker_is_ready_and_waits_ten_minutes_for_a_run() -> None:
    waiting = release(workers=["w1"])

    assert step(waiting, replace(N1, release_runs=5)) == Wait({"ready_at": NOW})
    waiting.ready_at = NOW - timedelta(seconds=59)
    assert step(waiting, replace(N1, release_runs=5)) == GO_ON
    waiting.ready_at = NOW - timedelta(minutes=10)
    assert step(waiting, N1) == Wait({"is_baked": True})


def test_the_others_follow_in_steps_of_the_share_and_at_least_one() -> None:
    workers = [N1, *(worker(f"w{number}") for number in range(2, 9))]
    row = release(workers=["w1"], is_baked=True)

    assert step(row, *workers) == Wait({"workers": ["w1", "w2", "w3"]})
    assert step(row, N1, W2, W3, rollout_max_unavailable=1) == Wait({"workers": ["w1", "w2"]})
    row.workers = ["w1", "w2"]
    assert step(row, N1, W2, W3) == GO_ON  # the second one has not changed yet
    row.workers = ["w1", "w2", "w3"]
    assert step(row, N1, N2, N3) == Live()


def test_a_lost_first_worker_is_replaced_once() -> None:
    row = release(workers=["w1"])
    lost = Wait({"workers": ["w2"], "has_lost_worker": True, "ready_at": None})

    assert step(row, W2, W3) == lost
    row.has_lost_worker = True
    assert isinstance(step(row, W2, W3), Reverted)


@pytest.mark.parametrize("state", [WorkerState.DRAINING, WorkerState.STOPPING])
def test_a_first_worker_that_ends_is_replaced_as_a_lost_one(state: WorkerState) -> None:
    ending = replace(N1, state=state, release_runs=10, release_failures=10)

    found = step(release(workers=["w1"], ready_at=READY_AT), ending, W2)

    assert found == Wait({"workers": ["w2"], "has_lost_worker": True, "ready_at": None})


def test_workers_that_are_gone_or_end_do_not_stop_a_rollout_that_has_proved_itself() -> None:
    row = release(workers=["w1", "w2"], is_baked=True)
    ending = replace(W2, state=WorkerState.DRAINING)

    assert step(row, W3) == Wait({"workers": ["w3"]})  # all were restarted, with new ids
    assert step(row, N1, ending, W3) == Wait({"workers": ["w1", "w3"]})
    assert step(row, N1, ending) == Live()
    assert step(row) == step(row, ending) == GO_ON
    assert step(row, ending, is_enabled=False) == GO_ON  # all workers of a disabled queue drain


ROLLBACK = {"source": ReleaseSource.ROLLBACK, "is_whole": True, "is_baked": True}


def test_a_rollback_goes_to_all_workers_at_once_and_needs_no_proof() -> None:
    row = release(**ROLLBACK)

    assert step(row, W1, W2, W3) == step(row, N1, N2, W3) == GO_ON
    assert step(row) == GO_ON
    assert step(row, N1, N2, N3) == step(row, N3) == Live()  # also if both others were lost


def test_a_rollback_goes_on_with_the_workers_that_can_run_it() -> None:
    row = release(**ROLLBACK)
    unable = replace(W1, failed_release=2, reason="no commit", state=WorkerState.START_FAILED)
    reverted = Reverted("w1 could not start it: no commit")

    assert step(row, unable, replace(N2, state=WorkerState.STARTING)) == step(row, unable, N2, W3) == GO_ON
    assert step(row, unable, N2, N3) == Live()
    assert step(row, unable) == step(row, unable, replace(unable, worker_id="w2")) == reverted
    assert step(release(workers=["w1"], is_baked=True), unable, W2) == reverted


def test_workers_that_are_not_ready_follow_once_a_release_is_live() -> None:
    row = release(workers=["w1"], is_baked=True)
    broken = worker("w2", state=WorkerState.START_FAILED)

    assert step(row, N1, broken, W3) == Wait({"workers": ["w1", "w3"]})
    row.workers = ["w1", "w3"]
    assert step(row, N1, broken, N3) == Live()


def test_a_rollout_without_a_next_step_says_what_it_waits_for() -> None:
    starting = replace(W1, state=WorkerState.STARTING)
    row = release(workers=["w1"], ready_at=NOW)

    def found(*workers: WorkerRecord, **queue: Any) -> str:
        assert step(row, *workers, **queue) == GO_ON
        return explain_wait(row, Queue(name="mail", **queue), workers)

    assert found(starting, W2) == found(W1, W2) == "waits for w1 to start it"
    assert found(N1) == "waits for a first task, for 10 min at most"
    assert (
        found(replace(N1, release_runs=1), rollout_bake_s=90)
        == "waits until its first workers have run it for 1 min 30 s"
    )
    row.is_baked = True
    assert found(replace(N1, state=WorkerState.DRAINING)) == "waits for a worker"
    assert found(replace(N1, state=WorkerState.DRAINING), is_enabled=False) == "waits until the queue is enabled"
    row.is_whole = True
    many = [worker(f"w{number}") for number in range(1, 6)]
    assert found(*many) == "waits for w1, w2, w3 and 2 more to start it"


def test_the_commit_of_a_release_is_the_newest_that_its_first_worker_finds() -> None:
    row = release(commit="", workers=["w1"])
    info = {"commit_subject": "Mend it", "commit_author": "Ada", "committed_at_s": 1}

    found = step(row, replace(N1, **info), W2)

    assert isinstance(found, Wait)
    assert (found.changes["commit"], found.changes["subject"], found.changes["author"]) == (NEW, "Mend it", "Ada")
    assert step(row, replace(N1, commit="local"), W2) == Wait({"ready_at": NOW})  # a folder of that machine


def test_a_release_that_does_not_start_has_file_and_line_and_the_end_of_what_was_printed() -> None:
    traceback = 'Traceback (most recent call last):\n  File "main.py", line 3, in <module>\nImportError: no\0 b'
    printed = f"the child process exited with status 1\n{'x' * OUTPUT_MAX_CHARS}\n{traceback}"

    found = step(release(workers=["w1"]), replace(W1, failed_release=2, reason=printed))

    assert isinstance(found, Reverted)
    assert found.reason == "w1 could not start it: ImportError: no\ufffd b (main.py, line 3)"
    assert found.output.endswith(traceback.replace("\0", "\ufffd"))
    assert (len(found.output), found.output.partition("\n")[0]) == (OUTPUT_MAX_CHARS, printed.partition("\n")[0])
