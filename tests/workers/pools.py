"""Use a pool with real children, without Redis, and record its callbacks."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runqy import clock
from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.tasks.lease import Lease, LeasedTask
from runqy.broker.tasks.record import TaskProgress
from tests.support import event_loop
from tests.support.waiting import PATIENCE_S
from workers.runtime.child import ChildSpec
from workers.runtime.long_running import LongRunningPool
from workers.runtime.one_shot import OneShotPool
from workers.runtime.pool import Pool
from workers.runtime.protocol import ChunkLine
from workers.runtime.settings import RestartSettings, WorkerSettings
from workers.runtime.task_lines import encode_task
from workers.runtime.task_runs import Run, RunResult, RunStatus

RECOVERY = RestartSettings(initial_delay_s=0.01, max_delay_s=0.05)
SETTINGS = WorkerSettings(
    server_url="http://localhost", api_key="k", queues=("mail",), deployment_dir=Path("unused"), restarts=RECOVERY
)


class Recorder:
    """Records the callbacks of a pool."""

    def __init__(self) -> None:
        self.results: dict[str, RunResult] = {}
        self.printed: dict[str, bytes] = {}
        self.progress: list[tuple[str, TaskProgress]] = []
        self.changed = asyncio.Condition()
        self.has_leases = True
        self.batches: list[int] = []
        self.sent_again: list[str] = []
        self.refill_s = 0.0

    def has_lease(self, run: Run) -> bool:
        return self.has_leases

    def run_started(self, run: Run) -> None:
        run.start(now_ns=clock.now_ns())

    def run_ended(self, run: Run, result: RunResult) -> None:
        assert run.task_id not in self.results
        self.results[run.task_id] = result

    def batch_sent(self, members: int) -> None:
        self.batches.append(members)

    def shared_death(self, runs: Sequence[Run], cause: str) -> None:
        pass

    def run_sent_again(self, run: Run) -> None:
        self.sent_again.append(run.task_id)

    def run_chunk(self, run: Run, line: ChunkLine) -> None:
        pass

    def run_logged(self, run: Run, text: str) -> None:
        self.printed[run.task_id] = self.printed.get(run.task_id, b"") + text.encode()

    def run_printed(self, runs: Sequence[Run], data: bytes, *, is_line: bool) -> None:
        for run in runs:
            self.printed[run.task_id] = self.printed.get(run.task_id, b"") + data

    def run_progressed(self, run: Run, progress: TaskProgress) -> None:
        self.progress.append((run.task_id, progress))

    def pool_changed(self) -> None:
        pass

    def statuses(self) -> dict[str, RunStatus]:
        return {task_id: result.status for task_id, result in self.results.items()}


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not look():
            await asyncio.sleep(0.01)


def a_run(task_id: str, do: str | None, *, is_suspect: bool = False) -> Run:
    payload = b"null" if do is None else f'"{do}"'.encode()
    message = TaskMessage(id=task_id, type="mail", queue="mail", payload=payload, timeout=600)
    return Run(
        task=LeasedTask(lease=Lease("mail", task_id, "o"), message=message, lease_end_s=0, is_suspect=is_suspect),
        line=encode_task(message, attempt=1),
    )


async def end_a_quick_run(pool: LongRunningPool, recorder: Recorder, *, turn_s: float = 1e6) -> None:
    """Let a pool know that tasks are much shorter than the time in which the next one is fetched, or passed on."""
    recorder.refill_s = 1e6
    pool.submit(a_run("quick", None))
    await until(lambda: "quick" in recorder.results)
    await asyncio.sleep(0)  # until the pool has measured a turn
    pool.pace.turn_s = turn_s


def use(
    kind: type[LongRunningPool] | type[OneShotPool],
    spec: ChildSpec,
    act: Callable[[Any, Recorder], Coroutine[Any, Any, None]],
    on_failure: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Recorder:
    """Use a pool whose children are ready, then stop it; return its callbacks."""

    async def run() -> Recorder:
        recorder = Recorder()
        pool: Pool = kind(recorder, replace(SETTINGS, **settings), on_failure)
        pool.start(spec)
        await until(lambda: pool.is_ready)
        await act(pool, recorder)
        await pool.stop()
        return recorder

    return event_loop.run(run())


def child_spec(folder: Path, code: str, **env: str) -> ChildSpec:
    """Return how to start a child that runs this code."""
    (folder / "main.py").write_text(code)
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return ChildSpec(startup_cmd="python main.py", code_dir=folder, env=env, startup_timeout_s=120)
