"""One child of a long_running queue and the tasks that it was sent: one after another, many at once, or in batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from runqy import clock
from runqy.broker.tasks.archive_reasons import ErrorClass
from runqy.core.formats.durations import humanize
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import DeploymentFailed, ResourcesExhausted
from workers.runtime.child import Child, ChildSpec
from workers.runtime.logs import child_error_members
from workers.runtime.pool import (
    OVERFLOW,
    PoolOwner,
    RestartPolicy,
    invalid_response_result,
    timeout_result,
    to_run_result,
)
from workers.runtime.protocol import (
    MAX_LINE_BYTES,
    BatchLimits,
    BatchResponse,
    ChildResponse,
    ChunkLine,
    InvalidResponse,
    LogLine,
    ProgressReport,
)
from workers.runtime.run_pace import RunPace
from workers.runtime.task_lines import encode_batch
from workers.runtime.task_runs import Run, RunResult, RunStatus

IDLE_GRACE_S = 3.0
"""How long an idle child may take to exit by itself. The next one must have the new environment within five seconds."""
MAX_ENDED_IDS = 1024
"""How many ended tasks are remembered, to recognize second responses for them."""
TOO_LONG = f"a line of more than {MAX_LINE_BYTES >> 20} MiB"
MISSING = RunResult(
    RunStatus.FAILED,
    "batch_item_missing: the response to its batch has no result for this task",
    ErrorClass.RESPONSE_INVALID,
)

log = structlog.get_logger()


class ChildSlot:
    """A child and what it was sent, in order: batches, each of one task unless the child takes more in a line.

    The child works on the first of them, up to the number that it announced. Others were sent ahead.
    """

    def __init__(  # noqa: PLR0913 (its callbacks)
        self,
        owner: PoolOwner,
        restart_policy: RestartPolicy,
        failures: FailureLog,
        *,
        on_change: Callable[[], None],
        on_run_ended: Callable[[Run, RunResult, float | None], None],
        on_batch_failed: Callable[[Sequence[Run]], None],
    ) -> None:
        """`failures` are those of all children that run the same code.

        `on_change` is called when the slot opens or closes, `on_run_ended` with the seconds that the response took,
        `on_batch_failed` with the runs of a batch that are to be sent again, each alone.
        """
        # Why the newest code does not start here, and what the machine is out of if it could not be tried.
        self.problem = self.shortage = ""
        # How many tasks its child takes in a line; None without batches.
        self.batch_limits: BatchLimits | None = None
        self._batches: list[list[Run]] = []
        # Their runs: a child that streams sends thousands of lines a second.
        self._runs_by_id: dict[str, Run] = {}
        # How many of them the child works on.
        self._begun = 0
        # How many it works on at once.
        self._limit = 1
        self._owner = owner
        self._on_change = on_change
        self._on_run_ended = on_run_ended
        self._on_batch_failed = on_batch_failed
        self._restart_policy = restart_policy
        self._failures = failures
        self._spec: ChildSpec | None = None
        self._started_with: ChildSpec | None = None
        self._child: Child | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._is_stopping = False
        # Set once another slot has taken its place, and if it may take it back.
        self.is_retiring = self.is_standing_by = False
        self._ended_ids: deque[str] = deque(maxlen=MAX_ENDED_IDS)

    @property
    def is_open(self) -> bool:
        child = self._child
        is_ready = child is not None and child.is_ready and not child.is_ending
        return is_ready and self._started_with is self._spec and not self.is_standing_by

    @property
    def loading_since_s(self) -> float | None:
        return self._child.loading_since_s if self._child else None

    @property
    def is_up_to_date(self) -> bool:
        """Return whether the child was started with the newest specification."""
        return self._started_with is self._spec

    @property
    def release(self) -> int:
        """Return the release that it is to run; 0 without one."""
        return self._spec.release if self._spec else 0

    @property
    def startup_s(self) -> float:
        return self._child.startup_s if self._child else 0.0

    @property
    def memory_bytes(self) -> int:
        return self._child.memory_bytes if self._child else 0

    @property
    def is_empty(self) -> bool:
        return self._child is None

    @property
    def runs(self) -> list[Run]:
        return [run for batch in self._batches for run in batch]

    @property
    def load(self) -> int:
        return len(self._batches)

    @property
    def has_suspect(self) -> bool:
        return len(self._batches) == 1 and self._batches[0][0].task.is_suspect

    def count_capacity(self, pace: RunPace, refill_s: float) -> int:
        """Return how many tasks the child can start now, those that it works on, and those to hold ahead.

        `refill_s` is how long it takes to fetch a task.
        """
        if not self.is_open or self.has_suspect:
            return len(self.runs)
        limits = self.batch_limits
        started = sum(map(len, self._batches[: self._begun])) if limits else self._begun
        unused = max(self._limit - len(self._batches), 0) + self._count_ahead(pace, refill_s)
        return started + unused * (limits.max_size if limits else 1)

    def count_room(self, pace: RunPace, refill_s: float) -> int:
        """Return how many tasks, or batches, the child can be sent now if it accepts them."""
        child = self._child
        if child is None or not self.is_open:
            return 0
        room, ready = self._limit - len(self._batches), child.ready
        # A child of the first version reads the next task only after its response, so it may wait in the pipe. It
        # cannot be recalled from there: this is for tasks so short that the child often waits for this process.
        if not (ready.is_concurrent or ready.batch) and self._count_ahead(pace, pace.turn_s):
            room += self._count_ahead(pace, refill_s)
        return max(room, 0)

    def accepts(self, run: Run) -> bool:
        """Return whether a run may be sent beside those that the child has. One that may kill its child runs alone."""
        is_beside_suspect = self.has_suspect or (self._batches and run.task.is_suspect)
        return not (is_beside_suspect or run.task_id in self._runs_by_id)

    def _count_ahead(self, pace: RunPace, wait_s: float) -> int:
        return pace.count_ahead(wait_s, slots=self._limit, batches=self._batches[: self._begun])

    def has_task(self, task_id: str) -> bool:
        """Return whether the child has a task of this id. Ids are unique only within a sub-queue."""
        return task_id in self._runs_by_id

    def keeps(self, spec: ChildSpec) -> bool:
        """Return whether the child can stay: there is no reason to load a model again."""
        is_running = self._child is not None and not self._child.is_ending and self.is_up_to_date
        return is_running and self._spec is not None and self._spec.starts_like(spec)

    def start(self, spec: ChildSpec) -> None:
        """Start a child, or replace the existing one once its tasks are done."""
        if self.keeps(spec):
            self._spec = self._started_with = spec
            self._apply_limit()
            return
        self._spec, self.problem, self.shortage = spec, "", ""
        self._restart_policy.record_success()
        if self._child is None:
            self._start()
        elif not self._batches:
            self._end_idle_child(self._child)

    def send(self, members: list[Run]) -> None:
        """Send the child a task, or several as a batch. See `count_room` and `accepts`."""
        child, started_with = self._child, self._started_with
        assert child is not None and started_with is not None  # noqa: PT018, S101 (only open slots are given tasks)
        for run in members:
            run.commit, run.release = started_with.commit, started_with.release
            self._runs_by_id[run.task_id] = run
        self._batches.append(members)
        if child.ready.batch:
            child.send(encode_batch([run.child_line for run in members]))
            if not members[0].must_run_alone:  # which says nothing about how batches fill
                self._owner.batch_sent(len(members))
        else:
            child.send(members[0].child_line)
        self._begin_next()
        # Set only now: a run that has it when it starts has started before, in a batch.
        members[0].runs_alone = child.ready.batch is not None and len(members) == 1

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        """End a run early: immediately if the child works on it, else when its turn comes."""
        # A run that is already being ended is not interrupted again.
        if run.forced_result is None:
            run.forced_result = forced_result
            if run.started_ns:
                self._interrupt(run)

    def enforce_timeouts(self, now_s: float) -> None:
        for run in self.runs:
            if run.started_ns and now_s >= run.ends_at_s and run.forced_result is None:
                self.end_run(run, timeout_result(run))

    def retire(self) -> None:
        """Leave the pool once the child has done the tasks that it has, and has ended."""
        self.is_retiring = True
        self.close()

    def close(self) -> None:
        """Take no more tasks, and end the child once it has done those that it has, until the next start."""
        self._spec, self.shortage = None, ""
        if self._restart:
            self._restart.cancel()
        if self._child and not self._batches:
            self._end_idle_child(self._child)

    def stop(self) -> None:
        self._is_stopping = True
        if self._restart:
            self._restart.cancel()
        if self._child and self._batches:
            self._child.terminate()
        elif self._child:
            self._end_idle_child(self._child)

    def child_ready(self, child: Child) -> None:
        self._apply_limit()
        self.problem = self.shortage = ""
        self._failures.record_success()
        self._restart_policy.record_start()
        self._on_change()

    def child_responded(self, child: Child, response: ChildResponse | InvalidResponse) -> bool:
        """End the run of a response, and start the next run."""
        run = self._find(response.task_id)
        if run is not None:
            self._restart_policy.record_success()
            self._finish(run, to_run_result(response))
            return True
        is_late = self._log_unknown(response.task_id)
        runs = self.runs
        # A child responds in this way to a task that it cannot parse. A second response for a task that has ended
        # does not concern another one.
        if len(runs) == 1 and not is_late and isinstance(response, ChildResponse):
            self._finish(runs[0], invalid_response_result(response))
        return False

    def child_batch_responded(self, child: Child, response: BatchResponse) -> None:
        """End the runs of a batch. If it failed as a whole, its tasks are sent again, each alone, but only once."""
        batch = next((batch for batch in self._batches if any(run.task_id in response.task_ids for run in batch)), None)
        if batch is None and not response.task_ids and len(self._batches) == 1:
            batch = self._batches[0]
        if batch is None:
            log.warning("response_for_unknown_batch", task_ids=sorted(response.task_ids)[:3])
            if not response.task_ids:
                self._fail_for_nameless(child, "the failure of a batch")
            return
        self._restart_policy.record_success()
        for part in response.members:
            if run := self._find(part.task_id):
                self._finish(run, to_run_result(part))
            else:
                self._log_unknown(part.task_id)
        if response.failure is None:
            for run in list(batch):
                self._finish(run, MISSING)
            return
        alone = [run for run in batch if self.batch_limits and not (run.runs_alone or run.forced_result)]
        for run in [run for run in batch if run not in alone]:
            self._finish(run, to_run_result(response.failure))
        if alone:
            self._remove(self._batches.index(batch))
            self._send_again(alone, response.failure.error_text)

    def _send_again(self, runs: Sequence[Run], error: str) -> None:
        note = f"[its batch of {len(runs)} failed as a whole, so it runs again, alone: {error}]"
        self._owner.run_printed(runs, note.encode(errors="replace"), is_line=True)
        for run in runs:
            run.runs_alone, run.started_ns = True, 0
            self._ended_ids.append(run.task_id)  # until it is sent again, a response for it is late
            self._owner.run_sent_again(run)
        self._retire_if_outdated()
        self._on_batch_failed(runs)

    def _log_unknown(self, task_id: str | None) -> bool:
        """Log a response for a task that the child does not have. Return whether it had it before."""
        is_late = task_id in self._ended_ids
        log.warning("response_for_unknown_task", task_id=task_id, is_late=is_late)
        return is_late

    def child_progressed(self, child: Child, report: ProgressReport) -> None:
        run = self._find(report.task_id)
        if run is not None:
            self._owner.run_progressed(run, report.progress)

    def child_chunk(self, child: Child, line: ChunkLine) -> None:
        run = self._find(line.task_id)
        if run is not None:
            self._owner.run_chunk(run, line)
        elif line.task_id is None:
            self._fail_for_nameless(child, TOO_LONG)

    def child_logged(self, child: Child, line: LogLine) -> None:
        run = self._find(line.task_id)
        if run is not None:
            self._owner.run_logged(run, line.text)

    def child_printed(self, child: Child, data: bytes, *, is_line: bool) -> None:
        """Report what the child printed while it had runs. Which of several runs printed it is unknown."""
        if runs := self.runs:
            self._owner.run_printed(runs, data, is_line=is_line)

    def child_overflowed(self, child: Child, task_id: str | None) -> None:
        run = self._find(task_id)
        if run is not None:
            self._finish(run, OVERFLOW)
        elif task_id is None:
            self._fail_for_nameless(child, TOO_LONG)

    def _fail_for_nameless(self, child: Child, line: str) -> None:
        # Without this its task would only time out. Once its tasks are suspect and run alone, it is known which it was.
        if self.runs:
            child.fail(f"the child process had {len(self.runs)} tasks and wrote {line} without the id of one of them")

    def child_ended(self, child: Child) -> None:
        """End the child's remaining runs, and start another child."""
        # Reset first: the callbacks assign waiting runs to the slots that are open.
        runs, self._batches, self._runs_by_id, self._begun, self._child = self.runs, [], {}, 0, None
        started = [run for run in runs if run.started_ns]
        # True also if the child exited before it was terminated.
        interrupted = [run for run in started if run.forced_result]
        if interrupted and child.is_ready and not self._is_stopping:
            note = f"[its process had to be restarted to end the task; the last start took {humanize(child.startup_s)}]"
            self._owner.run_printed(interrupted, note.encode(), is_line=True)
        is_death = not self._is_stopping and not interrupted
        died = RunResult(RunStatus.CHILD_DIED, child.cause, child.error_class, is_shared=len(started) > 1)
        if is_death and died.is_shared:
            self._owner.shared_death(started, child.cause)
        # The last one first: each that is requeued goes to the front of its queue.
        for run in reversed(runs):
            own = died if is_death and run.started_ns else RunResult(RunStatus.REQUEUED)
            self._on_run_ended(run, run.forced_result or own, None)
        ended_unexpectedly = is_death and self.is_up_to_date and child.has_failed
        # The task may have killed the child, so the code is not suspected: no delay.
        if child.has_lacked_resources and self.is_up_to_date and self._spec and not self._is_stopping:
            self._record_shortage(child.problem)
        elif ended_unexpectedly and runs and self._restart_policy.is_enabled:
            self._restart_policy.record_child_death()
            self._start()
        elif ended_unexpectedly:
            event = "child_ended" if child.is_ready else "child_not_started"
            self._record_failure(event, child.cause, reason=child.reason)
        elif self._spec and not self._is_stopping:
            self._start()
        self._on_change()

    def _find(self, task_id: str | None) -> Run | None:
        """Return the run of a task. Without an id it is the only one that the child works on."""
        if task_id is not None:
            return self._runs_by_id.get(task_id)
        started = [run for batch in self._batches[: self._begun] for run in batch]
        return started[0] if len(started) == 1 else None

    def _end_idle_child(self, child: Child) -> None:
        if child.is_ready:
            child.retire(IDLE_GRACE_S)
        else:  # a child that is still loading does not notice that its input ended
            child.terminate()

    def _finish(self, run: Run, result: RunResult) -> None:
        child = self._child
        assert child is not None  # noqa: S101 (responses come from a child)
        task_id = run.task_id
        del self._runs_by_id[task_id]
        for position, batch in enumerate(self._batches):
            if run in batch:
                batch.remove(run)
                if not batch:
                    self._remove(position)
                break
        self._ended_ids.append(task_id)
        if run.forced_result:
            # The child responded in time, and must not be terminated.
            child.end_cancel(task_id)
        spent_s = clock.monotonic_s() - run.started_s if run.started_ns else None
        if not child.is_ending:
            self._begin_next()
        self._on_run_ended(run, run.forced_result or result, spent_s)
        self._retire_if_outdated()

    def _retire_if_outdated(self) -> None:
        if self._child and not self._batches and not self.is_up_to_date:
            self._child.retire(IDLE_GRACE_S)

    def _remove(self, position: int) -> None:
        for run in self._batches.pop(position):
            del self._runs_by_id[run.task_id]
        if position < self._begun:
            self._begun -= 1

    def _begin_next(self) -> None:
        """Start the runs that the child works on now."""
        while self._begun < self._limit and self._begun < len(self._batches):
            if self._child and not self._begun:
                self._child.forget_output()  # what earlier tasks printed says nothing about the end of these
            self._begun += 1
            for run in self._batches[self._begun - 1]:
                self._owner.run_started(run)
                if run.forced_result:
                    self._interrupt(run)

    def _apply_limit(self) -> None:
        assert self._child is not None and self._started_with is not None  # noqa: PT018, S101 (the child is ready)
        self.batch_limits = self._child.ready.batch
        announced = self._child.ready.concurrency
        self._limit = min(announced, self._started_with.max_concurrency or announced)

    def _interrupt(self, run: Run) -> None:
        assert self._child is not None  # noqa: S101 (a run is with a child)
        self._child.cancel_task(run.task_id)
        self._on_change()

    def _start(self) -> None:
        assert self._spec is not None  # noqa: S101 (set by the first start)
        if self._restart:
            self._restart.cancel()
        self._started_with = self._spec
        try:
            self._child = Child(self._spec, self)
        except ResourcesExhausted as error:
            self._record_shortage(error.detail)
            self._on_change()
        except DeploymentFailed as error:
            self._record_failure("child_not_started", error.detail, reason=error.detail)
            self._on_change()

    def _record_failure(self, event: str, cause: str, *, reason: str) -> None:
        """Log and report why there is no child, and schedule another one."""
        self.problem, self.shortage = reason, ""
        members = child_error_members(cause)
        self._failures.record(event, key=members["error"], **members)
        delay = self._restart_policy.next_delay_s()
        if delay is not None:
            self._restart = asyncio.get_running_loop().call_later(delay, self._restart_now)

    def _record_shortage(self, reason: str) -> None:
        """Log and report what the machine is out of, and schedule another start. The code is not at fault."""
        self.shortage = reason
        self._failures.record("child_not_started", key=reason, error=reason)
        delay = self._restart_policy.next_shortage_delay_s()
        self._restart = asyncio.get_running_loop().call_later(delay, self._restart_now)

    def _restart_now(self) -> None:
        if self._child is None and not self._is_stopping:
            self._start()
