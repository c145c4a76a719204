"""The pool of a one_shot queue: a child per task, after a probe without a task has shown that children start."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import DeploymentFailed, ResourcesExhausted
from workers.runtime.child import Child, ChildSpec
from workers.runtime.logs import child_error_members
from workers.runtime.pool import (
    OVERFLOW,
    STOP_TIMEOUT_S,
    PoolOwner,
    RestartPolicy,
    invalid_response_result,
    timeout_result,
    to_run_result,
)
from workers.runtime.protocol import BatchResponse, ChildResponse, ChunkLine, InvalidResponse, LogLine, ProgressReport
from workers.runtime.settings import WorkerSettings
from workers.runtime.task_runs import Run, RunResult, RunStatus

log = structlog.get_logger()


class OneShotPool:
    """Children, each with its task, and the probe. See Pool."""

    def __init__(
        self, owner: PoolOwner, settings: WorkerSettings, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        """`on_failure` is called for each child that could not start or ended unexpectedly."""
        self.problem = ""
        self.next_problem = ""
        self.shortage = ""
        self.startup_s = 0.0
        self._owner = owner
        self._settings = settings
        self._on_failure = on_failure
        self._restart_policy = RestartPolicy(settings.restarts, on_failure)
        self._failures = FailureLog("child_started")
        self._spec: ChildSpec | None = None
        # Takes the place of `_spec` once its probe is ready.
        self._next: ChildSpec | None = None
        self._started_with: dict[Child, ChildSpec] = {}
        # None for the probe, and for a child that has responded.
        self._runs: dict[Child, Run | None] = {}
        self._probe: Child | None = None
        self._is_probed = False
        self._is_stopping = False
        self._restart: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()

    @property
    def is_replacing(self) -> bool:
        return self._next is not None

    @property
    def loading_since_s(self) -> float | None:
        return self._probe.loading_since_s if self._probe else None

    @property
    def is_ready(self) -> bool:
        return self._is_probed and not self._is_stopping

    @property
    def slots(self) -> int:
        return self._settings.concurrency or 1

    @property
    def capacity(self) -> int:
        # A child that has responded keeps its slot until it has ended.
        lingering = sum(run is None and child is not self._probe for child, run in self._runs.items())
        return max(self.slots - lingering, 0) if self.is_ready else 0

    @property
    def is_up_to_date(self) -> bool:
        return self._next is None and all(spec is self._spec for spec in self._started_with.values())

    @property
    def is_settled(self) -> bool:
        return self.is_ready and self._next is None

    @property
    def memory_bytes(self) -> int:
        return max((child.memory_bytes for child, run in self._runs.items() if run), default=0)

    def release_previous(self) -> None:
        """Do nothing: each task has a child of its own."""

    def start(self, spec: ChildSpec, *, beside: bool = False, keeps_previous: bool = False) -> None:
        self._restart_policy.record_success()
        self._next, self.problem, self.next_problem, self.shortage = None, "", "", ""
        is_kept = self._is_probed and self._spec is not None and self._spec.starts_like(spec)
        if beside and self._is_probed and not is_kept:
            self._next = spec
        else:
            self._spec, self._is_probed = spec, is_kept
        if self._probe is None:
            self._start_probe()
        elif not self._probe.is_ending and self._started_with[self._probe].starts_like(spec):
            self._started_with[self._probe] = spec
        else:
            self._probe.kill()  # `_check_probe` starts one of the new code
        self._notify_owner()

    def retire_newer(self, release: int, *, beside: bool) -> None:
        if self._next and self._next.release > release:
            self._next = None
        if self._spec and self._spec.release > release:
            self._spec, self._is_probed = None, False
            self.requeue_unstarted()
        self._notify_owner()

    def submit(self, *runs: Run) -> None:
        for run in runs:
            self._submit(run)

    def _submit(self, run: Run) -> None:
        if self._spec is None or self.shortage:  # it was retired, or a start failed, while the task was dequeued
            self._owner.run_ended(run, RunResult(RunStatus.REQUEUED))
            return
        try:
            own = {"RUNQY_TASK_ID": run.task_id} | ({"TRACEPARENT": run.traceparent} if run.traceparent else {})
            self._start_child(self._spec, run, **own)
        except (DeploymentFailed, ResourcesExhausted) as error:
            self._require_probe(error.detail, is_shortage=isinstance(error, ResourcesExhausted))
            self._owner.run_ended(run, RunResult(RunStatus.REQUEUED))

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        child = next((child for child, its_run in self._runs.items() if its_run is run), None)
        if child is None or run.forced_result:
            return
        run.forced_result = forced_result
        if run.started_ns:
            child.cancel_task(run.task_id)
        else:
            child.kill()

    def check_runs(self, now_s: float) -> None:
        for run in list(self._runs.values()):
            if run and run.started_ns and now_s >= run.ends_at_s and run.forced_result is None:
                self.end_run(run, timeout_result(run))

    def requeue_unstarted(self) -> None:
        for run in list(self._runs.values()):
            if run and not run.started_ns:
                self.end_run(run, RunResult(RunStatus.REQUEUED))

    async def stop(self) -> None:
        self._is_stopping = True
        if self._restart:
            self._restart.cancel()
        for child in list(self._runs):
            child.terminate()
        self._notify_owner()
        async with asyncio.timeout(STOP_TIMEOUT_S + 10):
            await self._emptied.wait()

    def child_ready(self, child: Child) -> None:
        """Send the child its task. If it is the probe, accept tasks."""
        run = self._runs[child]
        if run is not None and not self._owner.has_lease(run):
            self.end_run(run, RunResult(RunStatus.LOST))
        elif run is not None:
            run.commit, run.release = self._started_with[child].commit, self._started_with[child].release
            self._owner.run_started(run)
            child.send(run.child_line)
        elif self._started_with[child] is self._newest:
            self._spec, self._next = self._newest, None
            self._is_probed = True
            self.startup_s = child.startup_s
            self.problem = self.next_problem = self.shortage = ""
            self._failures.record_success()
            self._restart_policy.record_start()
        child.close_input() if run else child.retire()
        self._notify_owner()

    def child_responded(self, child: Child, response: ChildResponse | InvalidResponse) -> bool:
        run = self._runs[child]
        if run is None:
            return False
        is_mismatch = run.task_id != response.task_id
        if is_mismatch:
            log.warning("response_for_unknown_task", task_id=response.task_id, expected=run.task_id)
            if isinstance(response, InvalidResponse):
                return False
        self._restart_policy.record_success()
        result = to_run_result(response)
        if is_mismatch and isinstance(response, ChildResponse):
            result = invalid_response_result(response)
        self._finish(child, run, run.forced_result or result)
        return not is_mismatch

    def child_batch_responded(self, child: Child, response: BatchResponse) -> None:
        log.warning("response_for_unknown_batch", task_ids=sorted(response.task_ids)[:3])  # it is sent no batches

    def child_progressed(self, child: Child, report: ProgressReport) -> None:
        if (run := self._runs[child]) and report.task_id in (None, run.task_id):
            self._owner.run_progressed(run, report.progress)

    def child_chunk(self, child: Child, line: ChunkLine) -> None:
        if (run := self._runs[child]) and line.task_id in (None, run.task_id):
            self._owner.run_chunk(run, line)

    def child_logged(self, child: Child, line: LogLine) -> None:
        if (run := self._runs[child]) and line.task_id == run.task_id:
            self._owner.run_logged(run, line.text)

    def child_printed(self, child: Child, data: bytes, *, is_line: bool) -> None:
        if run := self._runs[child]:
            self._owner.run_printed((run,), data, is_line=is_line)

    def child_overflowed(self, child: Child, task_id: str | None) -> None:
        if run := self._runs[child]:
            self._finish(child, run, run.forced_result or OVERFLOW)

    def child_ended(self, child: Child) -> None:
        """End the child's run. Start a probe if the child was not ready."""
        run = self._runs.pop(child)
        del self._started_with[child]
        if child is self._probe:
            self._probe = None
            self._check_probe(child)
        elif run is not None and not child.is_ready and run.forced_result is None:
            self._require_probe(child.cause, is_shortage=child.has_lacked_resources)
        elif run is not None and run.forced_result is None and not self._is_stopping:
            self._on_failure()
        if run is not None:
            # A child that was not ready has not seen the task, which cannot be the cause.
            is_charged = child.is_ready and not self._is_stopping
            died = RunResult(RunStatus.CHILD_DIED, child.cause, child.error_class)
            own = died if is_charged else RunResult(RunStatus.REQUEUED)
            self._owner.run_ended(run, run.forced_result or own)
        self._notify_owner()

    def _check_probe(self, child: Child) -> None:
        if self._is_stopping or self._newest is None or (self._is_probed and self._next is None):
            return
        if child.has_failed:
            self._require_probe(child.cause, of_next=self._next is not None, is_shortage=child.has_lacked_resources)
        else:
            self._start_probe()

    def _finish(self, child: Child, run: Run, result: RunResult) -> None:
        self._runs[child] = None
        child.retire()  # a child runs one task
        self._owner.run_ended(run, result)

    def _require_probe(self, problem: str, *, of_next: bool = False, is_shortage: bool = False) -> None:
        """Start another probe. Accept no tasks until it is ready, unless older code runs on.

        For a shortage of the machine's resources the code is not at fault.
        """
        self._is_probed = self._is_probed and of_next
        self.shortage = problem if is_shortage else ""
        if of_next and not is_shortage:
            self.next_problem = problem
        elif not is_shortage:
            self.problem = problem
        members = child_error_members(problem)
        self._failures.record("child_not_started", key=members["error"], **members)
        policy = self._restart_policy
        delay = policy.next_shortage_delay_s() if is_shortage else policy.next_delay_s()
        if delay is not None and not self._is_stopping:
            if self._restart:
                self._restart.cancel()
            self._restart = asyncio.get_running_loop().call_later(delay, self._start_probe)
        self._notify_owner()

    def _start_probe(self) -> None:
        spec = self._newest
        if spec is None or self._is_stopping or self._probe is not None or (self._is_probed and self._next is None):
            return
        try:
            self._probe = self._start_child(spec, None, RUNQY_TASK_ID="")
        except (DeploymentFailed, ResourcesExhausted) as error:
            is_shortage = isinstance(error, ResourcesExhausted)
            self._require_probe(error.detail, of_next=self._next is not None, is_shortage=is_shortage)

    @property
    def _newest(self) -> ChildSpec | None:
        return self._next or self._spec

    def _start_child(self, spec: ChildSpec, run: Run | None, **env: str) -> Child:
        """Start a child with some more environment variables. Raise DeploymentFailed, ResourcesExhausted."""
        child = Child(replace(spec, env={**spec.env, **env}), self)
        self._runs[child] = run
        self._started_with[child] = spec
        return child

    def _notify_owner(self) -> None:
        if not self._runs:
            self._emptied.set()
        else:
            self._emptied.clear()
        self._owner.pool_changed()
