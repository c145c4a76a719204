"""The pool of a long_running queue: warm children that are sent one task after another."""

import asyncio
from collections import deque

from runqy.telemetry.failure_log import FailureLog
from workers.runtime.child import ChildSpec
from workers.runtime.child_slot import ChildSlot
from workers.runtime.pool import STOP_TIMEOUT_S, PoolOwner, PoolSettings, RestartPolicy
from workers.runtime.task_runs import Run, RunResult, RunStatus

SHORT_TASK_S = 0.02
"""While tasks take less than this on average, a child is sent several tasks ahead, because the round trip through the
pipe would dominate. Longer tasks are sent one at a time: none waits behind another while a second child is free, and
tasks that have not started can be canceled or requeued."""


class LongRunningPool:
    """Child slots, and the tasks that wait for a slot. See Pool."""

    def __init__(self, owner: PoolOwner, settings: PoolSettings) -> None:
        self._owner = owner
        self._settings = settings
        failures = FailureLog("child_started")
        self._slots = [
            ChildSlot(
                owner,
                RestartPolicy(settings.recovery, settings.on_failure),
                failures,
                on_change=self._use_slots,
                on_run_ended=self._end_run,
            )
            for _ in range(min(settings.processes, settings.concurrency))
        ]
        self._waiting: deque[Run] = deque()
        self._slot_capacity = -(-settings.concurrency // len(self._slots))  # rounded up
        # A moving average, in which the last run counts half. Until the first one has ended, tasks count as long.
        self._mean_s = 1.0
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
        return min(self._settings.concurrency, self._slot_capacity * sum(slot.is_open for slot in self._slots))

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

    def _end_run(self, run: Run, result: RunResult, spent_s: float) -> None:
        self._mean_s = (self._mean_s + spent_s) / 2
        self._owner.run_ended(run, result)
        self._assign_runs()

    def _use_slots(self) -> None:
        """Use a slot that opened, and report the change."""
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
        depth = self._slot_capacity if self._mean_s < SHORT_TASK_S else 1
        while self._waiting:
            slot = min((s for s in self._slots if s.is_open), key=lambda s: len(s.runs), default=None)
            if slot is None or len(slot.runs) >= depth:
                return
            slot.add(self._waiting.popleft())
