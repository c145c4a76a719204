"""Dequeue tasks while slots are free, submit them to the pool and record their results, in few round trips."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import structlog

from runqy import clock
from runqy.broker.constants import POLL_S
from runqy.broker.message import REQUEST_ID, TRACEPARENT
from runqy.broker.tasks.dequeue import DequeueRequest
from runqy.broker.tasks.finish import FinishOutcome
from runqy.broker.tasks.lease import Extension, LeasedTask
from runqy.broker.tasks.record import TaskProgress
from runqy.errors import BrokerCommandRefused, BrokerRefused, BrokerUnavailable, LeaseLost, RunqyError
from runqy.telemetry.failure_log import FailureLog
from workers.runtime.backoff import delay_s
from workers.runtime.error_texts import child_error_members, error_members
from workers.runtime.finish_and_dequeue import ConsumeConfig, encode_leased_task, finish_and_dequeue, start_run_span
from workers.runtime.output_writer import OutputWriter
from workers.runtime.pool import Pool
from workers.runtime.redaction import secrets
from workers.runtime.redis_connections import RedisConnections
from workers.runtime.result_limits import find_large_results, limit_result, refuse_large_results
from workers.runtime.run_counts import RunCounts
from workers.runtime.task_runs import Run, RunResult, RunStatus, plan_finishes

TICK_S = 0.2
"""The precision of timeouts."""
FINISHES_PER_ROUND_TRIP = 200
MAX_BYTES_PER_ROUND_TRIP, MIN_BYTES_PER_ROUND_TRIP = 1 << 20, 64 << 10
"""The size of a round trip without its first run. It is halved after each failure and doubled after each success."""
MAX_BYTES_BEFORE_DEQUEUE = 256 << 10
"""With larger results no tasks are dequeued: their leases, which begin with the request, might end on the way."""
MIN_POLL_INTERVAL_S = 0.125
"""The queues of a process poll at multiples of this, so that many of them share one write to Redis."""
MAX_ROUND_TRIPS = 2
"""While Redis handles one batch of tasks, this process and its children work on the other."""

log = structlog.get_logger()


class Consumer:
    """The tasks of one queue that this worker leases."""

    def __init__(
        self,
        connections: RedisConnections,
        config: ConsumeConfig,
        *,
        on_state_change: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_state_change` is called when the pool or `refusal` changes, `on_refused` when Redis refuses a request."""
        self.config = config
        self.counts = RunCounts()
        self.last_take_s: int | None = None
        # Why Redis refused the last dequeue; empty if it did not.
        self.refusal = ""
        # Keys are lease tokens.
        self.runs: dict[str, Run] = {}
        # Set while there are no runs and no round trip is under way.
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._connections = connections
        self._on_state_change = on_state_change
        self._on_refused = on_refused
        self._output = OutputWriter(lambda: self._connections.tasks)
        self._pool: Pool | None = None
        self._loop = asyncio.get_running_loop()
        # The number of runs that have ended and whose results are not recorded yet.
        self._ended = 0
        # Ended runs, except those that a round trip under way records.
        self._unrecorded: deque[Run] = deque()
        self._bytes_per_round_trip = MAX_BYTES_PER_ROUND_TRIP
        # The number of tasks that dequeues under way request.
        self._requested = 0
        # Dequeues whose replies were lost. They are repeated until their outcomes are known.
        self._unconfirmed: deque[DequeueRequest] = deque()
        self._is_dequeuing = False
        # Whether Redis announced a task, or the last dequeue got all it requested.
        self._may_have_tasks = True
        self._wake_ups = 0
        # One future for each loop that waits for its next round trip.
        self._idle: list[asyncio.Future[None]] = []
        self._is_scheduled = False
        self._backoff: asyncio.TimerHandle | None = None
        self._failures = 0
        self._failure_log = FailureLog("broker_available")
        self._ticks: asyncio.Handle | None = None
        self._polls: asyncio.Handle = self._loop.call_soon(self._poll)
        self._loops = [self._loop.create_task(self._make_round_trips()) for _ in range(MAX_ROUND_TRIPS)]

    def begin(self, pool: Pool) -> None:
        """Dequeue tasks whenever this pool is ready."""
        self._pool = pool
        self._is_dequeuing = True
        self.wake()

    def resume(self) -> None:
        if self._pool:
            self.begin(self._pool)

    def apply(self, config: ConsumeConfig, connections: RedisConnections | None) -> None:
        """Use the configuration of a new registration, and another Redis if one is given."""
        self.config = config
        self._connections = connections or self._connections
        if self._backoff:
            self._end_backoff()

    def stop_dequeuing(self) -> None:
        """Stop dequeuing and requeue the tasks that have not started."""
        self._is_dequeuing = False
        if self._pool:
            self._pool.requeue_unstarted()

    async def close(self) -> None:
        """Abandon round trips under way and stop the timers."""
        for handle in (self._polls, self._ticks, self._backoff, *self._loops):
            if handle:
                handle.cancel()
        await asyncio.wait(self._loops)
        await self._output.close()

    def wake(self) -> None:
        self._may_have_tasks = True
        self._wake_ups += 1
        self._schedule()

    def cancel_task(self, task_id: str) -> None:
        """End the run of a task. A run that was to be requeued, but is not yet recorded, is canceled instead."""
        for run in [run for run in self.runs.values() if run.task_id == task_id]:
            if run.result is None:
                self._end_early(run, RunResult(RunStatus.CANCELED))
            elif run.result.status is RunStatus.REQUEUED and run in self._unrecorded:
                run.result = RunResult(RunStatus.CANCELED)

    def apply_extension(self, extension: Extension) -> None:
        """End the runs whose leases were lost or whose cancellation was requested."""
        for lease in extension.extended:
            if run := self.runs.get(lease.token):
                run.lease_end_s = extension.lease_end_s
        for lease in extension.lost:
            run = self.runs.get(lease.token)
            if run and run.result is None:
                log.warning("lease_lost", task_id=lease.task_id, queue=lease.queue)
                self._end_early(run, RunResult(RunStatus.LOST))
        for lease in extension.canceled:
            if run := self.runs.get(lease.token):
                self._end_early(run, RunResult(RunStatus.CANCELED))

    def has_lease(self, run: Run) -> bool:
        """Return whether a run may start. See PoolOwner."""
        if self._connections.now_ns() < run.lease_end_s * 1_000_000_000:
            return True
        log.warning("lease_lost", task_id=run.task_id, queue=run.task.lease.queue)
        return False

    def run_started(self, run: Run) -> None:
        """Start the run's timeout. See PoolOwner."""
        run.start(now_ns=self._connections.now_ns())
        self.counts.record_start(run)

    def run_ended(self, run: Run, result: RunResult) -> None:
        """Record the run's result with the next round trip. See PoolOwner."""
        if run.result is None:
            result = limit_result(result, self.config.policy)
            run.result = msgspec.structs.replace(result, error=secrets.redact(result.error)) if result.error else result
            self._ended += 1
            self._record_end(run, result)
            if result.status is RunStatus.LOST:
                self._forget(run)  # nothing is recorded: another worker may have the task
            else:
                self._unrecorded.append(run)
        self._schedule()

    def run_printed(self, runs: Sequence[Run], data: bytes, *, is_line: bool) -> None:
        """Keep what a child printed. See PoolOwner."""
        if self.config.keeps_output:
            self._output.add(runs, data, is_line=is_line)

    def run_progressed(self, run: Run, progress: TaskProgress) -> None:
        self._output.set_progress(run, progress)

    def _record_end(self, run: Run, result: RunResult) -> None:
        now_ns = self._connections.now_ns()
        self.counts.record_end(run, now_ns=now_ns)
        if run.span:
            run.span.end(result.status.value, is_error=bool(result.error), now_ns=now_ns)

    def pool_changed(self) -> None:
        """Use a pool that became ready. See PoolOwner."""
        self._on_state_change()
        self._schedule()

    def _end_early(self, run: Run, forced_result: RunResult) -> None:
        if self._pool and run.result is None:
            self._pool.end_run(run, forced_result)

    def _poll(self) -> None:
        """Poll for the tasks of producers that publish no wake-up."""
        due_s = self._loop.time() + delay_s(0, first_s=POLL_S, max_s=POLL_S)
        self._polls = self._loop.call_at(math.ceil(due_s / MIN_POLL_INTERVAL_S) * MIN_POLL_INTERVAL_S, self._poll)
        self.wake()

    def _tick(self) -> None:
        # Runs only while there are runs: `_accept` starts it again.
        self._ticks = self._loop.call_later(TICK_S, self._tick) if self.runs else None
        if self._pool:
            self._pool.enforce_timeouts(clock.monotonic_s())

    def _schedule(self) -> None:
        """Schedule a round trip for the end of this loop iteration, if there is a reason for one."""
        if self._is_scheduled or self._backoff or not self._may_start_round_trip():
            return
        if self._unrecorded or self._unconfirmed or self._count_requested():
            self._is_scheduled = True
            self.emptied.clear()
            self._idle.pop().set_result(None)
        elif not self.runs and len(self._idle) == MAX_ROUND_TRIPS:
            self.emptied.set()

    def _may_start_round_trip(self) -> bool:
        # While a round trip is under way, a second one is not worth a few results of many.
        if len(self._idle) == MAX_ROUND_TRIPS:
            return True
        is_worthwhile = len(self._unrecorded) >= max(2, self.config.concurrency // MAX_ROUND_TRIPS)
        return is_worthwhile and bool(self._idle)

    async def _make_round_trips(self) -> None:
        while True:
            requested = self._loop.create_future()
            self._idle.append(requested)
            self._schedule()
            await requested
            self._is_scheduled = False
            try:
                await self._fill_slots()
            except Exception as error:  # noqa: BLE001 (the supervisor of a loop: no bug may end it while there are runs)
                self._failure_log.record("round_trip_failed", key=repr(error), exc_info=error)

    def _count_requested(self) -> int:
        """Return how many tasks to request: one for each free slot, if Redis may have any."""
        if not (self._may_have_tasks and self._is_dequeuing and self._pool and self._pool.is_ready):
            return 0
        in_use = len(self.runs) - self._ended + self._requested
        return max(min(self.config.concurrency, self._pool.capacity) - in_use, 0)

    @property
    def free_slots(self) -> int:
        capacity = min(self.config.concurrency, self._pool.capacity) if self._pool else 0
        return max(capacity - sum(run.result is None for run in self.runs.values()), 0)

    def _pop_unconfirmed(self) -> DequeueRequest | None:
        """Return a dequeue to repeat. Removed queues are left out: Redis may refuse them for ever."""
        while self._unconfirmed:
            dequeue = self._unconfirmed.popleft().limited_to(self.config.queues)
            if dequeue.queues:
                return dequeue
        return None

    def _pop_unrecorded(self) -> list[Run]:
        """Return runs for the next round trip: at least one, and no more than a slow connection sends in time."""
        runs: list[Run] = []
        size = 0
        while self._unrecorded and len(runs) < FINISHES_PER_ROUND_TRIP:
            size += self._unrecorded[0].finish_bytes
            if runs and size > self._bytes_per_round_trip:
                break
            runs.append(self._unrecorded.popleft())
        return runs

    async def _fill_slots(self) -> None:
        """Record ended runs and dequeue tasks for the free slots. What has no known outcome is repeated later."""
        runs = self._pop_unrecorded()
        dequeue = None
        if sum(run.finish_bytes for run in runs) <= MAX_BYTES_BEFORE_DEQUEUE:
            dequeue = self._pop_unconfirmed()
            if dequeue is None and (wanted := self._count_requested()):
                dequeue = self.config.dequeue_request(wanted)
        # Compared after the reply: a wake-up that comes meanwhile may announce a task that this dequeue missed.
        wake_ups = self._wake_ups
        requested = len(dequeue.lease_tokens) if dequeue else 0
        self._requested += requested
        try:
            connections = self._connections
            await self._limit_results(runs)
            now_ns = connections.now_ns()
            finishes = plan_finishes(runs, self.config.policy, now_ns=now_ns)
            outputs = self._output.plan_final(runs)
            requests = [*(part.request for part in outputs), *(finish.request for finish in finishes)]
            replies = await connections.tasks.run(finish_and_dequeue(requests, dequeue, now_ns=now_ns))
        except Exception as error:  # noqa: BLE001 (what failed is logged and repeated)
            self._unrecorded.extendleft(reversed(runs))  # to the front, in their order
            self._bytes_per_round_trip = max(self._bytes_per_round_trip // 2, MIN_BYTES_PER_ROUND_TRIP)
            self._record_dequeue(dequeue, error)
            self._back_off(error)
            return
        finally:
            self._requested -= requested
        self._bytes_per_round_trip = min(self._bytes_per_round_trip * 2, MAX_BYTES_PER_ROUND_TRIP)
        outcomes = self._output.record_all(outputs, replies.outcomes)
        for finish, outcome in zip(finishes, outcomes, strict=True):
            for run, part in finish.match(outcome):
                self._record_outcome(run, part)
        errors: list[RunqyError] = [outcome for outcome in outcomes if isinstance(outcome, BrokerUnavailable)]
        if isinstance(replies.tasks, RunqyError):
            errors.append(replies.tasks)
        elif dequeue is not None and (len(replies.tasks) == requested or wake_ups == self._wake_ups):
            self._may_have_tasks = len(replies.tasks) == requested
        self._record_dequeue(dequeue, replies.tasks)
        if errors:
            self._back_off(errors[0])
        else:
            self._failure_log.record_success()
            self._failures = 0

    def _record_dequeue(self, dequeue: DequeueRequest | None, tasks: Sequence[LeasedTask] | Exception) -> None:
        """Accept what a dequeue leased, or keep a failed one to repeat it."""
        if dequeue is None:
            return
        if isinstance(tasks, Exception):
            # It may have run, or an earlier one with its tokens: only a repetition tells which tasks are leased.
            self._unconfirmed.append(dequeue.repeated())
            if isinstance(tasks, BrokerRefused | BrokerCommandRefused):
                self._set_refusal(str(tasks))
        else:
            self._set_refusal("")
            self._accept(tasks)

    def _set_refusal(self, reason: str) -> None:
        if reason != self.refusal:
            self.refusal = reason
            self._on_state_change()

    async def _limit_results(self, runs: Sequence[Run]) -> None:
        """Fail the runs whose results exceed their queue's share of a full Redis. Raise BrokerUnavailable."""
        if large := find_large_results(runs, self.config.policy):
            await self._connections.tasks.run(refuse_large_results(large))

    def _back_off(self, error: Exception) -> None:
        if isinstance(error, BrokerUnavailable):
            self._failure_log.record("broker_unavailable", key=str(error), error=str(error))
        else:
            self._failure_log.record("round_trip_failed", key=repr(error), exc_info=error)
        if isinstance(error, BrokerRefused):
            self._on_refused()
        if self._backoff is None:
            delay = delay_s(self._failures, first_s=0.1, max_s=5.0)
            self._backoff = self._loop.call_later(delay, self._end_backoff)
            self._failures += 1

    def _end_backoff(self) -> None:
        if self._backoff:
            self._backoff.cancel()
        self._backoff = None
        self._schedule()

    def _record_outcome(self, run: Run, outcome: FinishOutcome | RunqyError) -> None:
        """Forget a run that is recorded or cannot be, or keep it for the next round trip."""
        if isinstance(outcome, FinishOutcome):
            self.counts.record_outcome(run, outcome)
            if run.result and run.result.status not in (RunStatus.SUCCEEDED, RunStatus.REQUEUED):
                _log_failure(run, run.result, outcome)
        elif isinstance(outcome, BrokerRefused) and run.task.lease.queue not in self.config.queues:
            log.warning(
                "finish_refused", task_id=run.task_id, queue=run.task.lease.queue, reason="the queue was removed"
            )
        elif isinstance(outcome, BrokerUnavailable):
            self._unrecorded.append(run)  # Redis did not run the request
            return
        elif isinstance(outcome, BrokerCommandRefused) and not run.finishes_alone:
            run.finishes_alone = True  # another run of the same script call may be the cause
            self._unrecorded.append(run)
            return
        elif isinstance(outcome, LeaseLost):
            status = run.result.status.value if run.result else ""
            log.warning("finish_refused", task_id=run.task_id, queue=run.task.lease.queue, status=status)
        else:
            log.error("finish_failed", task_id=run.task_id, queue=run.task.lease.queue, error=outcome.detail)
        self._forget(run)

    def _forget(self, run: Run) -> None:
        del self.runs[run.task.lease.token]
        self._output.forget(run)
        self._ended -= 1

    def _accept(self, tasks: Sequence[LeasedTask]) -> None:
        """Submit tasks to the pool. Those that cannot run end here."""
        if not tasks:
            return
        now_ns = self._connections.now_ns()
        self.last_take_s = now_ns // 1_000_000_000
        for task in tasks:
            span = start_run_span(task, now_ns=now_ns)
            traceparent = span.traceparent if span else task.message.headers.get(TRACEPARENT, "")
            line, refusal = encode_leased_task(task, traceparent=traceparent, now_s=now_ns // 1_000_000_000)
            run = Run(task=task, line=line, lease_end_s=task.lease_end_s, traceparent=traceparent, span=span)
            self.runs[task.lease.token] = run
            if refusal:
                self.run_ended(run, refusal)
            elif self._pool is None or not self._is_dequeuing:
                self.run_ended(run, RunResult(RunStatus.REQUEUED))
            else:
                self._pool.submit(run)
        if self._ticks is None:
            self._ticks = self._loop.call_later(TICK_S, self._tick)


def _log_failure(run: Run, result: RunResult, outcome: FinishOutcome) -> None:
    has_child_died = result.status is RunStatus.CHILD_DIED
    error = child_error_members(result.error) if has_child_died else error_members(result.error)
    request_id = run.task.message.headers.get(REQUEST_ID, "")
    write = log.info if result.status is RunStatus.CANCELED else log.warning
    write(
        "task_not_done",
        **error,
        task_id=run.task_id,
        outcome=outcome.value,
        request_id=request_id,
    )
