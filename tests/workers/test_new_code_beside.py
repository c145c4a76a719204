"""Pools that start new code beside the code that runs, with real children."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.workers.pools import Recorder, a_run, child_spec, until, use
from workers.runtime.child import ChildSpec
from workers.runtime.long_running import LongRunningPool
from workers.runtime.one_shot import OneShotPool
from workers.runtime.pool import Pool
from workers.runtime.task_runs import RunStatus

CODE = """
import json, os, sys, time
while not os.path.exists(os.environ["READY_ONCE"]):
    time.sleep(0.01)
if os.environ["VERSION"] == "bad":
    sys.exit("no module of this name")
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    while request["payload"] == "wait" and not os.path.exists("until"):
        time.sleep(0.01)
    print(json.dumps({"task_id": request["task_id"], "result": os.environ["VERSION"]}), flush=True)
"""
KINDS = pytest.mark.parametrize("kind", [LongRunningPool, OneShotPool])


@pytest.fixture
def spec(tmp_path: Path) -> ChildSpec:
    (tmp_path / "now").touch()
    return version(child_spec(tmp_path, CODE), "1", "now")


def version(spec: ChildSpec, number: str, ready_once: str) -> ChildSpec:
    """Return a specification whose children are ready once a file exists."""
    return replace(spec, env={**spec.env, "VERSION": number, "READY_ONCE": ready_once}, commit=number)


async def run_one(pool: Pool, recorder: Recorder, task_id: str) -> bytes | None:
    """Return the version that a task runs with."""
    pool.submit(a_run(task_id, None))
    await until(lambda: task_id in recorder.results)
    return recorder.results[task_id].output


@KINDS
def test_older_code_runs_tasks_until_the_new_one_is_ready(
    spec: ChildSpec, kind: type[LongRunningPool] | type[OneShotPool]
) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.submit(a_run("long", "wait"))
        pool.start(version(spec, "2", "later"), beside=True)

        assert (pool.is_ready, pool.is_replacing) == (True, True)
        if kind is OneShotPool:  # which has a child for each task
            assert await run_one(pool, recorder, "before") == b'"1"'
        (spec.code_dir / "later").touch()
        await until(lambda: not pool.is_replacing)
        assert await run_one(pool, recorder, "after") == b'"2"'
        assert "long" not in recorder.results
        (spec.code_dir / "until").touch()
        await until(lambda: "long" in recorder.results)
        assert recorder.results["long"].output == b'"1"'
        await until(lambda: pool.is_up_to_date)

    use(kind, spec, act, concurrency=4)


@KINDS
def test_new_code_that_does_not_start_changes_nothing(
    spec: ChildSpec, kind: type[LongRunningPool] | type[OneShotPool]
) -> None:
    async def act(pool: Pool, recorder: Recorder) -> None:
        pool.start(version(spec, "bad", "now"), beside=True)
        await until(lambda: pool.next_problem)

        assert "no module of this name" in pool.next_problem
        assert (pool.is_ready, pool.problem) == (True, "")
        assert await run_one(pool, recorder, "meanwhile") == b'"1"'

        pool.start(replace(spec, release=1), beside=True)  # reverted
        assert (pool.is_ready, pool.next_problem, pool.is_replacing) == (True, "", False)
        assert await run_one(pool, recorder, "after") == b'"1"'

    use(kind, spec, act)


def test_each_of_several_processes_is_replaced_as_soon_as_its_successor_is_ready(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        await until(lambda: pool.slots == 2)
        pool.start(version(spec, "2", "later"), beside=True)
        assert pool.slots == 2
        (spec.code_dir / "later").touch()
        await until(lambda: not pool.is_replacing)
        assert pool.slots == 2
        for number in range(4):
            assert await run_one(pool, recorder, f"after-{number}") == b'"2"'

    use(LongRunningPool, spec, act, processes=2, concurrency=2)


@pytest.mark.parametrize("beside", [True, False])
def test_processes_of_a_newer_release_get_no_more_tasks_and_older_ones_stay(spec: ChildSpec, beside: bool) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        pool.submit(a_run("long", "wait"))
        pool.retire_newer(1, beside=beside)
        pool.submit(a_run("refused", None))

        assert (pool.is_ready, pool.problem, recorder.statuses()) == (False, "", {"refused": RunStatus.REQUEUED})
        pool.start(replace(version(spec, "1", "now"), release=1), beside=beside)
        if beside:
            await until(lambda: pool.is_ready)
            assert await run_one(pool, recorder, "before-its-end") == b'"1"'
            assert "long" not in recorder.results
        assert pool.is_ready is beside
        (spec.code_dir / "until").touch()
        await until(lambda: "long" in recorder.results and pool.is_ready and pool.is_up_to_date)
        assert recorder.results["long"].output == b'"2"'
        assert await run_one(pool, recorder, "after") == b'"1"'
        pool.retire_newer(1, beside=beside)
        assert (pool.is_ready, pool.slots) == (True, 1)

    use(LongRunningPool, replace(version(spec, "2", "now"), release=2), act)


def test_processes_that_are_kept_take_over_without_a_load(spec: ChildSpec) -> None:
    async def act(pool: LongRunningPool, recorder: Recorder) -> None:
        (spec.code_dir / "once").touch()
        newer = replace(version(spec, "2", "once"), release=2)
        pool.start(newer, beside=True, keeps_previous=True)
        await until(lambda: not pool.is_replacing)
        assert (pool.slots, pool.is_settled, pool.is_up_to_date) == (1, True, False)
        assert await run_one(pool, recorder, "newer") == b'"2"'
        (spec.code_dir / "now").unlink()  # no other process of the older release becomes ready

        pool.retire_newer(1, beside=True)
        assert (pool.is_ready, pool.slots) == (True, 1)
        pool.start(older)
        assert await run_one(pool, recorder, "older") == b'"1"'

        pool.start(replace(newer, release=3), beside=True, keeps_previous=True)
        await until(lambda: not pool.is_replacing)
        pool.release_previous()
        await until(lambda: pool.is_up_to_date)
        assert await run_one(pool, recorder, "proved") == b'"2"'

    older = replace(spec, release=1)
    use(LongRunningPool, older, act)
