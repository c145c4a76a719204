"""Dequeues tasks while slots are free, hands them to the pool and records how they ended, in as few round trips as
possible."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import structlog

from runqy import clock
from runqy.broker.dequeue import DequeueRequest
from runqy.broker.finishing import Outcome
from runqy.broker.lease import Extension, LeasedTask
from runqy.broker.message import REQUEST_ID
from runqy.broker.timing import POLL_S
from runqy.errors import BrokerCommandRefused, BrokerRefused, BrokerUnavailable, LeaseLost, RunqyError
from workers.runtime.backoff import delay_s
from workers.runtime.logs import secrets
from workers.runtime.pool import Pool
from workers.runtime.redis_connections import RedisConnections
from workers.runtime.round_trip import ConsumeConfig, encode_or_reject, finish_and_dequeue
from workers.runtime.runs import Run, RunResult, RunStatus, plan_finishes

TICK_S = 0.2
"""How exactly timeouts are kept."""
FINISHES_PER_ROUND_TRIP = 200
MAX_BYTES_PER_ROUND_TRIP, MIN_BYTES_PER_ROUND_TRIP = 1 << 20, 64 << 10
"""What a round trip carries beyond its first run; less after each that failed, more again after each that did not."""
ROUND_TRIPS_AT_ONCE = 2
"""While Redis works on one batch of tasks, this process and its children work on the other."""

log = structlog.get_logger()


class Consumer:
    """The tasks of one queue that this worker leases."""

    def __init__(
        self,
        connections: RedisConnections,
        config: ConsumeConfig,
        *,
        on_pool_change: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what to call when the pool changed, and when Redis refuses our credentials."""
        self.config = config
        self.last_take_s: int | None = None
        self.held: dict[str, Run] = {}
        """By their owner tokens."""
        self.emptied = asyncio.Event()
        """Set while no task is held and no round trip under way."""
        self.emptied.set()
        self._connections = connections
        self._on_pool_change = on_pool_change
        self._on_refused = on_refused
        self._pool: Pool | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = 0
        """How many of the tasks that are held have ended."""
        self._unrecorded: deque[Run] = deque()
        """Those of them that no round trip under way records."""
        self._bytes_per_round_trip = MAX_BYTES_PER_ROUND_TRIP
        self._requested = 0
        """How many tasks the dequeues under way ask for."""
        self._unconfirmed: deque[DequeueRequest] = deque()
        """Dequeues whose replies were lost; they are repeated until their outcomes are known."""
        self._is_taking = False
        self._may_have_tasks = True
        """Redis announced a task, or the last dequeue got all it asked for."""
        self._announcements = 0
        self._idle: list[asyncio.Future[None]] = []
        """One for each loop that waits to be asked for a round trip."""
        self._is_scheduled = False
        self._backoff: asyncio.TimerHandle | None = None
        self._failures = 0
        self._ticks: asyncio.Handle | None = None
        self._polls: asyncio.Handle = self._loop.call_soon(self._poll)
        self._loops = [self._loop.create_task(self._make_round_trips()) for _ in range(ROUND_TRIPS_AT_ONCE)]

    def begin(self, pool: Pool) -> None:
        """Take tasks from now on, whenever the pool is ready."""
        self._pool = pool
        self._is_taking = True
        self.wake()

    def resume(self) -> None:
        """Take tasks again, if there is a pool to run them."""
        if self._pool:
            self.begin(self._pool)

    def use(self, connections: RedisConnections) -> None:
        """Go on with another Redis."""
        self._connections = connections
        if self._backoff:
            self._end_backoff()

    def stop_taking(self) -> None:
        """Take no more tasks; those not started go back."""
        self._is_taking = False
        if self._pool:
            self._pool.requeue_unstarted()

    async def close(self) -> None:
        """Abandon what is under way and end the timers."""
        for handle in (self._polls, self._ticks, self._backoff, *self._loops):
            if handle:
                handle.cancel()
        await asyncio.wait(self._loops)

    def wake(self) -> None:
        """Look for tasks now."""
        self._may_have_tasks = True
        self._announcements += 1
        self._schedule()

    def runs_task(self, task_id: str) -> bool:
        """Return whether a task of this id is held and has not ended."""
        return any(run.task_id == task_id and run.result is None for run in self.held.values())

    def note_extension(self, extension: Extension) -> None:
        """End the runs whose leases were lost or whose tasks were canceled."""
        for lease in extension.lost:
            run = self.held.get(lease.token)
            if run and run.result is None:
                log.warning("lease_lost", task_id=lease.task_id, queue=lease.queue)
                self._end_early(run, RunResult(RunStatus.LOST))
        for lease in extension.canceled:
            if run := self.held.get(lease.token):
                self._end_early(run, RunResult(RunStatus.CANCELED))

    def run_started(self, run: Run) -> None:
        """Start the run's timeout. See PoolOwner."""
        run.start(now_ns=self._connections.now_ns())

    def run_ended(self, run: Run, result: RunResult) -> None:
        """Record how a run ended with the next round trip. See PoolOwner."""
        if run.result is None:
            run.result = msgspec.structs.replace(result, error=secrets.redact(result.error)) if result.error else result
            self._ended += 1
            if result.status is RunStatus.LOST:
                self._forget(run)
            else:
                self._unrecorded.append(run)
        self._schedule()

    def pool_changed(self) -> None:
        """Use a pool that became ready. See PoolOwner."""
        self._on_pool_change()
        self._schedule()

    def _end_early(self, run: Run, forced_result: RunResult) -> None:
        if self._pool and run.result is None:
            self._pool.end_run(run, forced_result)

    def _poll(self) -> None:
        """Look for tasks of producers that publish no wake-up."""
        self._polls = self._loop.call_later(delay_s(0, first_s=POLL_S, most_s=POLL_S), self._poll)
        self.wake()

    def _tick(self) -> None:
        """End the runs that timed out; called as long as tasks are held."""
        self._ticks = self._loop.call_later(TICK_S, self._tick) if self.held else None
        if self._pool:
            self._pool.enforce_timeouts(clock.monotonic_s())

    def _schedule(self) -> None:
        """Begin a round trip at the end of this turn of the loop, if there is a reason for one."""
        if self._is_scheduled or self._backoff or not self._may_begin():
            return
        if self._unrecorded or self._unconfirmed or self._count_wanted():
            self._is_scheduled = True
            self.emptied.clear()
            self._idle.pop().set_result(None)
        elif not self.held and len(self._idle) == ROUND_TRIPS_AT_ONCE:
            self.emptied.set()

    def _may_begin(self) -> bool:
        """Return whether another round trip makes sense beside those under way: not for a few tasks of many."""
        if len(self._idle) == ROUND_TRIPS_AT_ONCE:
            return True
        is_worthwhile = len(self._unrecorded) >= max(2, self.config.concurrency // ROUND_TRIPS_AT_ONCE)
        return is_worthwhile and bool(self._idle)

    async def _make_round_trips(self) -> None:
        """Make one round trip whenever `_schedule` asks for it."""
        while True:
            asked = self._loop.create_future()
            self._idle.append(asked)
            self._schedule()
            await asked
            self._is_scheduled = False
            try:
                await self._fill_slots()
            except Exception:  # the supervisor of a loop: no bug may end it while tasks are held
                log.exception("round_trip_failed")

    def _count_wanted(self) -> int:
        """Return how many tasks to ask for: one for each free slot, if there may be any."""
        if not (self._may_have_tasks and self._is_taking and self._pool and self._pool.is_ready):
            return 0
        in_use = len(self.held) - self._ended + self._requested
        return max(min(self.config.concurrency, self._pool.capacity) - in_use, 0)

    def _pop_unrecorded(self) -> list[Run]:
        """Return runs for the next round trip: one at least, and no more than a slow connection carries in time."""
        runs: list[Run] = []
        size = 0
        while self._unrecorded and len(runs) < FINISHES_PER_ROUND_TRIP:
            size += self._unrecorded[0].finish_bytes
            if runs and size > self._bytes_per_round_trip:
                break
            runs.append(self._unrecorded.popleft())
        return runs

    async def _fill_slots(self) -> None:
        """Record what has ended and dequeue for the free slots; what has no known outcome is repeated later."""
        runs = self._pop_unrecorded()
        dequeue = None
        if self._unconfirmed:
            dequeue = self._unconfirmed.popleft()
        elif wanted := self._count_wanted():
            dequeue = self.config.dequeue_request(wanted)
        announcements = self._announcements
        requested = len(dequeue.lease_tokens) if dequeue else 0
        self._requested += requested
        try:
            connections = self._connections
            now_ns = connections.now_ns()
            finishes = plan_finishes(runs, self.config.policy, now_ns=now_ns)
            requests = [finish.request for finish in finishes]
            replies = await connections.tasks.run(finish_and_dequeue(requests, dequeue, now_ns=now_ns))
        except Exception as error:  # noqa: BLE001 (what failed is logged and repeated)
            self._unrecorded.extendleft(reversed(runs))
            self._bytes_per_round_trip = max(self._bytes_per_round_trip // 2, MIN_BYTES_PER_ROUND_TRIP)
            if dequeue is not None:
                self._unconfirmed.append(dequeue.repeated())
            self._back_off(error)
            return
        finally:
            self._requested -= requested
        if self._failures:
            log.info("broker_available")
        self._failures = 0
        self._bytes_per_round_trip = min(self._bytes_per_round_trip * 2, MAX_BYTES_PER_ROUND_TRIP)
        for finish, outcome in zip(finishes, replies.outcomes, strict=True):
            for run, part in finish.match(outcome):
                self._note_outcome(run, part)
        if dequeue is not None:
            if len(replies.taken) == requested:
                self._may_have_tasks = True
            elif announcements == self._announcements:
                self._may_have_tasks = False
            self._accept(replies.taken, now_s=connections.now_ns() // 1_000_000_000)
        refusals = [outcome for outcome in replies.outcomes if isinstance(outcome, BrokerUnavailable)]
        if refusals:
            self._back_off(refusals[0])

    def _back_off(self, error: Exception) -> None:
        """Wait before the next round trip, longer after each failure."""
        if not isinstance(error, BrokerUnavailable):
            log.error("round_trip_failed", exc_info=error)
        elif not self._failures:
            log.warning("broker_unavailable", error=error.detail)
        if isinstance(error, BrokerRefused):
            self._on_refused()
        if self._backoff is None:
            delay = delay_s(self._failures, first_s=0.1, most_s=5.0)
            self._backoff = self._loop.call_later(delay, self._end_backoff)
            self._failures += 1

    def _end_backoff(self) -> None:
        """Go on with the next round trip."""
        if self._backoff:
            self._backoff.cancel()
        self._backoff = None
        self._schedule()

    def _note_outcome(self, run: Run, outcome: Outcome | RunqyError) -> None:
        """Forget a task whose end is recorded, or whose lease is lost."""
        if isinstance(outcome, Outcome):
            if run.result and run.result.status not in (RunStatus.SUCCEEDED, RunStatus.REQUEUED):
                request_id = run.taken.message.headers.get(REQUEST_ID, "")
                report = {"task_id": run.task_id, "request_id": request_id, "error": run.result.error[:500]}
                log.info("task_not_done", outcome=outcome.value, **report)
        elif isinstance(outcome, BrokerUnavailable):
            self._unrecorded.append(run)  # Redis did not run it
            return
        elif isinstance(outcome, BrokerCommandRefused) and not run.finishes_alone:
            run.finishes_alone = True  # another task of its script call may be the cause
            self._unrecorded.append(run)
            return
        elif isinstance(outcome, LeaseLost):
            status = run.result.status.value if run.result else ""
            log.warning("finish_refused", task_id=run.task_id, queue=run.taken.lease.queue, status=status)
        else:
            log.error("finish_failed", task_id=run.task_id, queue=run.taken.lease.queue, error=outcome.detail)
        self._forget(run)

    def _forget(self, run: Run) -> None:
        del self.held[run.taken.lease.token]
        self._ended -= 1

    def _accept(self, tasks: Sequence[LeasedTask], *, now_s: int) -> None:
        """Hand tasks to the pool, except those that cannot run."""
        if not tasks:
            return
        self.last_take_s = now_s
        for taken in tasks:
            line, problem = encode_or_reject(taken, now_s=now_s)
            run = self.held[taken.lease.token] = Run(taken=taken, line=line)
            if problem:
                self.run_ended(run, RunResult(RunStatus.FAILED, problem))
            elif self._pool is None or not self._is_taking:
                self.run_ended(run, RunResult(RunStatus.REQUEUED))
            else:
                self._pool.submit(run)
        if self._ticks is None:
            self._ticks = self._loop.call_later(TICK_S, self._tick)
