"""The pool of a long_running queue: warm children, and the tasks that wait for one of them."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter

from runqy import clock
from runqy.telemetry.failure_log import FailureLog
from workers.runtime.child import ChildSpec
from workers.runtime.child_slot import ChildSlot
from workers.runtime.pool import STOP_TIMEOUT_S, PoolOwner, RestartPolicy
from workers.runtime.settings import WorkerSettings
from workers.runtime.task_runs import Run, RunResult, RunStatus

MAX_GAP = 0.05
"""The part of a mean run for which a child may wait for its next task. Where fetching one takes longer, tasks are sent
to the child ahead. Otherwise none waits behind another while a child is free, of this worker or of another one."""
MIN_RUN_S = 1e-4
"""Shorter runs count as long: one of nothing would let a worker hold any number of tasks."""


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
                on_batch_failed=self._send_again,
            )
            for _ in range(min(settings.processes, settings.concurrency or settings.processes))
        ]
        self._waiting: deque[Run] = deque()
        self._max_leases = settings.concurrency
        # A moving average, in which the last run counts half. Until the first one has ended, tasks count as long.
        self._mean_s = math.inf
        self._window: asyncio.TimerHandle | None = None
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
        if self._waits_for_suspect:
            # Nothing starts before it, so that a child becomes free for it.
            return self._sent + any(slot.is_open and not slot.has_suspect for slot in self._slots)
        if self._max_leases is None:
            return sum(slot.count_capacity(0) for slot in self._slots)
        lateness = self._lateness
        return min(self._max_leases, sum(slot.count_capacity(lateness) for slot in self._slots))

    @property
    def is_up_to_date(self) -> bool:
        return all(slot.is_up_to_date for slot in self._slots)

    def start(self, spec: ChildSpec) -> None:
        for slot in self._slots:
            slot.start(spec)
        self._use_slots()

    def submit(self, *runs: Run) -> None:
        for run in runs:
            run.waiting_since_s = clock.monotonic_s()
        self._waiting.extend(runs)
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
        if self._window:
            self._window.cancel()
        for slot in self._slots:
            slot.stop()
        self._use_slots()
        async with asyncio.timeout(STOP_TIMEOUT_S + 10):
            await self._emptied.wait()

    @property
    def _sent(self) -> int:
        return sum(len(slot.runs) for slot in self._slots)

    @property
    def _waits_for_suspect(self) -> bool:
        return bool(self._waiting) and self._waiting[0].task.is_suspect

    @property
    def _lateness(self) -> float:
        """How many runs would fit into the time for which a free child waits too long for its next task."""
        return max(self._owner.refill_s / max(self._mean_s, 1e-6) - MAX_GAP, 0)  # a clock may not have moved on

    def _end_run(self, run: Run, result: RunResult, spent_s: float | None) -> None:
        if spent_s is not None:
            spent_s = max(spent_s, MIN_RUN_S)
            self._mean_s = spent_s if self._mean_s == math.inf else (self._mean_s + spent_s) / 2
        self._owner.run_ended(run, result)
        self._assign_runs()

    def _send_again(self, runs: Sequence[Run]) -> None:
        self._waiting.extendleft(reversed(runs))  # to the front, in their order
        self._use_slots()

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
        if self._waiting and not self.is_ready:
            self.requeue_unstarted()

    def _assign_runs(self) -> None:
        if not self._waiting:
            return
        # A lease may have ended while the worker was suspended, even before the reply to its dequeue was read.
        for run in [run for run in self._waiting if not self._owner.has_lease(run)]:
            self.end_run(run, RunResult(RunStatus.LOST))
        lateness = self._lateness
        while self._waiting:
            free = [slot for slot in self._slots if slot.can_take(self._waiting[0], lateness)]
            slot = min(free, key=_load, default=None)
            if slot is None or not (count := self._count_members(slot)):
                break
            slot.send([self._waiting.popleft() for _ in range(count)])
        self._requeue_behind_suspects()

    def _requeue_behind_suspects(self) -> None:
        """Requeue the tasks that a suspect one keeps from starting: children of other workers may be free."""
        if not (self._waits_for_suspect or any(slot.has_suspect for slot in self._slots)):
            return
        startable = max(self.capacity - self._sent, 0)
        while len(self._waiting) > startable:  # the last one first
            self._owner.run_ended(self._waiting.pop(), RunResult(RunStatus.REQUEUED))

    def _count_members(self, slot: ChildSlot) -> int:
        """Return how many waiting tasks to send to a slot now; 0 while a batch waits for more members."""
        first, limits = self._waiting[0], slot.batch_limits
        if limits is None or _is_alone(first):
            return 1
        ids: set[str] = set()
        for run in islice(self._waiting, limits.max_size):
            if _is_alone(run) or run.task_id in ids or slot.has_task(run.task_id):
                break
            ids.add(run.task_id)
        count, waiting = len(ids), len(self._waiting)
        # No task that may arrive would be a member.
        has_all_leases = self._max_leases is not None and waiting + self._sent >= self._max_leases
        is_complete = count == limits.max_size or count < waiting or has_all_leases
        left_s = first.waiting_since_s + limits.max_wait_ms / 1000 - clock.monotonic_s()
        if is_complete or left_s <= 0:
            return count
        if self._window:
            self._window.cancel()  # that of an earlier batch or child may end much later
        self._window = asyncio.get_running_loop().call_later(left_s, self._assign_runs)
        return 0


_load = attrgetter("load")


def _is_alone(run: Run) -> bool:
    return run.task.is_suspect or run.runs_singly
