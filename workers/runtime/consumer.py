"""Dequeues tasks while slots are free, hands them to the pool and records how they ended, in as few round trips as
possible."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import structlog

from runqy import clock
from runqy.broker.consuming import TakeOrder
from runqy.broker.finishing import Outcome
from runqy.broker.holding import Hold, Taken
from runqy.broker.leasing import Extension
from runqy.broker.message import REQUEST_ID
from runqy.broker.operation import Request
from runqy.broker.timing import POLL_S
from runqy.errors import BrokerRefused, BrokerUnavailable, LeaseLost, RunqyError
from workers.runtime.backoff import delay_s
from workers.runtime.concurrency import wait_any
from workers.runtime.dequeue import ConsumeConfig, Replies, encode_or_reject, finish_and_dequeue
from workers.runtime.logs import secrets
from workers.runtime.pool import Pool
from workers.runtime.redis_connections import RedisConnections
from workers.runtime.runs import Run, RunResult, RunStatus, finish_request

TICK_S = 0.2
"""How exactly timeouts are kept."""
FINISHES_PER_ROUND_TRIP = 200

log = structlog.get_logger()


class Consumer:
    """The tasks of one queue that this worker holds."""

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
        self.held: dict[Hold, Run] = {}
        self.emptied = asyncio.Event()
        """Set while no task is held and no round trip under way."""
        self.emptied.set()
        self._connections = connections
        self._on_pool_change = on_pool_change
        self._on_refused = on_refused
        self._pool: Pool | None = None
        self._loop = asyncio.get_running_loop()
        self._finishing: dict[Hold, tuple[Run, RunResult]] = {}
        self._unconfirmed: TakeOrder | None = None
        """A dequeue whose reply was lost; it is repeated until its outcome is known."""
        self._is_taking = False
        self._may_have_tasks = True
        """Redis announced a task, or the last dequeue got all it asked for."""
        self._is_due = asyncio.Event()
        """Set when something happened that a round trip may be needed for."""
        self._is_reconnected = asyncio.Event()
        self._failures = 0
        self._ticks: asyncio.Handle | None = None
        self._polls: asyncio.Handle = self._loop.call_soon(self._poll)
        self._running = self._loop.create_task(self._run())

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
        self._is_reconnected.set()

    def stop_taking(self) -> None:
        """Take no more tasks; those not started go back."""
        self._is_taking = False
        if self._pool:
            self._pool.requeue_unstarted()

    async def close(self) -> None:
        """End the loop and the timers."""
        self._polls.cancel()
        if self._ticks:
            self._ticks.cancel()
        self._running.cancel()
        await asyncio.wait([self._running])

    def wake(self) -> None:
        """Look for tasks now."""
        self._may_have_tasks = True
        self._is_due.set()

    def cancel_task(self, task_id: str) -> None:
        """End the runs of a task that was canceled."""
        for run in [run for run in self.held.values() if run.task_id == task_id]:
            self._end_early(run, RunResult(RunStatus.CANCELED))

    def note_extension(self, extension: Extension) -> None:
        """End the runs whose leases were lost or whose tasks were canceled."""
        for hold in extension.lost:
            if hold in self.held and hold not in self._finishing:
                log.warning("lease_lost", task_id=hold.task_id, queue=hold.queue)
                self._end_early(self.held[hold], RunResult(RunStatus.LOST))
        for hold in extension.canceled:
            if hold in self.held:
                self._end_early(self.held[hold], RunResult(RunStatus.CANCELED))

    def run_started(self, run: Run) -> None:
        """Start the run's timeout. See PoolOwner."""
        run.start(now_ns=self._connections.now_ns())

    def run_ended(self, run: Run, result: RunResult) -> None:
        """Record how a run ended with the next round trip. See PoolOwner."""
        hold = run.taken.hold
        if result.status is RunStatus.LOST:
            self._forget(hold)
        elif hold in self.held:
            self._finishing.setdefault(hold, (run, result))
        self._is_due.set()

    def pool_changed(self) -> None:
        """Use a pool that became ready. See PoolOwner."""
        self._on_pool_change()
        self._is_due.set()

    def _end_early(self, run: Run, forced_result: RunResult) -> None:
        if self._pool and run.taken.hold not in self._finishing:
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

    async def _run(self) -> None:
        """Make a round trip whenever there is a reason for one."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            finishing = list(islice(self._finishing.values(), FINISHES_PER_ROUND_TRIP))
            order = self._unconfirmed or self._plan_dequeue()
            if not finishing and order is None:
                if not self.held:
                    self.emptied.set()
                continue
            self.emptied.clear()
            self._unconfirmed = order
            error: Exception | None
            try:
                error = await self._make_round_trip(finishing, order)
            except BrokerUnavailable as raised:
                error = raised
            except Exception as raised:  # the supervisor of a loop: no bug may end it while tasks are held
                log.exception("round_trip_failed")
                error = raised
            self._is_due.set()
            if error is not None:
                await self._back_off(error)

    async def _make_round_trip(
        self, finishing: Sequence[tuple[Run, RunResult]], order: TakeOrder | None
    ) -> BrokerUnavailable | None:
        """Record and dequeue; return the error for which some finishes have to be repeated."""
        connections = self._connections
        now_ns = connections.now_ns()
        finishes = [self._finish_request(run, result, now_ns) for run, result in finishing]
        replies: Replies = await connections.tasks.run(finish_and_dequeue(finishes, order, now_ns=now_ns))
        if self._failures:
            log.info("broker_available")
        self._failures = 0
        self._unconfirmed = None
        for (run, result), outcome in zip(finishing, replies.outcomes, strict=True):
            self._note_outcome(run, result, outcome)
        if order is not None:
            self._may_have_tasks = self._may_have_tasks or len(replies.taken) == len(order.owners)
            self._accept(replies.taken, now_s=connections.now_ns() // 1_000_000_000)
        return next((outcome for outcome in replies.outcomes if isinstance(outcome, BrokerUnavailable)), None)

    def _finish_request(self, run: Run, result: RunResult, now_ns: int) -> Request[Outcome]:
        if result.error:
            result = replace(result, error=secrets.redact(result.error))
        return finish_request(run, result, self.config.policy, now_ns=now_ns)

    def _plan_dequeue(self) -> TakeOrder | None:
        """Ask for as many tasks as there are free slots, if there may be any."""
        if not (self._may_have_tasks and self._is_taking and self._pool and self._pool.is_ready):
            return None
        in_use = len(self.held) - len(self._finishing)
        free = min(self.config.concurrency, self._pool.capacity) - in_use
        if free <= 0:
            return None
        self._may_have_tasks = False
        return self.config.dequeue_request(free)

    async def _back_off(self, error: Exception) -> None:
        """Wait before the next attempt: finishes are repeated, and a dequeue is with its owner tokens."""
        if self._unconfirmed is not None:
            self._unconfirmed = self._unconfirmed.repeated()
        if isinstance(error, BrokerUnavailable) and not self._failures:
            log.warning("broker_unavailable", error=error.detail)
        if isinstance(error, BrokerRefused):
            self._on_refused()
        self._is_reconnected.clear()
        self._failures += 1
        await wait_any(self._is_reconnected, timeout_s=delay_s(self._failures - 1, first_s=0.1, most_s=5.0))

    def _note_outcome(self, run: Run, result: RunResult, outcome: Outcome | RunqyError) -> None:
        """Forget a task whose end is recorded, or whose lease is lost."""
        hold = run.taken.hold
        if isinstance(outcome, BrokerUnavailable):
            return  # Redis did not run it; it is repeated
        if isinstance(outcome, LeaseLost):
            log.warning("finish_refused", task_id=hold.task_id, queue=hold.queue, status=result.status.value)
        elif isinstance(outcome, RunqyError):
            log.error("finish_failed", task_id=hold.task_id, queue=hold.queue, error=outcome.detail)
        elif result.status not in (RunStatus.SUCCEEDED, RunStatus.REQUEUED):
            request_id = run.taken.message.headers.get(REQUEST_ID, "")
            report = {"task_id": hold.task_id, "request_id": request_id, "error": result.error[:500]}
            log.info("task_not_done", outcome=outcome.value, **report)
        self._forget(hold)

    def _forget(self, hold: Hold) -> None:
        self.held.pop(hold, None)
        self._finishing.pop(hold, None)

    def _accept(self, tasks: Sequence[Taken], *, now_s: int) -> None:
        """Hand tasks to the pool, except those that cannot run."""
        if not tasks:
            return
        self.last_take_s = now_s
        for taken in tasks:
            line, problem = encode_or_reject(taken, now_s=now_s)
            run = self.held[taken.hold] = Run(taken=taken, line=line)
            if problem:
                self.run_ended(run, RunResult(RunStatus.FAILED, problem))
            elif self._pool is None or not self._is_taking:
                self.run_ended(run, RunResult(RunStatus.REQUEUED))
            else:
                self._pool.submit(run)
        if self._ticks is None:
            self._ticks = self._loop.call_later(TICK_S, self._tick)
