"""Children of the second version of the protocol, in a pool without Redis: many tasks at once, and batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support import event_loop
from tests.workers.pools import RECOVERY, SETTINGS, Recorder, a_run, child_spec, until, use
from workers.runtime.child import ChildSpec
from workers.runtime.long_running import LongRunningPool
from workers.runtime.task_runs import Run, RunResult, RunStatus

CODE = Path(__file__).with_name("concurrent_child.py").read_text()
THREE = '{"status":"ready","accepts":["concurrent"],"concurrency":3}'
BATCHES = '{"status":"ready","accepts":["batch"],"batch":{"max_size":3,"max_wait_ms":%d}}'


@pytest.fixture
def spec(tmp_path: Path) -> ChildSpec:
    return child_spec(tmp_path, CODE, READY=THREE)


@pytest.fixture
def batches(tmp_path: Path) -> Callable[..., ChildSpec]:
    def build(max_wait_ms: int = 0) -> ChildSpec:
        return child_spec(tmp_path, CODE, READY=BATCHES % max_wait_ms)

    return build


def changed(spec: ChildSpec, **env: str) -> ChildSpec:
    return replace(spec, env={**spec.env, "ANOTHER": "1", **env})


def is_started(spec: ChildSpec, *ids: str) -> Callable[[], bool]:
    return lambda: all((spec.code_dir / f"{one}.started").exists() for one in ids)


def release(spec: ChildSpec, *ids: str) -> None:
    for one in ids:
        (spec.code_dir / f"{one}.until").touch()


@pytest.mark.parametrize(("allowed", "at_once"), [(0, 3), (2, 2), (100, 3)])
def test_a_child_works_on_as_many_tasks_as_it_announces_and_its_queue_allows(
    spec: ChildSpec, allowed: int, at_once: int
) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        assert pool.capacity == at_once
        runs = [a_run(f"t{n}", "wait") for n in range(4)]
        for run in runs:
            pool.submit(run)
        assert [run.task_id for run in runs if run.started_ns] == [f"t{n}" for n in range(at_once)]
        await until(is_started(spec, "t0", "t1"))
        release(spec, "t1")
        await until(lambda: recorder.results)
        assert recorder.statuses() == {"t1": RunStatus.SUCCEEDED}
        assert runs[at_once].started_ns
        release(spec, "t0", "t2", "t3")
        await until(lambda: len(recorder.results) == 4)

    recorder = use(LongRunningPool, replace(spec, max_concurrency=allowed), act)

    assert {one: result.output for one, result in recorder.results.items()} == {f"t{n}": b'"t%d"' % n for n in range(4)}


def test_another_limit_of_the_queue_keeps_the_child(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("before", None))
        await until(lambda: recorder.results)
        pool.start(replace(spec, max_concurrency=1))
        assert (pool.is_ready, pool.capacity) == (True, 1)
        pool.submit(a_run("after", None))
        await until(lambda: len(recorder.results) == 2)

    use(LongRunningPool, spec, act)

    assert (spec.code_dir / "before.started").read_text() == (spec.code_dir / "after.started").read_text()


def test_tasks_that_wait_are_requeued_when_the_child_is_replaced(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        for n in range(5):
            pool.submit(a_run(f"t{n}", "wait"))
        pool.start(changed(spec))
        assert recorder.statuses() == {"t3": RunStatus.REQUEUED, "t4": RunStatus.REQUEUED}
        release(spec, "t0", "t1", "t2")
        await until(lambda: len(recorder.results) == 5)

    use(LongRunningPool, spec, act)


def test_another_limit_of_the_queue_keeps_a_child_that_loads(spec: ChildSpec) -> None:
    async def act() -> tuple[float | None, float | None]:
        pool = LongRunningPool(Recorder(), SETTINGS)
        pool.start(spec)
        before_s = pool.loading_since_s
        pool.start(replace(spec, max_concurrency=2))
        after_s = pool.loading_since_s
        await until(lambda: pool.is_ready)
        assert pool.capacity == 2
        await pool.stop()
        return before_s, after_s

    before_s, after_s = event_loop.run(act())

    assert before_s == after_s != None  # noqa: E711


def test_a_child_has_one_task_of_an_id_at_a_time(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        high, low = a_run("daily", "wait"), a_run("daily", None)
        ended: list[tuple[Run, bool]] = []
        recorder.run_ended = lambda run, result: ended.append((run, bool(low.started_ns)))
        pool.submit(high, low, other := a_run("other", "wait"))
        assert (bool(low.started_ns), bool(other.started_ns), pool.capacity) == (False, True, 3)
        await until(is_started(spec, "daily"))
        release(spec, "daily")
        await until(lambda: len(ended) == 2)
        assert ended == [(high, False), (low, True)]
        assert pool.capacity == 2
        release(spec, "other")

    use(LongRunningPool, replace(spec, max_concurrency=2), act)


def test_a_batch_has_one_task_of_an_id(batches: Callable[..., ChildSpec]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        ended: list[Run] = []
        recorder.run_ended = lambda run, result: ended.append(run)
        pool.submit(a_run("daily", "ok"), a_run("daily", "ok"))
        await until(lambda: len(ended) == 2)

    assert use(LongRunningPool, batches(0), act).batches == [1, 1]


def test_a_task_that_times_out_among_others_ends_alone(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        slow, other = a_run("slow", "wait"), a_run("other", "wait")
        pool.submit(slow)
        pool.submit(other)
        other.ends_at_s += 600
        pool.check_runs(slow.ends_at_s)
        await until(lambda: recorder.results)
        assert recorder.statuses() == {"slow": RunStatus.TIMED_OUT}
        await until(is_started(spec, "other"))
        release(spec, "other")
        await until(lambda: len(recorder.results) == 2)

    assert use(LongRunningPool, spec, act).statuses()["other"] is RunStatus.SUCCEEDED


def test_the_others_are_requeued_if_the_child_does_not_end_a_task(
    spec: ChildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.child.CANCEL_GRACE_S", 0.05)

    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        stubborn = a_run("stubborn", "stubborn")
        pool.submit(stubborn)
        await until(is_started(spec, "stubborn"))
        pool.submit(a_run("other", "wait"))
        pool.end_run(stubborn, RunResult(RunStatus.TIMED_OUT))
        await until(lambda: len(recorder.results) == 2)
        await until(lambda: pool.is_ready)

    recorder = use(LongRunningPool, spec, act)

    assert recorder.statuses() == {"stubborn": RunStatus.TIMED_OUT, "other": RunStatus.REQUEUED}
    assert b"its process had to be restarted" in recorder.printed["stubborn"]


@pytest.mark.parametrize("others", [["wait", "wait"], []])
def test_a_death_is_shared_by_the_tasks_that_the_child_had(spec: ChildSpec, others: list[str]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("done", None))
        await until(lambda: recorder.results)
        for n, do in enumerate(others):
            pool.submit(a_run(f"other{n}", do))
        pool.submit(a_run("deadly", "die"))
        await until(is_started(spec, "deadly"))
        release(spec, "deadly")
        await until(lambda: len(recorder.results) == 2 + len(others))

    results = use(LongRunningPool, spec, act).results

    assert results.pop("done").status is RunStatus.SUCCEEDED
    assert {(one.status, one.is_shared) for one in results.values()} == {(RunStatus.CHILD_DIED, bool(others))}


def test_a_suspect_task_runs_alone(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        first, suspect = a_run("first", "wait"), a_run("suspect", "wait", is_suspect=True)
        later = [a_run(f"later{n}", "wait", is_suspect=n > 0) for n in range(3)]
        pool.submit(first, suspect, *later)
        # Other workers get the tasks that cannot start, and none is leased beside it.
        assert list(recorder.statuses().items()) == [(f"later{n}", RunStatus.REQUEUED) for n in (2, 1, 0)]
        assert (bool(first.started_ns), bool(suspect.started_ns), pool.capacity) == (True, False, 2)
        release(spec, "first")
        await until(lambda: "first" in recorder.results)
        assert (bool(suspect.started_ns), pool.capacity) == (True, 1)
        pool.submit(a_run("beside", "wait"))
        assert recorder.results["beside"].status is RunStatus.REQUEUED
        release(spec, "suspect")
        await until(lambda: "suspect" in recorder.results)
        assert pool.capacity == 3

    use(LongRunningPool, spec, act)


def test_what_a_child_sends_beside_others_belongs_to_its_task_or_to_all(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("other", "wait"))
        pool.submit(a_run("talks", "progress"))
        await until(lambda: "talks" in recorder.results)
        pool.submit(a_run("prints", "print"))
        await until(lambda: "prints" in recorder.results)
        release(spec, "other")
        await until(lambda: "other" in recorder.results)

    recorder = use(LongRunningPool, spec, act)

    assert [(task_id, progress.current) for task_id, progress in recorder.progress] == [("talks", 1)]
    assert recorder.printed == {"other": b"printed by prints\n", "prints": b"printed by prints\n"}


def test_wrong_responses_end_no_other_task(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("other", "wait"))
        for do in ("twice", "foreign", "truncated"):
            pool.submit(a_run(do, do))
            await until(lambda do=do: do in recorder.results)
        release(spec, "other")
        await until(lambda: len(recorder.results) == 4)

    with capture_logs() as entries:
        recorder = use(LongRunningPool, spec, act)

    unknown = {(one["task_id"], one["is_late"]) for one in entries if one["event"] == "response_for_unknown_task"}
    assert unknown == {("twice", True), ("stranger", False)}
    assert recorder.statuses() == {
        "twice": RunStatus.SUCCEEDED,
        "foreign": RunStatus.SUCCEEDED,
        "truncated": RunStatus.FAILED,
        "other": RunStatus.SUCCEEDED,
    }


def test_a_response_above_the_limit_fails_its_task_alone(spec: ChildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.child.MAX_LINE_BYTES", 400)

    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("other", "wait"))
        pool.submit(a_run("long", "long"))
        await until(lambda: recorder.results)
        release(spec, "other")
        await until(lambda: len(recorder.results) == 2)

    recorder = use(LongRunningPool, spec, act)

    assert recorder.statuses() == {"long": RunStatus.FAILED, "other": RunStatus.SUCCEEDED}
    assert recorder.results["long"].error.startswith("result_too_large: ")


@pytest.mark.parametrize(
    ("announced", "do"),
    [
        (THREE, "nameless"),
        (THREE, "unread"),
        ('{"status":"ready","accepts":["batch"],"concurrency":2,"batch":{"max_size":2}}', "nameless"),
    ],
)
def test_a_child_is_replaced_that_writes_a_response_which_could_be_for_several_tasks(
    tmp_path: Path, announced: str, do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.child.MAX_LINE_BYTES", 600)
    spec = child_spec(tmp_path, CODE, READY=announced)

    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("other", "wait"))
        pool.submit(a_run("nameless", do))
        await until(lambda: len(recorder.results) == 2)
        assert {(one.status, one.is_shared) for one in recorder.results.values()} == {(RunStatus.CHILD_DIED, True)}
        assert "without the id of one of them" in recorder.results["other"].error
        recorder.results.clear()
        await until(lambda: pool.is_ready)
        pool.submit(a_run("nameless", do, is_suspect=True))
        await until(lambda: recorder.results)

    assert use(LongRunningPool, spec, act).statuses() == {"nameless": RunStatus.FAILED}


def use_batches(spec: ChildSpec, *tasks: str) -> Recorder:
    """Submit tasks, numbered t0 and so on, to a child that takes batches; return when all have ended."""

    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        for n, do in enumerate(tasks):
            pool.submit(a_run(f"t{n}", do))
        await until(lambda: len(recorder.results) == len(tasks))

    return use(LongRunningPool, spec, act)


def received(spec: ChildSpec) -> list[str]:
    return (spec.code_dir / "batches").read_text().splitlines()


def test_a_batch_is_sent_when_it_is_full_and_the_next_when_it_has_ended(batches: Callable[..., ChildSpec]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        assert pool.capacity == 3
        for n in range(6):
            pool.submit(a_run(f"t{n}", "wait"))
        assert (pool.capacity, recorder.batches) == (3, [3])
        (spec.code_dir / "until").touch()
        await until(lambda: len(recorder.results) == 6)

    spec = batches(max_wait_ms=60_000)

    recorder = use(LongRunningPool, spec, act)

    assert (received(spec), recorder.batches) == (["t0 t1 t2", "t3 t4 t5"], [3, 3])
    assert recorder.results["t4"] == RunResult(RunStatus.SUCCEEDED, output=b'"t4"')


def test_a_batch_is_sent_when_its_first_member_has_waited(batches: Callable[..., ChildSpec]) -> None:
    recorder = use_batches(spec := batches(max_wait_ms=1), "ok", "ok")

    assert set(recorder.statuses().values()) == {RunStatus.SUCCEEDED}
    assert " ".join(received(spec)) == "t0 t1"


def test_no_batch_waits_for_more_tasks_than_a_worker_may_lease(batches: Callable[..., ChildSpec]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        await until(lambda: pool.capacity == 5)
        for n in range(5):
            pool.submit(a_run(f"t{n}", "ok"))
        assert recorder.batches == [3, 2]
        await until(lambda: len(recorder.results) == 5)

    use(LongRunningPool, batches(max_wait_ms=60_000), act, concurrency=5, processes=2)


def test_tasks_that_arrive_together_share_a_batch_that_waits_for_no_others(batches: Callable[..., ChildSpec]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(*(a_run(f"t{n}", "ok") for n in range(5)))
        await until(lambda: len(recorder.results) == 5)

    assert use(LongRunningPool, batches(max_wait_ms=0), act).batches == [3, 2]


@pytest.mark.parametrize(
    ("do", "statuses"),
    [
        ("swapped", ["succeeded"] * 3),
        ("singly", ["succeeded"] * 3),
        ("missing", ["succeeded", "succeeded", "failed"]),
        ("nan", ["failed", "succeeded", "succeeded"]),
        ("foreign", ["succeeded"] * 3),
        ("twice", ["succeeded"] * 3),
    ],
)
def test_the_members_of_a_batch_end_by_one_line_or_singly(
    batches: Callable[..., ChildSpec], do: str, statuses: list[str]
) -> None:
    recorder = use_batches(spec := batches(60_000), do, do, do)

    results = [recorder.results[f"t{n}"] for n in range(3)]
    assert [result.status for result in results] == statuses
    assert received(spec) == ["t0 t1 t2"]
    assert all(result.output == b'"t%d"' % n for n, result in enumerate(results) if result.output)
    if do == "missing":
        assert results[2].error.startswith("batch_item_missing: ")
    if do == "nan":
        assert results[0].error == "result_invalid: result: NaN is not JSON; return null or a text instead"


@pytest.mark.parametrize("do", ["fail", "truncated", "long"])
def test_the_members_of_a_batch_that_failed_run_once_more_alone(
    batches: Callable[..., ChildSpec], do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.child.MAX_LINE_BYTES", 600)  # two results of "long" have more
    recorder = use_batches(spec := batches(60_000), do, do, "ok")

    assert set(recorder.statuses().values()) == {RunStatus.SUCCEEDED}
    assert received(spec) == ["t0 t1 t2", "t0", "t1", "t2"]
    assert recorder.sent_again == ["t0", "t1", "t2"]
    assert recorder.batches == [3]
    assert b"[its batch of 3 failed as a whole, so it runs again, alone: " in recorder.printed["t1"]


def test_a_late_response_for_a_member_that_runs_again_ends_no_other_task(batches: Callable[..., ChildSpec]) -> None:
    recorder = use_batches(batches(60_000), "late", "ok", "ok")

    assert set(recorder.statuses().values()) == {RunStatus.SUCCEEDED}


def test_a_batch_that_fails_in_an_outdated_child_runs_elsewhere(batches: Callable[..., ChildSpec]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        for n, do in enumerate(["wait", "fail", "ok"]):
            pool.submit(a_run(f"t{n}", do))
        await until((spec.code_dir / "batches").exists)
        pool.start(changed(spec))
        (spec.code_dir / "until").touch()
        await until(lambda: len(recorder.results) == 3)
        await until(lambda: pool.is_ready)

    recorder = use(LongRunningPool, spec := batches(60_000), act)

    assert set(recorder.statuses().values()) == {RunStatus.REQUEUED}


def test_the_window_of_an_earlier_child_delays_no_task(batches: Callable[..., ChildSpec]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("before", "ok"))
        pool.start(changed(spec, READY=BATCHES % 1))
        assert recorder.statuses() == {"before": RunStatus.REQUEUED}
        await until(lambda: pool.is_ready)
        pool.submit(a_run("after", "ok"))
        await until(lambda: "after" in recorder.results)

    use(LongRunningPool, spec := batches(60_000), act)


def test_a_member_that_fails_alone_too_has_failed(batches: Callable[..., ChildSpec]) -> None:
    recorder = use_batches(spec := batches(60_000), "fail always", "ok", "ok")

    assert recorder.results["t0"] == RunResult(RunStatus.RETRYABLE, "out of memory")
    assert [recorder.results[one].status for one in ("t1", "t2")] == [RunStatus.SUCCEEDED] * 2
    assert received(spec) == ["t0 t1 t2", "t0", "t1", "t2"]


def test_a_death_is_shared_by_the_members_of_a_batch(batches: Callable[..., ChildSpec]) -> None:
    recorder = use_batches(batches(60_000), "die", "ok", "ok")

    assert {(one.status, one.is_shared) for one in recorder.results.values()} == {(RunStatus.CHILD_DIED, True)}


def test_a_suspect_task_is_a_batch_of_its_own(batches: Callable[..., ChildSpec]) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("t0", "ok"), a_run("suspect", "ok", is_suspect=True), a_run("t1", "ok"))
        await until(lambda: len(recorder.results) == 3)

    recorder = use(LongRunningPool, spec := batches(60_000), act)

    assert received(spec) == ["t0", "suspect"]
    assert recorder.results["t1"].status is RunStatus.REQUEUED


def test_a_child_whose_ready_line_is_invalid_did_not_start(tmp_path: Path) -> None:
    wrong = '{"status":"ready","accepts":["concurrent"],"concurrency":257}'

    async def run() -> str:
        pool = LongRunningPool(Recorder(), replace(SETTINGS, restarts=RECOVERY))
        pool.start(child_spec(tmp_path, CODE, READY=wrong))
        await until(lambda: pool.problem)
        problem = pool.problem
        await pool.stop()
        return problem

    problem = event_loop.run(run())

    assert problem.startswith("the child process could not start: the ready line is invalid: ")
    assert "concurrency" in problem


def test_the_error_of_a_task_whose_child_died_has_no_output_of_earlier_tasks(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("earlier", "print"))
        await until(lambda: "earlier" in recorder.results)
        pool.submit(a_run("deadly", "die"))
        release(spec, "deadly")
        await until(lambda: "deadly" in recorder.results)

    results = use(LongRunningPool, spec, act).results

    assert results["earlier"].status is RunStatus.SUCCEEDED
    assert results["deadly"].error == "the child process exited with status 4"
