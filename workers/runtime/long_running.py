"""The pool of a long_running queue: warm children that are sent one task after another, and restarted when they end."""

import asyncio
import math
from collections import deque
from collections.abc import Callable

import structlog

from runqy import clock
from runqy.errors import DeploymentFailed
from runqy.formats.durations import humanize
from runqy.telemetry.failure_log import FailureLog
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
from workers.runtime.protocol import ChildResponse, ChunkLine, InvalidResponse, LogLine, ProgressReport
from workers.runtime.settings import WorkerSettings
from workers.runtime.task_runs import Run, RunResult, RunStatus

MAX_GAP = 0.05
"""The part of a mean run for which a child may wait for its next task. Where fetching one takes longer, tasks are sent
to the child ahead. Otherwise none waits behind another while a child is free, of this worker or of another one."""
IDLE_GRACE_S = 3.0
"""How long an idle child may take to exit by itself. The next one must have the new environment within five seconds."""
MAX_ENDED_IDS = 64
"""How many ended tasks are remembered, to recognize second responses for them."""

log = structlog.get_logger()


class LongRunningPool:
    """Child slots, and the tasks that wait for a slot. See Pool."""

    def __init__(
        self, owner: PoolOwner, settings: WorkerSettings, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        """`on_failure` is called for each child that could not start or ended unexpectedly."""
        self._owner = owner
        self._settings = settings
        failures = FailureLog("child_started")
        self._slots = [
            ChildSlot(
                owner,
                RestartPolicy(settings.restarts, on_failure),
                failures,
                on_change=self._use_slots,
                on_run_ended=self._end_run,
            )
            for _ in range(min(settings.processes, settings.concurrency or settings.processes))
        ]
        self._waiting: deque[Run] = deque()
        self._max_leases = settings.concurrency
        # A moving average, in which the last run counts half. Until the first one has ended, tasks count as long.
        self._mean_s = math.inf
        self._emptied = asyncio.Event()

    @property
    def problem(self) -> str:
        return "" if self.is_ready else next((slot.problem for slot in self._slots if slot.problem), "")

    @property
    def loading_since_s(self) -> float | None:
        return min((slot.loading_since_s for slot in self._slots if slot.loading_since_s is not None), default=None)

    @property
    def is_ready(self) -> bool:
        return any(slot.is_open for slot in self._slots)

    @property
    def capacity(self) -> int:
        slots = sum(slot.is_open for slot in self._slots)
        return slots if self._max_leases is None else min(self._max_leases, slots * self._depth)

    @property
    def is_up_to_date(self) -> bool:
        return all(slot.is_up_to_date for slot in self._slots)

    def start(self, spec: ChildSpec) -> None:
        for slot in self._slots:
            slot.start(spec)

    def submit(self, run: Run) -> None:
        self._waiting.append(run)
        self._assign_runs()
        self._requeue_if_closed()

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        if run in self._waiting:
            self._waiting.remove(run)
            self._owner.run_ended(run, forced_result)
        for slot in self._slots:
            if run in slot.runs:
                slot.end_run(run, forced_result)

    def enforce_timeouts(self, now_s: float) -> None:
        for slot in self._slots:
            slot.enforce_timeouts(now_s)

    def requeue_unstarted(self) -> None:
        # The last one first: each goes to the front of its queue.
        while self._waiting:
            self._owner.run_ended(self._waiting.pop(), RunResult(RunStatus.REQUEUED))

    async def stop(self) -> None:
        self.requeue_unstarted()
        for slot in self._slots:
            slot.stop()
        self._use_slots()
        async with asyncio.timeout(STOP_TIMEOUT_S + 10):
            await self._emptied.wait()

    @property
    def _depth(self) -> int:
        """How many tasks a child holds: one, and those that it works on until the next one is fetched."""
        return 1 + max(math.ceil(self._owner.refill_s / self._mean_s - MAX_GAP), 0)

    def _end_run(self, run: Run, result: RunResult, spent_s: float) -> None:
        self._mean_s = spent_s if self._mean_s == math.inf else (self._mean_s + spent_s) / 2
        self._owner.run_ended(run, result)
        self._assign_runs()

    def _use_slots(self) -> None:
        if all(slot.is_empty for slot in self._slots):
            self._emptied.set()
        else:
            self._emptied.clear()
        self._assign_runs()
        self._requeue_if_closed()
        self._owner.pool_changed()

    def _requeue_if_closed(self) -> None:
        # Until a child is ready, minutes may pass: other workers may run the tasks meanwhile.
        if not self.is_ready:
            self.requeue_unstarted()

    def _assign_runs(self) -> None:
        # A lease may have ended while the worker was suspended, even before the reply to its dequeue was read.
        for run in [run for run in self._waiting if not self._owner.has_lease(run)]:
            self.end_run(run, RunResult(RunStatus.LOST))
        depth = self._depth
        while self._waiting:
            slot = min((s for s in self._slots if s.is_open), key=lambda s: len(s.runs), default=None)
            if slot is None or len(slot.runs) >= depth:
                return
            slot.add(self._waiting.popleft())


class ChildSlot:
    """A child and the tasks sent to it, in order; it works on the first."""

    def __init__(
        self,
        owner: PoolOwner,
        restart_policy: RestartPolicy,
        failures: FailureLog,
        *,
        on_change: Callable[[], None],
        on_run_ended: Callable[[Run, RunResult, float], None],
    ) -> None:
        """`failures` are those of all children that run the same code.

        `on_change` is called when the slot opens or closes, `on_run_ended` with the seconds that a run took.
        """
        self.runs: deque[Run] = deque()
        self.problem = ""
        self._owner = owner
        self._on_change = on_change
        self._on_run_ended = on_run_ended
        self._restart_policy = restart_policy
        self._failures = failures
        self._spec: ChildSpec | None = None
        self._started_with: ChildSpec | None = None
        self._child: Child | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._started_s = 0.0
        self._ended_ids: deque[str] = deque(maxlen=MAX_ENDED_IDS)

    @property
    def is_open(self) -> bool:
        return self._child is not None and self._child.is_ready and not self._child.is_ending and self.is_up_to_date

    @property
    def loading_since_s(self) -> float | None:
        return self._child.loading_since_s if self._child else None

    @property
    def is_up_to_date(self) -> bool:
        """Return whether the child was started with the newest specification."""
        return self._started_with is self._spec

    @property
    def is_empty(self) -> bool:
        return self._child is None

    def start(self, spec: ChildSpec) -> None:
        """Start a child, or replace the existing one once its tasks are done."""
        self._spec = spec
        self._restart_policy.record_success()
        if self._child is None:
            self._start()
        elif not self.runs:
            self._end_idle_child(self._child)

    def add(self, run: Run) -> None:
        """Send a task to the child. Only open slots may be given tasks."""
        assert self._child is not None  # noqa: S101 (only open slots are given tasks)
        assert self._started_with is not None  # noqa: S101 (as it has a child)
        run.commit = self._started_with.commit
        self.runs.append(run)
        self._child.send(run.child_line)
        if len(self.runs) == 1:
            self._begin(run)

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        """End a run early: immediately if the child works on it, else when its turn comes."""
        run.forced_result = run.forced_result or forced_result
        # A run that is already being ended is not interrupted again.
        if run is self.runs[0] and run.forced_result is forced_result:
            self._interrupt(run)

    def enforce_timeouts(self, now_s: float) -> None:
        if self.runs and now_s >= self.runs[0].ends_at_s and self.runs[0].forced_result is None:
            self.end_run(self.runs[0], timeout_result(self.runs[0]))

    def stop(self) -> None:
        self._is_stopping = True
        if self._restart:
            self._restart.cancel()
        if self._child and self.runs:
            self._child.terminate()
        elif self._child:
            self._end_idle_child(self._child)

    def child_ready(self, child: Child) -> None:
        self.problem = ""
        self._failures.record_success()
        self._on_change()

    def child_responded(self, child: Child, response: ChildResponse | InvalidResponse) -> bool:
        """End the run of a response, and start the next run."""
        run = next((run for run in self.runs if run.task_id == response.task_id), None)
        if run is None:
            self._log_unexpected_response(response)
            return False
        self._restart_policy.record_success()
        self._finish(run, run.forced_result or to_run_result(response))
        return True

    def _log_unexpected_response(self, response: ChildResponse | InvalidResponse) -> None:
        """Log a response for a task that the child does not have, and end the current run with it.

        A child responds in this way to a task that it cannot parse.
        """
        # A second response for a task that has ended does not concern the current one.
        is_late = response.task_id in self._ended_ids
        log.warning("response_for_unknown_task", task_id=response.task_id, is_late=is_late)
        if len(self.runs) == 1 and not is_late and isinstance(response, ChildResponse):
            self._finish(self.runs[0], self.runs[0].forced_result or invalid_response_result(response))

    def child_progressed(self, child: Child, report: ProgressReport) -> None:
        run = next((run for run in self.runs if report.task_id in (None, run.task_id)), None)
        if run is not None:
            self._owner.run_progressed(run, report.progress)

    def child_chunk(self, child: Child, line: ChunkLine) -> None:
        run = next((run for run in self.runs if run.task_id == line.task_id), None)
        if run is not None:
            self._owner.run_chunk(run, line.value)

    def child_logged(self, child: Child, line: LogLine) -> None:
        run = next((run for run in self.runs if run.task_id == line.task_id), None)
        if run is not None:
            self._owner.run_logged(run, line.text)

    def child_printed(self, child: Child, data: bytes, *, is_line: bool) -> None:
        """Report what the child printed while it had runs. Which of several runs printed it is unknown."""
        if self.runs:
            self._owner.run_printed(self.runs, data, is_line=is_line)

    def child_overflowed(self, child: Child) -> None:
        if self.runs:
            self._finish(self.runs[0], self.runs[0].forced_result or OVERFLOW)

    def child_ended(self, child: Child) -> None:
        """End the child's remaining runs, and start another child."""
        # Reset first: the callbacks assign waiting runs to the slots that are open.
        runs, self.runs, self._child = list(self.runs), deque(), None
        first = runs[0] if runs else None
        # True also if the child exited before it was terminated.
        was_interrupted = first is not None and first.forced_result is not None
        if first is not None and was_interrupted and child.is_ready and not self._is_stopping:
            note = f"[its process had to be restarted to end the task; the last start took {humanize(child.startup_s)}]"
            self._owner.run_printed((first,), note.encode(), is_line=True)
        ended_unexpectedly = self.is_up_to_date and not self._is_stopping and child.has_failed and not was_interrupted
        for run in runs:
            result = run.forced_result or self._result_after_child_end(child, run)
            self._on_run_ended(run, result, self._spent_s())
        # The task may have killed the child, so the code is not suspected: no delay.
        if ended_unexpectedly and first is not None and self._restart_policy.is_enabled:
            self._restart_policy.record_child_death()
            self._start()
        elif ended_unexpectedly:
            event = "child_ended" if child.is_ready else "child_not_started"
            self._record_failure(event, child.cause, reason=child.reason)
        elif not self._is_stopping:
            self._start()
        self._on_change()

    def _end_idle_child(self, child: Child) -> None:
        if child.is_ready:
            child.retire(IDLE_GRACE_S)
        else:  # a child that is still loading does not notice that its input ended
            child.terminate()

    def _result_after_child_end(self, child: Child, run: Run) -> RunResult:
        if run.started_ns and not self._is_stopping:
            return RunResult(RunStatus.CHILD_DIED, child.cause)
        return RunResult(RunStatus.REQUEUED)

    def _finish(self, run: Run, result: RunResult) -> None:
        child = self._child
        assert child is not None  # noqa: S101 (responses come from a child)
        was_first = run is self.runs[0]
        self.runs.remove(run)
        self._ended_ids.append(run.task_id)
        self._on_run_ended(run, result, self._spent_s())
        # The task may have been canceled: the child responded in time, and must not be terminated.
        if was_first:
            child.mark_ready()
        if self.runs and was_first and not child.is_ending:
            self._begin(self.runs[0])
        if not self.runs and not self.is_up_to_date:
            child.retire(IDLE_GRACE_S)

    def _begin(self, run: Run) -> None:
        self._started_s = clock.monotonic_s()
        self._owner.run_started(run)
        if run.forced_result:
            self._interrupt(run)

    def _interrupt(self, run: Run) -> None:
        assert self._child is not None  # noqa: S101 (a run is with a child)
        self._child.cancel_task(run.task_id)
        self._on_change()

    def _spent_s(self) -> float:
        return clock.monotonic_s() - self._started_s

    def _start(self) -> None:
        assert self._spec is not None  # noqa: S101 (set by the first start)
        if self._restart:
            self._restart.cancel()
        self._started_with = self._spec
        try:
            self._child = Child(self._spec, self)
        except DeploymentFailed as error:
            self._record_failure("child_not_started", error.detail, reason=error.detail)
            self._on_change()

    def _record_failure(self, event: str, cause: str, *, reason: str) -> None:
        """Log and report why there is no child, and schedule another one."""
        self.problem = reason
        members = child_error_members(cause)
        self._failures.record(event, key=members["error"], **members)
        self._start_later()

    def _start_later(self) -> None:
        delay = self._restart_policy.next_delay_s()
        if delay is not None:
            self._restart = asyncio.get_running_loop().call_later(delay, self._restart_now)

    def _restart_now(self) -> None:
        if self._child is None and not self._is_stopping:
            self._start()
