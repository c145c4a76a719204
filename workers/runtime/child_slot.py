"""One long_running child: started, sent one task after another, restarted when it ends."""

import asyncio
from collections import deque
from typing import Protocol

import structlog

from runqy import clock
from runqy.errors import DeploymentFailed
from workers.runtime.backoff import RestartPolicy
from workers.runtime.child import Child, ChildSpec
from workers.runtime.pool import OVERFLOW, stray_result, timeout_result, to_run_result
from workers.runtime.protocol import ChildResponse, InvalidResponse
from workers.runtime.runs import Run, RunResult, RunStatus

IDLE_GRACE_S = 3.0
"""How long an idle child has to end by itself: the next one has to have the new environment within five seconds."""
REMEMBERED_IDS = 64

log = structlog.get_logger()


class SlotOwner(Protocol):
    """Is called back by a slot."""

    def slot_finished_run(self, run: Run, result: RunResult, spent_s: float) -> None:
        """A run is over."""

    def slot_started_run(self, run: Run) -> None:
        """The child is free to start a run."""

    def slot_changed(self) -> None:
        """The slot opened or closed."""


class ChildSlot:
    """A child, and the tasks sent to it, in order; it works on the first."""

    def __init__(self, owner: SlotOwner, restart_policy: RestartPolicy) -> None:
        self.runs: deque[Run] = deque()
        self.problem = ""
        self._owner = owner
        self._restart_policy = restart_policy
        self._spec: ChildSpec | None = None
        self._started_with: ChildSpec | None = None
        self._child: Child | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._began_s = 0.0
        self._ended_ids: deque[str] = deque(maxlen=REMEMBERED_IDS)

    @property
    def is_open(self) -> bool:
        """Return whether the child takes tasks."""
        return self._child is not None and self._child.is_ready and not self._child.is_ending and self.is_up_to_date

    @property
    def is_up_to_date(self) -> bool:
        """Return whether the child was started with the newest specification."""
        return self._started_with is self._spec

    @property
    def is_empty(self) -> bool:
        """Return whether there is no child."""
        return self._child is None

    def start(self, spec: ChildSpec) -> None:
        """Start a child, or replace the one that is there once its tasks are done."""
        self._spec = spec
        self._restart_policy.note_success()
        if self._child is None:
            self._start()
        elif not self.runs:
            self._end_idle_child(self._child)

    def add(self, run: Run) -> None:
        """Send the child a task."""
        assert self._child is not None  # noqa: S101 (only open slots are given tasks)
        self.runs.append(run)
        self._child.send(run.line)
        if len(self.runs) == 1:
            self._begin(run)

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        """End a run early: at once if the child works on it, else when its turn comes."""
        run.forced_result = run.forced_result or forced_result
        if run is self.runs[0] and run.forced_result is forced_result:
            self._interrupt(run)

    def enforce_timeouts(self, now_s: float) -> None:
        """End the run that the child works on if it timed out."""
        if self.runs and now_s >= self.runs[0].ends_at_s and self.runs[0].forced_result is None:
            self.end_run(self.runs[0], timeout_result(self.runs[0]))

    def stop(self) -> None:
        """End the child for good."""
        self._is_stopping = True
        if self._restart:
            self._restart.cancel()
        if self._child and self.runs:
            self._child.terminate()
        elif self._child:
            self._end_idle_child(self._child)

    def child_ready(self, child: Child) -> None:
        """Open the slot."""
        self.problem = ""
        self._owner.slot_changed()

    def child_responded(self, child: Child, response: ChildResponse | InvalidResponse) -> bool:
        """End the run that the child responds for, and start the next."""
        run = next((run for run in self.runs if run.task_id == response.task_id), None)
        if run is None:
            self._note_stray_response(response)
            return False
        self._restart_policy.note_success()
        self._finish(run, run.forced_result or to_run_result(response))
        return True

    def _note_stray_response(self, response: ChildResponse | InvalidResponse) -> None:
        """Log a response for a task that the child does not have; if it has one, that must be the one it means.

        Children respond in this way to a task that they cannot read. A second response for a task that has ended says
        nothing about the present one.
        """
        is_late = response.task_id in self._ended_ids
        log.warning("response_for_unknown_task", task_id=response.task_id, is_late=is_late)
        if len(self.runs) == 1 and not is_late and isinstance(response, ChildResponse):
            self._finish(self.runs[0], self.runs[0].forced_result or stray_result(response))

    def child_overflowed(self, child: Child) -> None:
        """End the run that must have made the line that was too long."""
        if self.runs:
            self._finish(self.runs[0], self.runs[0].forced_result or OVERFLOW)

    def child_ended(self, child: Child) -> None:
        """End what the child left, and start another child."""
        runs, self.runs, self._child = list(self.runs), deque(), None
        first = runs[0] if runs else None
        was_wanted = self.is_up_to_date and not self._is_stopping and not (first and first.forced_result)
        for run in runs:
            self._owner.slot_finished_run(
                run, run.forced_result or self._result_after_child_end(child, run), self._spent_s()
            )
        if was_wanted and first is not None and self._restart_policy.is_enabled:
            self._restart_policy.note_death_under_task()
            self._start()
        elif was_wanted:
            self.problem = child.cause
            self._start_later()
        elif not self._is_stopping:
            self._start()
        self._owner.slot_changed()

    def _end_idle_child(self, child: Child) -> None:
        """End a child without tasks; one that still loads would not notice that its input ended."""
        if child.is_ready:
            child.retire(IDLE_GRACE_S)
        else:
            child.terminate()

    def _result_after_child_end(self, child: Child, run: Run) -> RunResult:
        """Return the result of a run whose child is gone."""
        if run.started_ns and not self._is_stopping:
            return RunResult(RunStatus.CHILD_DIED, child.cause)
        return RunResult(RunStatus.REQUEUED)

    def _finish(self, run: Run, result: RunResult) -> None:
        """End a run whose child goes on."""
        child = self._child
        assert child is not None  # noqa: S101 (responses come from a child)
        was_first = run is self.runs[0]
        self.runs.remove(run)
        self._ended_ids.append(run.task_id)
        self._owner.slot_finished_run(run, result, self._spent_s())
        if was_first:
            child.keep_running()
        if self.runs and was_first and not child.is_ending:
            self._begin(self.runs[0])
        if not self.runs and not self.is_up_to_date:
            child.retire(IDLE_GRACE_S)

    def _begin(self, run: Run) -> None:
        """Start the timeout of the run that the child is free to start now."""
        self._began_s = clock.monotonic_s()
        self._owner.slot_started_run(run)
        if run.forced_result:
            self._interrupt(run)

    def _interrupt(self, run: Run) -> None:
        """Make the child give up what it works on."""
        assert self._child is not None  # noqa: S101 (a run is with a child)
        self._child.cancel_task(run.task_id)
        self._owner.slot_changed()

    def _spent_s(self) -> float:
        return clock.monotonic_s() - self._began_s

    def _start(self) -> None:
        """Start a child now."""
        assert self._spec is not None  # noqa: S101 (set by the first start)
        if self._restart:
            self._restart.cancel()
        self._started_with = self._spec
        try:
            self._child = Child(self._spec, self)
        except DeploymentFailed as error:
            self.problem = error.detail
            self._start_later()
            self._owner.slot_changed()

    def _start_later(self) -> None:
        """Start a child after a delay that grows with the number of failures."""
        delay = self._restart_policy.next_delay_s()
        if delay is not None:
            self._restart = asyncio.get_running_loop().call_later(delay, self._restart_now)

    def _restart_now(self) -> None:
        if self._child is None and not self._is_stopping:
            self._start()
