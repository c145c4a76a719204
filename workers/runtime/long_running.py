"""The pool of a long_running queue: warm children that are fed task after task."""

import asyncio
from collections import deque

from workers.runtime.backoff import RestartPolicy
from workers.runtime.child import ChildSpec
from workers.runtime.child_slot import ChildSlot
from workers.runtime.pool import STOP_TIMEOUT_S, PoolOwner, PoolSettings
from workers.runtime.runs import Run, RunResult, RunStatus

QUICK_S = 0.02
"""Below this mean time of a task a child is told of several ahead: then the pipe's own round trip would count.

Of slower tasks a child is told one at a time, so that none is stuck behind another while a second child is free, and
so that those not started can be cancelled or given back.
"""


class LongRunningPool:
    """Child slots, and the tasks that wait for one."""

    def __init__(self, owner: PoolOwner, settings: PoolSettings) -> None:
        self._owner = owner
        self._settings = settings
        self._slots = [
            ChildSlot(self, RestartPolicy(settings.recovery, settings.on_failure))
            for _ in range(min(settings.processes, settings.concurrency))
        ]
        self._waiting: deque[Run] = deque()
        self._share = -(-settings.concurrency // len(self._slots))
        self._mean_s = 1.0
        self._emptied = asyncio.Event()

    @property
    def problem(self) -> str:
        """Say why no child is ready. See Pool."""
        return "" if self.is_ready else next((slot.problem for slot in self._slots if slot.problem), "")

    @property
    def is_ready(self) -> bool:
        """See Pool."""
        return any(slot.is_open for slot in self._slots)

    @property
    def capacity(self) -> int:
        """See Pool."""
        return min(self._settings.concurrency, self._share * sum(slot.is_open for slot in self._slots))

    @property
    def is_up_to_date(self) -> bool:
        """See Pool."""
        return all(slot.is_up_to_date for slot in self._slots)

    def start(self, spec: ChildSpec) -> None:
        """See Pool."""
        for slot in self._slots:
            slot.start(spec)

    def submit(self, run: Run) -> None:
        """See Pool."""
        self._waiting.append(run)
        self._deal()
        self._return_if_closed()

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        """See Pool."""
        if run in self._waiting:
            self._waiting.remove(run)
            self._owner.run_ended(run, forced_result)
        for slot in self._slots:
            if run in slot.runs:
                slot.end_run(run, forced_result)

    def enforce_timeouts(self, now_s: float) -> None:
        """See Pool."""
        for slot in self._slots:
            slot.enforce_timeouts(now_s)

    def requeue_unstarted(self) -> None:
        """See Pool."""
        while self._waiting:
            self._owner.run_ended(self._waiting.pop(), RunResult(RunStatus.REQUEUED))

    def is_started(self, run: Run) -> bool:
        """See Pool."""
        return any(run in slot.runs for slot in self._slots)

    async def stop(self) -> None:
        """See Pool."""
        self.requeue_unstarted()
        for slot in self._slots:
            slot.stop()
        self.slot_changed()
        async with asyncio.timeout(STOP_TIMEOUT_S + 10):
            await self._emptied.wait()

    def slot_finished_run(self, run: Run, result: RunResult, spent_s: float) -> None:
        """Pass on that a run is over, and remember how long runs take."""
        self._mean_s = (self._mean_s + spent_s) / 2
        self._owner.run_ended(run, result)
        self._deal()

    def slot_started_run(self, run: Run) -> None:
        """Pass on that a run's time begins."""
        self._owner.run_started(run)

    def slot_changed(self) -> None:
        """Use a slot that opened, and pass the change on."""
        if all(slot.is_empty for slot in self._slots):
            self._emptied.set()
        else:
            self._emptied.clear()
        self._deal()
        self._return_if_closed()
        self._owner.pool_changed()

    def _return_if_closed(self) -> None:
        """Give tasks back rather than hold them until a child is ready again, which may take minutes."""
        if not self.is_ready:
            self.requeue_unstarted()

    def _deal(self) -> None:
        """Give waiting tasks to the slots that have the fewest."""
        depth = self._share if self._mean_s < QUICK_S else 1
        while self._waiting:
            slot = min((s for s in self._slots if s.is_open), key=lambda s: len(s.runs), default=None)
            if slot is None or len(slot.runs) >= depth:
                return
            slot.add(self._waiting.popleft())
