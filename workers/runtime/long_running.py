"""The pool of a long_running queue: warm children, and the tasks that wait for one of them."""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter

from runqy import clock
from runqy.core.telemetry.failure_log import FailureLog
from workers.runtime.child import ChildSpec
from workers.runtime.child_slot import ChildSlot
from workers.runtime.pool import STOP_TIMEOUT_S, PoolOwner, RestartPolicy
from workers.runtime.run_pace import RunPace
from workers.runtime.settings import WorkerSettings
from workers.runtime.task_runs import Run, RunResult, RunStatus


class LongRunningPool:
    """Child slots, and the tasks that wait for a slot. See Pool."""

    def __init__(
        self, owner: PoolOwner, settings: WorkerSettings, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        """`on_failure` is called for each child that could not start or ended unexpectedly."""
        self._owner = owner
        self._settings = settings
        self._on_failure = on_failure
        count = min(settings.processes, settings.concurrency or settings.processes)
        failures = FailureLog("child_started")
        self._count = count
        self._slots = [self._make_slot(failures) for _ in range(count)]
        self._keeps_previous = False
        # Each starts the newest code beside the slot whose place it will take.
        self._next: dict[ChildSlot, ChildSlot] = {}
        self._waiting: deque[Run] = deque()
        # Those that wait for the end of a task with their id, and let others pass: ids are unique only in a sub-queue.
        self._same_ids: deque[Run] = deque()
        self._max_leases = settings.concurrency
        self.pace = RunPace()
        self._is_measuring = False
        self._window: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()

    @property
    def problem(self) -> str:
        return "" if self.is_ready else next((slot.problem for slot in self._slots if slot.problem), "")

    @property
    def next_problem(self) -> str:
        return next((slot.problem for slot in self._next if slot.problem), "")

    @property
    def shortage(self) -> str:
        return next((slot.shortage for slot in (*self._slots, *self._next) if slot.shortage), "")

    @property
    def is_replacing(self) -> bool:
        return bool(self._next)

    @property
    def loading_since_s(self) -> float | None:
        return min((slot.loading_since_s for slot in self._slots if slot.loading_since_s is not None), default=None)

    @property
    def is_ready(self) -> bool:
        return any(slot.is_open for slot in self._slots)

    @property
    def slots(self) -> int:
        return min(self._count_capacity(0) or len(self._slots), self._max_leases or sys.maxsize)

    @property
    def capacity(self) -> int:
        if self._waits_for_suspect:
            # Nothing starts before it, so that a child becomes free for it.
            count = self._sent + any(slot.is_open and not slot.has_suspect for slot in self._slots)
        else:
            count = self._count_capacity(0 if self._max_leases is None else self._owner.refill_s)
        return min(count + len(self._same_ids), self._max_leases or sys.maxsize)

    @property
    def is_up_to_date(self) -> bool:
        return not self._next and all(slot.is_up_to_date and not slot.is_standing_by for slot in self._slots)

    @property
    def is_settled(self) -> bool:
        return not self._next and all(slot.is_open or slot.is_retiring or slot.is_standing_by for slot in self._slots)

    @property
    def startup_s(self) -> float:
        return max((slot.startup_s for slot in self._slots if slot.is_open), default=0.0)

    @property
    def memory_bytes(self) -> int:
        return max((slot.memory_bytes for slot in self._slots if slot.is_open), default=0)

    def start(self, spec: ChildSpec, *, beside: bool = False, keeps_previous: bool = False) -> None:
        self._keeps_previous = keeps_previous
        kept = {slot: before for slot, before in self._next.items() if beside and slot.keeps(spec) and not slot.problem}
        for slot in [slot for slot in self._next if slot not in kept]:
            slot.retire()
            self._slots.append(slot)  # until its child has ended
        self._next = kept
        failures = FailureLog("child_started")
        for slot in [slot for slot in self._working if slot not in kept.values()]:
            if beside and slot.is_open and not slot.keeps(spec):
                self._next[following := self._make_slot(failures)] = slot
                following.start(spec)
            else:
                slot.start(spec)
        for slot in kept:
            slot.start(spec)
        self._use_slots()

    def retire_newer(self, release: int, *, beside: bool) -> None:
        for slot in [slot for slot in self._next if slot.release > release]:
            del self._next[slot]
            slot.retire()
            self._slots.append(slot)  # until its child has ended
        previous = [slot for slot in self._slots if slot.is_standing_by and slot.release <= release]
        failures = FailureLog("child_started")
        for slot in [slot for slot in self._working if slot.release > release]:
            if previous:
                slot.retire()
                previous.pop().is_standing_by = False
            elif beside:
                slot.retire()
                self._slots.append(self._make_slot(failures))
            else:
                slot.close()
        self.release_previous()
        self._use_slots()

    def release_previous(self) -> None:
        self._keeps_previous = False
        if previous := [slot for slot in self._slots if slot.is_standing_by]:
            for slot in previous:
                slot.is_standing_by = False
                slot.retire()
            self._use_slots()

    def submit(self, *runs: Run) -> None:
        now_s = clock.monotonic_s()
        for run in runs:
            run.waiting_since_s = now_s
        self._waiting.extend(runs)
        self._assign_runs()
        self._requeue_if_closed()

    def end_run(self, run: Run, forced_result: RunResult) -> None:
        for waiting in (self._waiting, self._same_ids):
            if run in waiting:
                waiting.remove(run)
                self._owner.run_ended(run, forced_result)
        for slot in self._slots:
            if run in slot.runs:
                slot.end_run(run, forced_result)

    def check_runs(self, now_s: float) -> None:
        for slot in self._slots:
            slot.enforce_timeouts(now_s)
        self._requeue_excess()

    def requeue_unstarted(self) -> None:
        self._restore_same_ids()
        # The last one first: each goes to the front of its queue.
        while self._waiting:
            self._owner.run_ended(self._waiting.pop(), RunResult(RunStatus.REQUEUED))

    async def stop(self) -> None:
        self.requeue_unstarted()
        if self._window:
            self._window.cancel()
        for slot in (*self._slots, *self._next):
            slot.stop()
        self._use_slots()
        async with asyncio.timeout(STOP_TIMEOUT_S + 10):
            await self._emptied.wait()

    @property
    def _working(self) -> list[ChildSlot]:
        return [slot for slot in self._slots if not (slot.is_retiring or slot.is_standing_by)]

    @property
    def _sent(self) -> int:
        return sum(len(slot.runs) for slot in self._slots)

    @property
    def _waits_for_suspect(self) -> bool:
        return self._waiting[0].task.is_suspect if self._waiting else False

    def _count_capacity(self, refill_s: float) -> int:
        if len(self._slots) == 1:
            return self._slots[0].count_capacity(self.pace, refill_s)
        return sum(slot.count_capacity(self.pace, refill_s) for slot in self._slots)

    def _end_run(self, run: Run, result: RunResult, spent_s: float | None) -> None:
        if not self._is_measuring:
            self._is_measuring = True
            # What is sent because of it is written at the end of this loop iteration.
            asyncio.get_running_loop().call_soon(self._measure_turn, clock.monotonic_s())
        if spent_s is not None:
            self.pace.record_run(spent_s)
        self._owner.run_ended(run, result)
        self._assign_runs()

    def _measure_turn(self, ended_s: float) -> None:
        self._is_measuring = False
        self.pace.record_turn(ended_s)

    def _send_again(self, runs: Sequence[Run]) -> None:
        self._waiting.extendleft(reversed(runs))  # to the front, in their order
        self._use_slots()

    def _make_slot(self, failures: FailureLog) -> ChildSlot:
        return ChildSlot(
            self._owner,
            RestartPolicy(self._settings.restarts, self._on_failure),
            failures,
            on_change=self._use_slots,
            on_run_ended=self._end_run,
            on_batch_failed=self._send_again,
        )

    def _use_slots(self) -> None:
        for slot, before in [pair for pair in self._next.items() if pair[0].is_open]:
            del self._next[slot]
            self._slots.append(slot)
            previous = sum(each.is_standing_by for each in self._slots)
            if self._keeps_previous and before.is_open and before.release < slot.release and previous < self._count:
                before.is_standing_by = True
            else:
                before.retire()
        self._slots = [slot for slot in self._slots if not (slot.is_retiring and slot.is_empty)]
        if all(slot.is_empty for slot in (*self._slots, *self._next)):
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

    def _restore_same_ids(self) -> None:
        if self._same_ids:
            self._waiting.extendleft(reversed(self._same_ids))
            self._same_ids.clear()

    def _assign_runs(self) -> None:
        self._restore_same_ids()
        if not self._waiting:
            return
        refill_s = self._owner.refill_s
        room = {slot: slot.count_room(self.pace, refill_s) for slot in self._slots}
        while self._waiting:
            first = self._waiting[0]
            slot = _find_least_loaded([slot for slot, left in room.items() if left and slot.accepts(first)])
            if slot is None and self._is_running(first):
                self._same_ids.append(self._waiting.popleft())
                continue
            if slot is None or not (count := self._count_members(slot)):
                break
            if self._send(slot, [self._waiting.popleft() for _ in range(count)]):
                room[slot] -= 1
        if self._waiting and (self._waits_for_suspect or any(slot.has_suspect for slot in self._slots)):
            self._requeue_excess()

    def _send(self, slot: ChildSlot, runs: list[Run]) -> bool:
        """Send runs, and end those without a lease. Return whether any was sent."""
        # A lease may have ended while the worker was suspended, even before the reply to its dequeue was read.
        leased = [run for run in runs if self._owner.has_lease(run)]
        if leased:
            slot.send(leased)
        if len(leased) < len(runs):
            for run in [run for run in runs if run not in leased]:
                self._owner.run_ended(run, RunResult(RunStatus.LOST))
        return bool(leased)

    def _is_running(self, run: Run) -> bool:
        """Return whether a child has another task of the same id. A suspect one lets no others pass."""
        return not run.task.is_suspect and any(slot.has_task(run.task_id) for slot in self._slots)

    def _requeue_excess(self) -> None:
        """Requeue the tasks that no child starts soon, such as those behind a long one: other workers may be free."""
        if not self._waiting:
            return
        startable = max(self.capacity - self._sent - len(self._same_ids), 0)
        # The last one first. Those whose batch failed stay: elsewhere they would be in a batch again.
        while len(self._waiting) > startable and not self._waiting[-1].runs_alone:
            self._owner.run_ended(self._waiting.pop(), RunResult(RunStatus.REQUEUED))

    def _count_members(self, slot: ChildSlot) -> int:
        """Return how many waiting tasks to send to a slot now; 0 while a batch waits for more members."""
        first, limits = self._waiting[0], slot.batch_limits
        if limits is None or first.must_run_alone:
            return 1
        ids: set[str] = set()
        for run in islice(self._waiting, limits.max_size):
            if run.must_run_alone or run.task_id in ids or slot.has_task(run.task_id):
                break
            ids.add(run.task_id)
        count, waiting = len(ids), len(self._waiting)
        # No task that may arrive would be a member.
        leases = waiting + len(self._same_ids) + self._sent
        has_all_leases = self._max_leases is not None and leases >= self._max_leases
        is_complete = count == limits.max_size or count < waiting or has_all_leases
        left_s = first.waiting_since_s + limits.max_wait_ms / 1000 - clock.monotonic_s()
        if is_complete or left_s <= 0:
            return count
        if self._window:
            self._window.cancel()  # that of an earlier batch or child may end much later
        self._window = asyncio.get_running_loop().call_later(left_s, self._assign_runs)
        return 0


def _find_least_loaded(slots: Sequence[ChildSlot]) -> ChildSlot | None:
    if len(slots) > 1:
        return min(slots, key=_load)
    return slots[0] if slots else None


_load = attrgetter("load")
