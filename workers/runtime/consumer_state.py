"""Decides which ended runs the next round trip to Redis records and how many tasks it dequeues. It does no I/O."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from runqy import clock
from runqy.broker.constants import LEASE_S
from runqy.broker.tasks.dequeue import DequeueRequest, QueueWeight, plan_dequeue
from runqy.broker.tasks.finish import FinishOutcome
from runqy.broker.tasks.lease import LeasedTask
from runqy.errors import BrokerCommandRefused, BrokerRefused, BrokerUnavailable, RunqyError
from workers.runtime.retries import QueuePolicy
from workers.runtime.task_runs import Run, RunResult, RunStatus

TASKS_PER_DEQUEUE = 100
FINISHES_PER_ROUND_TRIP = 200
MAX_BYTES_PER_ROUND_TRIP, MIN_BYTES_PER_ROUND_TRIP = 1 << 20, 64 << 10
"""The size of a round trip without its first run. It is halved after each failure and doubled after each success."""
MAX_BYTES_BEFORE_DEQUEUE = 256 << 10
"""With larger results no tasks are dequeued: their leases, which begin with the request, might end on the way."""
REFILLS_AVERAGED = 8
"""One late reply of Redis is no reason to hold more tasks."""
MAX_ROUND_TRIPS = 2
"""While Redis handles one batch of tasks, this process and its children work on the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeConfig:
    """How tasks are dequeued and finished, by settings and registration."""

    worker_id: str
    wake_token: str
    concurrency: int | None
    """The most leases; None: what the children announce."""
    weights: tuple[QueueWeight, ...]
    is_strict: bool
    policy: QueuePolicy
    lease_s: int = LEASE_S
    ttl_completed_s: int = 0
    active_timeout_s: int = 0
    max_tasks: int | None = None
    """How many tasks may be run; None: no limit."""
    keeps_output: bool = False
    """Store what tasks print. Only a server that deletes the output with its task requests this."""

    @property
    def queues(self) -> list[str]:
        return [weight.queue for weight in self.weights]

    def dequeue_request(self, free: int) -> DequeueRequest:
        """Request as many tasks as there are free slots, up to TASKS_PER_DEQUEUE."""
        request = plan_dequeue(
            self.weights,
            min(free, TASKS_PER_DEQUEUE),
            worker_id=self.worker_id,
            is_strict=self.is_strict,
            wake_token=self.wake_token,
        )
        return msgspec.structs.replace(
            request,
            lease_s=self.lease_s,
            ttl_completed_s=self.ttl_completed_s,
            active_timeout_s=self.active_timeout_s,
            has_more_slots=free > TASKS_PER_DEQUEUE,
        )


@dataclass(frozen=True, slots=True, eq=False)
class RoundTrip:
    """One round trip to Redis: it records ended runs, then dequeues."""

    runs: Sequence[Run]
    size_bytes: int
    """What it takes to record them."""
    dequeue: DequeueRequest | None
    wake_ups: int
    """The number of wake-ups before it. A later one may announce a task that its dequeue missed."""
    wanted_since_s: float | None = None
    """Since when there is a free slot that its dequeue may fill."""


@dataclass(slots=True)
class ConsumerState:
    """What a consumer knows of its tasks. Its methods are events; `begin_round_trip` is the decision."""

    config: ConsumeConfig
    is_dequeuing: bool = False
    is_backing_off: bool = False
    """Redis failed: no round trip begins until `end_backoff`."""
    failures: int = 0
    """How often it backed off since the last round trip without an error."""
    runs: dict[str, Run] = field(default_factory=dict)
    """All leased tasks. Keys are lease tokens."""
    refill_s: float = 0.0
    """How long it takes from a free slot to its task while Redis has tasks: a moving average."""
    _wanted_since_s: float | None = None
    _may_have_tasks: bool = True
    """Redis announced a task, or the last dequeue got all it requested."""
    _is_idle: bool = False
    """Redis lists the worker as idle, because the last dequeue left it free slots."""
    _wake_ups: int = 0
    _finished: int = 0
    """The number of runs that have ended, without those that are requeued."""
    _ended: int = 0
    """The number of runs that have ended and are not recorded yet."""
    _unrecorded: deque[Run] = field(default_factory=deque)
    """Ended runs, except those that a round trip under way records."""
    _unconfirmed: deque[DequeueRequest] = field(default_factory=deque)
    """Dequeues whose replies were lost. They are repeated until their outcomes are known."""
    _under_way: list[RoundTrip] = field(default_factory=list)
    _bytes_per_round_trip: int = MAX_BYTES_PER_ROUND_TRIP

    @property
    def is_empty(self) -> bool:
        """Return whether no task is leased, and no dequeue can have leased one."""
        return not (self.runs or self._under_way or self._unconfirmed)

    @property
    def taken(self) -> int:
        """Return how many tasks were run, or run now."""
        return self._finished + len(self.runs) - self._ended

    def count_free_slots(self, capacity: int) -> int:
        """Return how many more tasks could run. `capacity` is what the children announce."""
        free = self._limit(capacity) - len(self.runs) + self._ended
        if self.config.max_tasks is not None:
            free = min(free, self.config.max_tasks - self.taken)
        return free if free > 0 else 0

    def begin_round_trip(self, capacity: int) -> RoundTrip | None:
        """Return what to send to Redis now; None if there is no reason for a round trip."""
        if self.is_backing_off:
            return None
        free = self._count_unrequested(capacity) if self._may_have_tasks and self.is_dequeuing else 0
        self._measure_demand(free)
        if not (free or self._unrecorded or self._unconfirmed or self._is_idle):
            return None
        if self._under_way and not self._is_second_worthwhile(capacity):
            return None
        runs, size_bytes = self._pop_unrecorded()
        dequeue = None
        if size_bytes <= MAX_BYTES_BEFORE_DEQUEUE:
            # A lost dequeue first: the slots that it may have filled are not known to be free.
            dequeue = self._pop_unconfirmed() or self._new_dequeue(free)
        if not runs and dequeue is None:
            return None
        round_trip = RoundTrip(runs, size_bytes, dequeue, self._wake_ups, self._wanted_since_s if dequeue else None)
        if dequeue:
            self._wanted_since_s = None
        self._under_way.append(round_trip)
        return round_trip

    def end_round_trip(self, round_trip: RoundTrip, tasks: Sequence[LeasedTask] | RunqyError) -> None:
        """Redis replied, with the dequeued tasks or why there are none. Outcomes of runs are passed to `settle`."""
        self._under_way.remove(round_trip)
        self._bytes_per_round_trip = min(self._bytes_per_round_trip * 2, MAX_BYTES_PER_ROUND_TRIP)
        dequeue = round_trip.dequeue
        if dequeue is None:
            return
        if isinstance(tasks, RunqyError):
            # It may have run, or an earlier one with its tokens: only a repetition tells which tasks are leased.
            self._unconfirmed.append(dequeue.repeated())
            return
        if tasks and round_trip.wanted_since_s is not None:
            passed_s = clock.monotonic_s() - round_trip.wanted_since_s
            self.refill_s += (passed_s - self.refill_s) / (REFILLS_AVERAGED if self.refill_s else 1)
        got_all = len(tasks) == len(dequeue.lease_tokens)
        self._is_idle = dequeue.has_more_slots or not got_all
        if got_all or round_trip.wake_ups == self._wake_ups:
            self._may_have_tasks = got_all

    def fail_round_trip(self, round_trip: RoundTrip) -> None:
        """The reply was lost, or was not handled to the end. Redis may have run any part of the round trip, so all that
        is not settled is repeated.
        """
        if round_trip in self._under_way:
            self._under_way.remove(round_trip)
        left = [run for run in round_trip.runs if run.task.lease.token in self.runs and run not in self._unrecorded]
        self._unrecorded.extendleft(reversed(left))  # to the front, in their order
        self._bytes_per_round_trip = max(self._bytes_per_round_trip // 2, MIN_BYTES_PER_ROUND_TRIP)
        if round_trip.dequeue is not None:
            self._unconfirmed.append(round_trip.dequeue.repeated())

    def back_off(self) -> bool:
        """Redis failed. Return whether a backoff begins; it does not while one is under way."""
        if self.is_backing_off:
            return False
        self.is_backing_off = True
        self.failures += 1
        return True

    def wake(self) -> None:
        """Redis may have a task: it was announced, or it is time to poll."""
        self._may_have_tasks = True
        self._wake_ups += 1

    def lease(self, run: Run) -> None:
        """A dequeue returned a task."""
        self.runs[run.task.lease.token] = run

    def end_run(self, run: Run, result: RunResult) -> bool:
        """A run ended. Return False if it had ended before."""
        if run.result is not None:
            return False
        run.result = result
        self._ended += 1
        self._finished += result.status is not RunStatus.REQUEUED
        if result.status is RunStatus.LOST:
            self.forget(run)  # nothing is recorded: another worker may have the task
        else:
            self._unrecorded.append(run)
        return True

    def cancel_requeue(self, run: Run) -> None:
        """A run that is to be requeued was canceled: archive it instead, unless a round trip is sending it."""
        if run.result and run.result.status is RunStatus.REQUEUED and run in self._unrecorded:
            run.result = RunResult(RunStatus.CANCELED)

    def settle(self, run: Run, outcome: FinishOutcome | RunqyError) -> bool:
        """Forget a run that is recorded or never can be. Return False if the next round trip tries again."""
        if isinstance(outcome, FinishOutcome):
            self.forget(run)
            return True
        is_removed = isinstance(outcome, BrokerRefused) and run.task.lease.queue not in self.config.queues
        # Redis did not run the request, or refused a script call because of another run in it.
        if isinstance(outcome, BrokerUnavailable) and not is_removed:
            self._unrecorded.append(run)
            return False
        if isinstance(outcome, BrokerCommandRefused) and not run.finishes_alone:
            run.finishes_alone = True
            self._unrecorded.append(run)
            return False
        self.forget(run)
        return True

    def forget(self, run: Run) -> None:
        del self.runs[run.task.lease.token]
        self._ended -= 1

    def _measure_demand(self, free: int) -> None:
        """Note since when a slot waits for a task that Redis may have."""
        if not free:
            self._wanted_since_s = None
        elif self._wanted_since_s is None:
            self._wanted_since_s = clock.monotonic_s()

    def _count_unrequested(self, capacity: int) -> int:
        free = self.count_free_slots(capacity)
        for each in self._under_way:
            free -= len(each.dequeue.lease_tokens) if each.dequeue else 0
        return max(free, 0)

    def _is_second_worthwhile(self, capacity: int) -> bool:
        """Return whether to begin another round trip while one is under way: not for a few results of many."""
        at_least = max(2, self._limit(capacity) // MAX_ROUND_TRIPS)
        return len(self._under_way) < MAX_ROUND_TRIPS and len(self._unrecorded) >= at_least

    def _limit(self, capacity: int) -> int:
        return capacity if self.config.concurrency is None else min(self.config.concurrency, capacity)

    def _pop_unrecorded(self) -> tuple[Sequence[Run], int]:
        """Return runs for the next round trip, and their size in bytes.

        At least one, and no more than a slow connection sends in time.
        """
        if not self._unrecorded:
            return (), 0
        runs = [self._unrecorded.popleft()]
        size_bytes = runs[0].finish_bytes
        while self._unrecorded and len(runs) < FINISHES_PER_ROUND_TRIP:
            next_bytes = self._unrecorded[0].finish_bytes
            if size_bytes + next_bytes > self._bytes_per_round_trip:
                break
            size_bytes += next_bytes
            runs.append(self._unrecorded.popleft())
        return runs, size_bytes

    def _pop_unconfirmed(self) -> DequeueRequest | None:
        """Return a dequeue to repeat. Removed queues are left out: Redis may refuse them for ever."""
        while self._unconfirmed:
            dequeue = self._unconfirmed.popleft().limited_to(self.config.queues)
            if dequeue.queues:
                return dequeue
        return None

    def _new_dequeue(self, free: int) -> DequeueRequest | None:
        """Return a request for one task for each free slot, if Redis may have any."""
        if not (self._may_have_tasks and self.is_dequeuing):
            return None
        # One task of a batch that is under way, or a suspect one, takes all slots. A worker that is woken then has
        # taken the wake-up from another one: with a request for no task Redis passes it on.
        passes_on = self._is_idle and not self._under_way
        return self.config.dequeue_request(free) if free or passes_on else None
