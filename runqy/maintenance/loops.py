"""Run each duty periodically until the process stops: those of Redis on the event loop, others on threads of a pool.

At rest there is one thread for all of them, and under load one for each that is running: a duty that hangs, or whose
database does, makes no other one wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from django.db import connections

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.pubsub import DUTY_CHANNELS, Subscriber
from runqy.core.concurrency.event_loop import DeadlineExceeded, LoopStopped, loop_thread
from runqy.core.concurrency.threads import ThreadPool, run_in_thread
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable, RunqyError
from runqy.maintenance import wakeups
from runqy.maintenance.base import Duty, RedisDuty

CLOCK_CHECK_S = 5.0
"""How old a measurement of Redis's clock may be. With a wrong clock, leases seem to have expired."""
IDLE_INTERVAL_S = 4.0
"""The longest interval of a duty that finds nothing to do: what nobody tells it of is late by less than 5 s."""
THREAD_IDLE_S = 10.0
START_S = 10.0
CANCEL_S = 1.0


class ClockCheck:
    """Measures Redis's clock before a broker is used. All duties share one, and a measurement in progress."""

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool
        self._measured_at = float("-inf")
        self._measuring: asyncio.Task[str] | None = None

    async def ensure(self, broker: Broker) -> None:
        """Measure the clock, unless that was done within CLOCK_CHECK_S and no clock has been set. Raise
        BrokerUnavailable.
        """
        if clock.monotonic_s() - self._measured_at < CLOCK_CHECK_S and not broker.has_clock_parted:
            return
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.get_running_loop().create_task(self._measure(broker))
        if reason := await asyncio.shield(self._measuring):
            raise BrokerUnavailable(reason=reason)

    async def _measure(self, broker: Broker) -> str:
        """Return why the clock could not be measured; each duty raises an error of its own."""
        try:
            await run_in_thread(broker.measure_clock, self._pool.start)
        except BrokerUnavailable as error:
            return error.reason
        self._measured_at = clock.monotonic_s()
        return ""


class DutyLoop:
    """Runs one duty. A tick that fails is logged and repeated. A bug in one duty does not stop the others."""

    def __init__(self, duty: Duty, get_broker: Callable[[], Broker], clock_check: ClockCheck, pool: ThreadPool) -> None:
        self._duty = duty
        self._get_broker = get_broker
        self._clock_check = clock_check
        self._pool = pool
        self._failures = FailureLog("duty_resumed", duty=duty.name)
        self._interval_s = duty.interval_s
        self._ended_at = float("-inf")
        self._is_due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopping = False

    async def run(self) -> None:
        """Run ticks until `stop`."""
        while not self._is_stopping:
            self._is_due.clear()  # before the tick: what it is told meanwhile it may not see
            is_idle = await self._run_tick()
            self._ended_at = clock.monotonic_s()
            self._interval_s = self._next_interval_s(is_idle=is_idle)
            if not self._is_stopping:
                self._set_timer(self._duty.interval_s if self._is_due.is_set() else self._interval_s)
                self._is_due.clear()
                await self._is_due.wait()

    def wake(self) -> None:
        """Let the next tick begin `interval_s` after the last one, also if that found nothing to do."""
        if self._timer is None:  # a tick is running
            self._is_due.set()
        elif self._interval_s > self._duty.interval_s:
            self._interval_s = self._duty.interval_s
            self._set_timer(max(self._ended_at + self._interval_s - clock.monotonic_s(), 0))

    def stop(self) -> None:
        """Begin no more ticks."""
        self._is_stopping = True
        self._set_timer(0)

    def _set_timer(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._fall_due)

    def _fall_due(self) -> None:
        self._timer = None
        self._is_due.set()

    def _next_interval_s(self, *, is_idle: bool) -> float:
        if not is_idle:
            return self._duty.interval_s
        return max(min(self._interval_s * 2, IDLE_INTERVAL_S), self._duty.interval_s)

    async def _run_tick(self) -> bool:
        """Return whether the duty had nothing to do."""
        try:
            broker = self._get_broker()
            await self._clock_check.ensure(broker)
            if isinstance(self._duty, RedisDuty):
                found = await self._duty.run(broker)
            else:
                found = await run_in_thread(partial(self._duty.run_tick, broker), self._pool.start)
        except RunqyError as error:
            self._failures.record("duty_hindered", key=str(error), code=error.code, error=str(error))
        except Exception as error:  # noqa: BLE001 (a bug in one duty must not end its loop)
            self._failures.record("duty_failed", key=repr(error), exc_info=error)
        else:
            self._failures.record_success()
            return found is False
        return False


class DutyRunner:
    """The loops of all duties, on the process's event loop. Other processes wake them by a channel of Redis."""

    def __init__(self, duties: Sequence[Duty], get_broker: Callable[[], Broker]) -> None:
        self._duties = duties
        self._get_broker = get_broker
        self._loops: dict[str, list[DutyLoop]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriber: Subscriber | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPool("runqy-duties", idle_s=THREAD_IDLE_S, on_end=connections.close_all)
        clock_check = ClockCheck(pool)
        for duty in self._duties:
            duty_loop = DutyLoop(duty, self._get_broker, clock_check, pool)
            self._loops.setdefault(duty.name, []).append(duty_loop)
            self._tasks.append(loop.create_task(duty_loop.run(), name=duty.name))
        self._subscriber = Subscriber(
            self._get_broker().target, on_message=lambda _, name: self._wake(name.decode()), on_gap=self._wake_all
        )
        await self._subscriber.start()
        wakeups.listen(lambda name: loop.call_soon_threadsafe(self._wake, name))
        self._tasks.append(loop.create_task(self._subscribe(self._subscriber), name="subscription"))

    async def stop(self, grace_s: float) -> None:
        """Wait for ticks that run, at most `grace_s`.

        A tick may be left unfinished: each step is a script of its own, and the next process continues.
        """
        wakeups.listen(None)
        for loop in self._all_loops():
            loop.stop()
        _, running = await asyncio.wait(self._tasks, timeout=grace_s)
        for task in running:
            task.cancel()
        if self._subscriber is not None:
            await self._subscriber.close()

    async def _subscribe(self, subscriber: Subscriber) -> None:
        await subscriber.subscribe(DUTY_CHANNELS)

    def _wake(self, name: str) -> None:
        for loop in self._loops.get(name, ()):
            loop.wake()

    def _wake_all(self) -> None:
        for loop in self._all_loops():
            loop.wake()

    def _all_loops(self) -> list[DutyLoop]:
        return [loop for loops in self._loops.values() for loop in loops]


def run_duties(
    duties: Sequence[Duty], get_broker: Callable[[], Broker], wait: Callable[[], object], *, grace_s: float = 5.0
) -> None:
    """Run duties until `wait` returns. Then wait at most `grace_s` for their ticks."""
    runner = DutyRunner(duties, get_broker)
    loop_thread().run(runner.start(), START_S)
    wait()
    with suppress(DeadlineExceeded, LoopStopped):  # one blocks the event loop
        loop_thread().run(runner.stop(grace_s), grace_s + CANCEL_S)
