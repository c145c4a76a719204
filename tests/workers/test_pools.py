"""Pools with real children, without Redis: runs when children end, change or hang."""

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from runqy import clock
from runqy.broker.tasks.archive_reasons import ErrorClass
from runqy.broker.tasks.record import TaskProgress
from runqy.broker.workers.records import WorkerState
from runqy.core.formats.error_texts import find_start_error
from tests.support import event_loop
from tests.support.processes import is_alive
from tests.support.waiting import eventually
from tests.workers.pools import SETTINGS, Recorder, a_run, child_spec, end_a_quick_run, until, use
from workers.runtime.child import ChildSpec
from workers.runtime.deployments import DeploymentManager
from workers.runtime.long_running import LongRunningPool
from workers.runtime.one_shot import OneShotPool
from workers.runtime.pool import Pool
from workers.runtime.run_pace import RunPace
from workers.runtime.settings import RestartSettings, WorkerSettings
from workers.runtime.task_runs import RunResult, RunStatus

PLAIN = """
import json, os, signal, subprocess, sys, time
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    do = request["payload"]
    response = json.dumps({"task_id": request["task_id"], "result": os.environ.get("RELEASE")})
    if do == "finish":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if do in ("wait", "finish"):
        with open(f"{request['task_id']}.started", "w") as started:
            started.write(str(os.getpid()))
        while not os.path.exists(f"{request['task_id']}.until"):
            time.sleep(0.01)
    if do == "cannot read":
        request["task_id"] = "unknown"
        response = json.dumps({"task_id": "unknown", "error": "Exceeds the limit for integers"})
    if do == "twice":
        print(response, flush=True)
    if do == "die":
        os._exit(4)
    if do == "leave":
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        left = subprocess.Popen(["sleep", "600"], **streams)
        apart = subprocess.Popen(["sleep", "600"], start_new_session=True, **streams)
        open("left", "w").write(f"{left.pid} {apart.pid}")
        os._exit(4)
    if do == "last words":
        os.write(1, b"noise " * 5000 + b"\\n" + response.encode() + b"\\n")
        os._exit(0)
    if do == "print an error of the start":
        os.write(1, b'{"status":"error","error":"of a payload"}\\n' + response.encode() + b"\\n")
        os._exit(0)
    if do == "unended line":
        os.write(1, response.encode())
        os._exit(0)
    if do == "half a line":
        os.write(1, response[:-1].encode())
        os.write(2, b"out of memory")
        os._exit(4)
    if do == "print":
        os.write(1, b"[1] is no response\\n")
        os.write(2, request["task_id"].encode())
    if do == "progress":
        report = {"progress": {"current": 1, "total": 2}}
        os.write(1, json.dumps(report).encode() + b"\\n")
        os.write(1, json.dumps({**report, "task_id": request["task_id"]}).encode() + b"\\n")
        os.write(1, json.dumps({**report, "task_id": "other"}).encode() + b"\\n")
    if do == "close stdout":
        os.close(1)
        time.sleep(600)
    print(response, flush=True)
"""


@pytest.fixture
def spec(tmp_path: Path) -> ChildSpec:
    return child_spec(tmp_path, PLAIN)


def test_tasks_waiting_for_a_child_are_requeued_when_it_dies(spec: ChildSpec) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        for task_id, do in (("first", "die"), ("second", None), ("third", None)):
            pool.submit(a_run(task_id, do))
        await until(lambda: len(recorder.results) == 3)

    recorder = use(LongRunningPool, spec, act, concurrency=3)

    assert recorder.statuses() == {
        "first": RunStatus.CHILD_DIED,
        "second": RunStatus.REQUEUED,
        "third": RunStatus.REQUEUED,
    }
    assert recorder.results["first"].error == "the child process exited with status 4"


def test_only_the_first_of_tasks_sent_ahead_counts_as_started(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        await end_a_quick_run(pool, recorder)
        first = a_run("first", "wait")
        pool.submit(first)
        pool.submit(a_run("second", None))
        assert first.started_ns
        started = spec.code_dir / "first.started"
        await until(lambda: started.exists() and started.read_text())
        assert pool.memory_bytes  # as a heartbeat does
        os.kill(int(started.read_text()), 9)
        await until(lambda: "second" in recorder.results)

    recorder = use(LongRunningPool, spec, act, concurrency=2)

    assert (recorder.statuses()["first"], recorder.statuses()["second"]) == (RunStatus.CHILD_DIED, RunStatus.REQUEUED)
    first = recorder.results["first"]
    assert first.error_class == ErrorClass.PROCESS_KILLED
    assert re.fullmatch(
        "the child process was killed by SIGKILL: probably it, or the machine, ran out of memory\n"
        r"\[it used \d+ MiB when that was last measured\]",
        first.error,
    )


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_response_just_before_a_childs_end_counts(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "last words"))
        await until(lambda: recorder.results)

    assert use(kind, spec, act).statuses() == {"t1": RunStatus.SUCCEEDED}


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_response_counts_although_its_line_is_unterminated(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "unended line"))
        await until(lambda: recorder.results)

    assert use(kind, spec, act).statuses() == {"t1": RunStatus.SUCCEEDED}


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_child_that_dies_while_it_responds_has_died_and_its_last_output_is_kept(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "half a line"))
        await until(lambda: recorder.results)

    result = use(kind, spec, act).results["t1"]

    assert result.status is RunStatus.CHILD_DIED
    assert result.error.startswith("the child process exited with status 4\n")
    assert result.error.endswith("out of memory")


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_child_that_cannot_respond_is_ended(spec: ChildSpec, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.child.CLOSED_STDOUT_GRACE_S", 0.05)

    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "close stdout"))
        await until(lambda: recorder.results)
        await until(lambda: pool.is_ready)

    result = use(kind, spec, act).results["t1"]

    assert result == RunResult(
        RunStatus.CHILD_DIED, "the child process closed its standard output", ErrorClass.PROCESS_DIED
    )


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_processes_left_by_a_child_are_ended(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "leave"))
        await until(lambda: recorder.results)

    use(kind, spec, act)

    left = [int(word) for word in (spec.code_dir / "left").read_text().split()]
    eventually(lambda: not any(map(is_alive, left)))  # a killed process takes some time to end


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_child_that_died_while_running_a_task_is_replaced_immediately(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        for n in range(8):
            await until(lambda: pool.is_ready)
            pool.submit(a_run(f"poison{n}", "die"))
            await until(lambda n=n: len(recorder.results) > n)
        await until(lambda: pool.is_ready)
        pool.submit(a_run("good", None))
        await until(lambda: "good" in recorder.results)

    slow = RestartSettings(initial_delay_s=600, max_delay_s=600, max_restarts=3, cooldown_s=600)
    recorder = use(kind, spec, act, restarts=slow)

    assert recorder.statuses()["good"] is RunStatus.SUCCEEDED
    assert list(recorder.statuses().values()).count(RunStatus.CHILD_DIED) == 8


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_response_for_an_unknown_task_ends_the_only_run_as_failed(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "cannot read"))
        await until(lambda: recorder.results)

    with capture_logs() as entries:
        result = use(kind, spec, act).results["t1"]

    assert result.status is RunStatus.FAILED
    assert "'unknown', which it does not have: Exceeds the limit for integers" in result.error
    assert [entry["task_id"] for entry in entries if entry["event"] == "response_for_unknown_task"] == ["unknown"]


def test_a_one_shot_child_that_dies_before_it_is_ready_charges_no_task(tmp_path: Path) -> None:
    spec = child_spec(tmp_path, f"import os\nif os.path.exists('broken'): raise SystemExit(3)\n{PLAIN}")

    async def act(pool: Pool, recorder: Recorder) -> None:
        (tmp_path / "broken").touch()
        pool.submit(a_run("t1", None))
        await until(lambda: recorder.results)

    assert use(OneShotPool, spec, act).statuses() == {"t1": RunStatus.REQUEUED}


def test_a_second_response_for_a_task_ends_no_other_run(spec: ChildSpec) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("first", "twice"))
        pool.submit(a_run("second", "wait"))
        await until((spec.code_dir / "second.started").exists)
        (spec.code_dir / "second.until").touch()
        await until(lambda: "second" in recorder.results)

    with capture_logs() as entries:
        recorder = use(LongRunningPool, spec, act, concurrency=2)

    assert set(recorder.statuses().values()) == {RunStatus.SUCCEEDED}
    assert [entry["is_late"] for entry in entries if entry["event"] == "response_for_unknown_task"] == [True]


def test_a_new_deployment_waits_for_the_task_that_runs(spec: ChildSpec) -> None:
    newer = ChildSpec(startup_cmd=spec.startup_cmd, code_dir=spec.code_dir, env={**spec.env, "RELEASE": "2"})

    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "wait"))
        await until((spec.code_dir / "t1.started").exists)
        pool.start(newer)
        assert not pool.is_ready
        assert not pool.is_up_to_date
        (spec.code_dir / "t1.until").touch()
        await until(lambda: pool.is_ready)
        assert pool.is_up_to_date
        pool.submit(a_run("t2", None))
        await until(lambda: "t2" in recorder.results)

    recorder = use(LongRunningPool, spec, act)

    assert [recorder.results[one].output for one in ("t1", "t2")] == [b"null", b'"2"']


@pytest.mark.parametrize("is_all", [False, True])
def test_tasks_that_were_sent_behind_a_cancelled_one_are_requeued_or_cancelled_too(
    spec: ChildSpec, is_all: bool
) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        await end_a_quick_run(pool, recorder)
        runs = [a_run("first", "wait"), a_run("second", None), a_run("third", None)]
        for run in runs:
            pool.submit(run)
        await until((spec.code_dir / "first.started").exists)
        for run in runs if is_all else runs[:1]:
            pool.end_run(run, RunResult(RunStatus.CANCELED))
        await until(lambda: len(recorder.results) == 4)

    statuses = use(LongRunningPool, replace(spec, termination_grace_s=0.05), act, concurrency=3).statuses()

    others = RunStatus.CANCELED if is_all else RunStatus.REQUEUED
    assert [statuses[one] for one in ("first", "second", "third")] == [RunStatus.CANCELED, others, others]


def test_tasks_are_held_ahead_while_fetching_one_takes_a_twentieth_of_a_run(
    spec: ChildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacities = []

    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        capacities.append(pool.capacity)
        now_s = clock.monotonic_s()
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
        pool.submit(a_run("run", "wait"))
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + 1)
        (spec.code_dir / "run.until").touch()
        await until(lambda: recorder.results)
        for refill_s in (0.04, 0.06, 1.5, 1e6):
            recorder.refill_s = refill_s
            capacities.append(pool.capacity)

    use(LongRunningPool, spec, act, concurrency=8)

    assert capacities == [1, 1, 2, 3, 8]


def test_enough_tasks_of_no_work_are_held_ahead_to_fill_the_time_of_a_round_trip() -> None:
    pace = RunPace()
    for _ in range(20):
        pace.record_run(0.0)

    assert pace.count_ahead(100e-6, slots=1, batches=[]) == 10


def test_tasks_held_behind_a_long_one_are_requeued(spec: ChildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        await end_a_quick_run(pool, recorder, turn_s=0)
        now_s = clock.monotonic_s()
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
        pool.submit(a_run("long", "wait"), a_run("second", None), a_run("third", None))
        pool.check_runs(now_s)
        assert (len(recorder.results), pool.capacity) == (1, 3)
        # Tasks as long as this are fetched when the child is free.
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + recorder.refill_s / 0.05 + 1)
        pool.check_runs(now_s)
        assert [*recorder.statuses().items()][1:] == [("third", RunStatus.REQUEUED), ("second", RunStatus.REQUEUED)]
        assert pool.capacity == 1
        (spec.code_dir / "long.until").touch()
        await until(lambda: "long" in recorder.results)

    use(LongRunningPool, spec, act, concurrency=3)


def test_a_pipe_is_filled_only_with_tasks_that_are_shorter_than_passing_them_on(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        for number, turn_s in enumerate((1e6, 0)):
            await end_a_quick_run(pool, recorder, turn_s=turn_s)
            first, second = a_run(f"first{number}", "wait"), a_run(f"second{number}", None)
            pool.submit(first, second)
            pool.requeue_unstarted()
            assert (second.task_id in recorder.results) == (turn_s == 0)
            (spec.code_dir / f"first{number}.until").touch()
            await until(lambda n=number: {f"first{n}", f"second{n}"} <= recorder.results.keys())
            del recorder.results["quick"]

    use(LongRunningPool, spec, act, concurrency=2)


def test_without_the_setting_no_tasks_are_held_ahead(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        await until(lambda: pool.capacity == 2)
        await end_a_quick_run(pool, recorder)
        assert pool.capacity == 2

    use(LongRunningPool, spec, act, processes=2)


def test_slow_tasks_are_spread_over_free_children(spec: ChildSpec) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        await until(lambda: pool.capacity == 2)
        pool.submit(a_run("slow", "wait"))
        for n in range(3):
            pool.submit(a_run(f"quick{n}", None))
        await until(lambda: len(recorder.results) == 3)
        assert "slow" not in recorder.results
        (spec.code_dir / "slow.until").touch()
        await until(lambda: len(recorder.results) == 4)

    recorder = use(LongRunningPool, spec, act, concurrency=4, processes=2)

    assert set(recorder.statuses().values()) == {RunStatus.SUCCEEDED}


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_task_whose_lease_has_ended_before_it_is_sent_does_not_start(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        recorder.has_leases = False
        pool.submit(a_run("late", "wait"))
        await until(lambda: recorder.results)

    recorder = use(kind, spec, act)

    assert recorder.statuses() == {"late": RunStatus.LOST}
    assert not (spec.code_dir / "late.started").exists()


def test_a_task_sent_to_no_child_is_cancelled_immediately(spec: ChildSpec) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("running", "wait"))
        pool.submit(waiting := a_run("waiting", None))
        pool.end_run(waiting, RunResult(RunStatus.CANCELED))
        assert recorder.statuses() == {"waiting": RunStatus.CANCELED}
        (spec.code_dir / "running.until").touch()
        await until(lambda: "running" in recorder.results)

    use(LongRunningPool, spec, act, concurrency=2)


def test_a_child_whose_cancelled_task_ends_in_time_goes_on(spec: ChildSpec) -> None:
    failures: list[None] = []

    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(canceled := a_run("canceled", "finish"))
        await until((spec.code_dir / "canceled.started").exists)
        pool.end_run(canceled, RunResult(RunStatus.CANCELED))
        (spec.code_dir / "canceled.until").touch()
        await until(lambda: "canceled" in recorder.results)
        pool.submit(a_run("next", "wait"))
        await until((spec.code_dir / "next.started").exists)
        (spec.code_dir / "next.until").touch()
        await until(lambda: "next" in recorder.results)

    off = RestartSettings(is_enabled=False)
    patient = replace(spec, termination_grace_s=600)
    recorder = use(LongRunningPool, patient, act, restarts=off, on_failure=lambda: failures.append(None))

    assert recorder.statuses() == {"canceled": RunStatus.CANCELED, "next": RunStatus.SUCCEEDED}
    assert (spec.code_dir / "next.started").read_text() == (spec.code_dir / "canceled.started").read_text()
    assert not failures


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_child_that_is_never_ready_is_given_up_with_a_reason(tmp_path: Path, spec: ChildSpec, kind: Any) -> None:
    (tmp_path / "main.py").write_text("import time\ntime.sleep(600)\n")
    slow = ChildSpec(
        startup_cmd=spec.startup_cmd, code_dir=tmp_path, env=spec.env, startup_timeout_s=600, startup_silence_s=0.2
    )

    async def run() -> str:
        pool = kind(Recorder(), SETTINGS)
        pool.start(slow)
        await until(lambda: pool.problem)
        problem: str = pool.problem
        await pool.stop()
        return problem

    reason = event_loop.run(run())
    assert reason.startswith("the child process was not ready after ")
    assert ": no output or use of CPU for " in reason


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_worker_reports_how_long_its_child_has_been_loading(
    tmp_path: Path, spec: ChildSpec, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.py").write_text("import time\ntime.sleep(600)\n")
    settings = WorkerSettings(server_url="http://localhost", api_key="k", queues=("mail",), deployment_dir=tmp_path)
    manager = DeploymentManager(settings, SimpleNamespace(), worker_id="w1")  # type: ignore[arg-type]

    async def run() -> list[tuple[WorkerState, str]]:
        manager.pool = kind(Recorder(), SETTINGS)
        assert manager.pool
        manager.pool.start(spec)
        states = [manager.state]
        now_s = clock.monotonic_s()
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s + 125)
        states.append(manager.state)
        await manager.pool.stop()
        return states

    assert event_loop.run(run()) == [(WorkerState.STARTING, ""), (WorkerState.STARTING, "loading for 2 min")]


def test_what_tasks_printed_is_logged_and_no_reason(spec: ChildSpec) -> None:
    problems = []

    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "last words"))
        await until(lambda: pool.problem)
        problems.append(pool.problem)

    with capture_logs() as entries:
        recorder = use(LongRunningPool, spec, act, restarts=RestartSettings(initial_delay_s=600, max_delay_s=600))

    (failure,) = (entry for entry in entries if entry["event"] == "child_ended")
    assert recorder.statuses() == {"t1": RunStatus.SUCCEEDED}
    assert problems == [failure["error"]] == ["the child process exited with status 0"]
    assert "noise" in failure["exception"]


def test_an_error_of_the_start_that_a_task_prints_is_its_output(spec: ChildSpec) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "print an error of the start"))
        await until(lambda: pool.problem)
        assert pool.problem == "the child process exited with status 0"

    recorder = use(LongRunningPool, spec, act, restarts=RestartSettings(initial_delay_s=600, max_delay_s=600))

    assert recorder.statuses() == {"t1": RunStatus.SUCCEEDED}
    assert b"of a payload" in recorder.printed["t1"]


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ("import os\ndef main(:\n    pass", ("SyntaxError", "main.py, line 2")),
        ("print('written at the exit')\nimport lib.broken", ("SyntaxError", "lib/broken.py, line 1")),
        (
            "import json; print('written at the exit')\njson.loads('{')",
            ("json.decoder.JSONDecodeError", "main.py, line 2"),
        ),
    ],
)
def test_code_that_does_not_start_is_named_with_file_and_line(
    tmp_path: Path, spec: ChildSpec, kind: Any, main: str, expected: tuple[str, str]
) -> None:
    (tmp_path / "code/lib").mkdir(parents=True)
    (tmp_path / "code/main.py").write_text(main)
    (tmp_path / "code/lib/broken.py").write_text("print(")
    (tmp_path / "linked").symlink_to("code")

    async def run() -> str:
        pool = kind(Recorder(), SETTINGS)
        pool.start(replace(spec, code_dir=tmp_path / "linked"))
        await until(lambda: pool.problem)
        problem: str = pool.problem
        await pool.stop()
        return problem

    reason = event_loop.run(run())
    assert find_start_error(reason).startswith(expected[0])
    assert find_start_error(reason).endswith(f" ({expected[1]})")


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_a_command_that_does_not_exist_is_a_reason_too(spec: ChildSpec, kind: Any) -> None:
    wrong = ChildSpec(startup_cmd="no-such-program --now", code_dir=spec.code_dir, env=spec.env)

    async def run() -> str:
        pool = kind(Recorder(), SETTINGS)
        pool.start(wrong)
        await until(lambda: pool.problem)
        problem: str = pool.problem
        await pool.stop()
        return problem

    assert "no-such-program: No such file or directory" in event_loop.run(run())


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_what_a_child_prints_before_its_response_belongs_to_the_task(spec: ChildSpec, kind: Any) -> None:
    ids = [f"t{n}" for n in range(10)]

    async def act(pool: Pool, recorder: Recorder) -> None:
        for task_id in ids:
            pool.submit(a_run(task_id, "print"))
            await until(lambda task_id=task_id: task_id in recorder.results)

    printed = use(kind, spec, act).printed

    assert list(printed) == ids
    assert all(sorted(text) == sorted(b"[1] is no response" + task_id.encode()) for task_id, text in printed.items())


@pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])
def test_progress_is_reported_for_the_task_that_the_child_has(spec: ChildSpec, kind: Any) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("t1", "progress"))
        await until(lambda: recorder.results)

    recorder = use(kind, spec, act)

    assert recorder.progress == [("t1", TaskProgress(1, 2))] * 2
    assert recorder.statuses() == {"t1": RunStatus.SUCCEEDED}
