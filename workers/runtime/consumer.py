"""Takes tasks while slots are free, hands them to the pool and records how they ended, in as few trips as possible."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from runqy import clock
from runqy.broker.consuming import TakeOrder
from runqy.broker.finishing import Outcome
from runqy.broker.holding import Hold, Taken
from runqy.broker.leasing import Extension
from runqy.broker.message import REQUEST_ID
from runqy.broker.timing import POLL_S
from runqy.errors import BrokerUnavailable, LeaseLost, RunqyError
from workers.runtime.backoff import delay_s
from workers.runtime.exchange import Exchange
from workers.runtime.logs import secrets
from workers.runtime.pool import Pool
from workers.runtime.runs import Ending, Fate, Run
from workers.runtime.settling import settle
from workers.runtime.taking import Terms, line_of
from workers.runtime.trips import Trip, make_trip

TICK_S = 0.2
"""How exactly timeouts are kept."""
SETTLEMENTS_A_TRIP = 200

log = structlog.get_logger()


class Consumer:
    """The tasks of one queue in this worker's hands."""

    def __init__(
        self,
        exchange: Exchange,
        terms: Terms,
        *,
        concurrency: int,
        wake_token: str,
        on_pool_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.terms = terms
        self.last_take_s: int | None = None
        self.held: dict[Hold, Run] = {}
        self.emptied = asyncio.Event()
        """Set while nothing is held, nothing is to be recorded and no take is under way."""
        self.emptied.set()
        self._exchange = exchange
        self._concurrency = concurrency
        self._wake_token = wake_token
        self._on_pool_change = on_pool_change
        self._pool: Pool | None = None
        self._loop = asyncio.get_running_loop()
        self._settling: dict[Hold, tuple[Run, Ending]] = {}
        self._unanswered: TakeOrder | None = None
        """A take whose reply was lost; it is repeated until its outcome is known."""
        self._is_taking = False
        self._is_away = False
        self._looks = True
        """There may be tasks: somebody said so, or the last take got all it asked for."""
        self._failures = 0
        self._pause: asyncio.TimerHandle | None = None
        self._pumps_soon = False
        self._next_poll_s = 0.0
        self._ticks: asyncio.Handle = self._loop.call_soon(self._tick)

    def begin(self, pool: Pool) -> None:
        """Take tasks from now on, whenever the pool is ready."""
        self._pool = pool
        self._is_taking = True
        self.wake()

    def resume(self) -> None:
        """Take tasks again, if there is a pool to run them."""
        if self._pool:
            self.begin(self._pool)

    def stop_taking(self) -> None:
        """Take no more tasks; those not started go back."""
        self._is_taking = False
        if self._pool:
            self._pool.return_unstarted()

    def close(self) -> None:
        """End the timers."""
        self._ticks.cancel()
        if self._pause:
            self._pause.cancel()

    def wake(self) -> None:
        """Look for tasks now."""
        self._looks = True
        self._pump_soon()

    def cancel_task(self, task_id: str) -> None:
        """End the runs of a task that somebody cancelled."""
        for run in [run for run in self.held.values() if run.task_id == task_id]:
            self._end_early(run, Ending(Fate.CANCELED))

    def note_extension(self, extension: Extension) -> None:
        """End what was lost or cancelled meanwhile."""
        for hold in extension.lost:
            if hold in self.held and hold not in self._settling:
                log.warning("lease_lost", task_id=hold.task_id, queue=hold.queue)
                self._end_early(self.held[hold], Ending(Fate.LOST))
        for hold in extension.canceled:
            if hold in self.held:
                self._end_early(self.held[hold], Ending(Fate.CANCELED))

    def run_started(self, run: Run) -> None:
        """Let the run's time begin. See PoolOwner."""
        run.start(now_ns=self._exchange.broker.now_ns())

    def run_ended(self, run: Run, ending: Ending) -> None:
        """Record how a run ended with the next trip. See PoolOwner."""
        hold = run.taken.hold
        if ending.fate is Fate.LOST:
            self._let_go(hold)
        elif hold in self.held:
            self._settling.setdefault(hold, (run, ending))
        self._pump_soon()

    def pool_changed(self) -> None:
        """Use a pool that became ready. See PoolOwner."""
        self._on_pool_change()
        self._pump_soon()

    def _end_early(self, run: Run, verdict: Ending) -> None:
        if self._pool and run.taken.hold not in self._settling:
            self._pool.end_run(run, verdict)

    def _tick(self) -> None:
        """End the runs whose time is over, and look once a poll, for producers that wake nobody."""
        self._ticks = self._loop.call_later(TICK_S, self._tick)
        now_s = clock.monotonic_s()
        if self._pool:
            self._pool.check(now_s)
        if now_s >= self._next_poll_s:
            self._next_poll_s = now_s + delay_s(0, first_s=POLL_S, most_s=POLL_S)
            self.wake()

    def _pump_soon(self) -> None:
        """Make a trip once all that is known now has been noted."""
        if not self._pumps_soon:
            self._pumps_soon = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Make a trip to Redis if there is a reason and none is under way."""
        self._pumps_soon = False
        if self._is_away or self._pause:
            return
        settling = list(self._settling.values())[:SETTLEMENTS_A_TRIP]
        order = self._unanswered or self._next_order()
        if not settling and order is None:
            if not self.held:
                self.emptied.set()
            return
        self.emptied.clear()
        self._is_away = True
        self._unanswered = order
        trip = make_trip(order, [self._settlement(run, ending) for run, ending in settling])
        self._exchange.submit(trip, lambda value, error: self._returned(order, settling, value, error))

    def _settlement(self, run: Run, ending: Ending) -> Any:
        if ending.error:
            ending = replace(ending, error=secrets.scrub(ending.error))
        return settle(run, ending, self.terms.policy, now_ns=self._exchange.broker.now_ns())

    def _next_order(self) -> TakeOrder | None:
        """Ask for as many tasks as there are free slots, if there may be any."""
        if not (self._looks and self._is_taking and self._pool and self._pool.is_ready):
            return None
        in_hand = len(self.held) - len(self._settling)
        free = min(self._concurrency, self._pool.capacity) - in_hand
        if free <= 0:
            return None
        self._looks = False
        return self.terms.order(free, wake_token=self._wake_token)

    def _returned(
        self,
        order: TakeOrder | None,
        settling: Sequence[tuple[Run, Ending]],
        trip: Trip | None,
        error: Exception | None,
    ) -> None:
        """Go on after a trip: note what was recorded, hand out what was taken."""
        self._is_away = False
        if trip is None:
            self._wait_after(error)
            return
        if self._failures:
            log.info("broker_available")
        self._failures = 0
        self._unanswered = None
        for (run, ending), outcome in zip(settling, trip.outcomes, strict=True):
            self._note_outcome(run, ending, outcome)
        if order is not None:
            self._looks = self._looks or len(trip.taken) == len(order.owners)
            if trip.taken:
                self.last_take_s = self._exchange.broker.now_s()
            for taken in trip.taken:
                self._accept(taken)
        refusals = [outcome for outcome in trip.outcomes if isinstance(outcome, BrokerUnavailable)]
        if refusals:
            self._wait_after(refusals[0])
        self._pump_soon()

    def _wait_after(self, error: Exception | None) -> None:
        """Try again later: what was to be recorded still is, and a take is repeated with its tokens."""
        if self._unanswered is not None:
            self._unanswered = self._unanswered.repeated()
        if isinstance(error, BrokerUnavailable):
            if not self._failures:
                log.warning("broker_unavailable", error=error.detail)
        else:
            log.error("trip_failed", exc_info=error)
        self._pause = self._loop.call_later(delay_s(self._failures, first_s=0.1, most_s=5.0), self._resume)
        self._failures += 1

    def _resume(self) -> None:
        self._pause = None
        self._pump()

    def _note_outcome(self, run: Run, ending: Ending, outcome: Outcome | RunqyError) -> None:
        """Let go of a task whose end is recorded, or that is not ours any more."""
        hold = run.taken.hold
        if isinstance(outcome, BrokerUnavailable):
            return  # Redis did not run it; it stays among those to be recorded
        if isinstance(outcome, LeaseLost):
            log.warning("finish_refused", task_id=hold.task_id, queue=hold.queue, fate=ending.fate.value)
        elif isinstance(outcome, RunqyError):
            log.error("finish_failed", task_id=hold.task_id, queue=hold.queue, error=outcome.detail)
        elif ending.fate not in (Fate.SUCCEEDED, Fate.GIVEN_BACK):
            request_id = run.taken.message.headers.get(REQUEST_ID, "")
            report = {"task_id": hold.task_id, "request_id": request_id, "error": ending.error[:500]}
            log.info("task_not_done", outcome=outcome.value, **report)
        self._let_go(hold)

    def _let_go(self, hold: Hold) -> None:
        self.held.pop(hold, None)
        self._settling.pop(hold, None)

    def _accept(self, taken: Taken) -> None:
        """Hand a task to the pool, unless it can't be run."""
        line, problem = line_of(taken, now_s=self._exchange.broker.now_s())
        run = self.held[taken.hold] = Run(taken=taken, line=line)
        if problem:
            self.run_ended(run, Ending(Fate.FAILED, problem))
        elif self._pool is None or not self._is_taking:
            self.run_ended(run, Ending(Fate.GIVEN_BACK))
        else:
            self._pool.give(run)
