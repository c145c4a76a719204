"""Run coroutines in tests, on event loops that report which callbacks block them."""

import asyncio
import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from runqy.broker.async_broker import AsyncBroker
from runqy.core.environment.connection_urls import RedisTarget
from tests.support.waiting import PATIENCE_S

T = TypeVar("T")

READ_EVERY_S = 0.002
READ_SURROUNDINGS_EVERY_S = 0.05
READINGS = 20_000
SLEEP_S = 0.25
"""Shorter sleeps are not counted. The disk, and threads that compute, may cause them on a busy machine."""
TEST = "test"
"""The name of tasks that run a test's own coroutine."""
TEST_SLEEP_S = 15.0
"""How long such a task may sleep, since tests use servers without the loop."""
START_OF_PROCESS_S = 0.5
"""How long a callback that starts a process may compute and sleep: the kernel copies the page tables of a test process,
which are large, and the callback waits until the process runs, which a busy machine delays."""


class Surroundings(NamedTuple):
    """Reasons other than the callback for which the loop's thread may wait."""

    runnable: dict[str, int]
    """The nanoseconds for which each thread has waited for a CPU that others used."""
    children: frozenset[str]
    """The processes that the loop's thread started."""
    stolen: float
    """The seconds for which the machine's CPUs have waited for those of its host."""


class Reading(NamedTuple):
    """Clocks at one time, in seconds."""

    wall: float
    thread: float
    """CPU time of the loop's thread."""
    process: float
    """CPU time of all threads."""
    runnable: float
    """The seconds for which the thread has waited for a CPU that others used."""
    collections: float
    """CPU time of garbage collections on the thread, which are long because a test process has many objects."""
    surroundings: Surroundings


class Clocks:
    """The clocks of the current thread, until `close`."""

    def __init__(self) -> None:
        self.thread_id = threading.get_ident()
        self._own = str(threading.get_native_id())
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)  # proc_pid_schedstat(5)
        self._children = os.open("/proc/thread-self/children", os.O_RDONLY)
        self._stat = os.open("/proc/stat", os.O_RDONLY)
        self._collections_s = self._collection_began_s = 0.0
        self._surroundings = self.look_around()
        self._looked_at_s = time.monotonic()
        gc.callbacks.append(self._note_collection)

    def read(self, wall_s: float) -> Reading:
        """Return the clocks' times. The surroundings may be older, since reading them takes longer."""
        if wall_s - self._looked_at_s >= READ_SURROUNDINGS_EVERY_S:
            self._surroundings, self._looked_at_s = self.look_around(), wall_s
        runnable_ns = _waited_ns(self._schedstat)
        return Reading(
            *(wall_s, time.thread_time(), time.process_time(), runnable_ns / 1e9, self._collections_s),
            surroundings=self._surroundings,
        )

    def look_around(self) -> Surroundings:
        runnable = {}
        for thread in os.listdir("/proc/self/task"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                descriptor = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
                try:
                    runnable[thread] = _waited_ns(descriptor)
                finally:
                    os.close(descriptor)
        del runnable[self._own]
        children = os.pread(self._children, 1 << 16, 0).decode().split()
        stolen_ticks = int(os.pread(self._stat, 200, 0).split()[8])
        stolen_s = stolen_ticks / os.sysconf("SC_CLK_TCK")
        return Surroundings(runnable, frozenset(children), stolen_s)

    def close(self) -> None:
        gc.callbacks.remove(self._note_collection)
        for descriptor in (self._schedstat, self._children, self._stat):
            os.close(descriptor)

    def _note_collection(self, phase: str, _info: dict[str, int]) -> None:
        if threading.get_ident() != self.thread_id:
            return
        if phase == "start":
            self._collection_began_s = time.thread_time()
        else:
            self._collections_s += time.thread_time() - self._collection_began_s


def _waited_ns(schedstat: int) -> int:
    return int(os.pread(schedstat, 100, 0).split()[1])


def held_up_s(before: Reading, after: Reading) -> tuple[float, float]:
    """Return how long a callback blocked its loop: the time that it computed, and the time that it slept.

    This excludes what a busy machine adds: waits for a CPU, and for threads of this process that computed or waited for
    a CPU meanwhile, perhaps with the interpreter's lock.
    """
    then, now = before.surroundings, after.surroundings
    computed_s = after.thread - before.thread
    slept_s = after.wall - before.wall - computed_s - (after.runnable - before.runnable)
    others_computed_s = after.process - before.process - computed_s
    others_waited_ns = sum(ns - then.runnable.get(thread, 0) for thread, ns in now.runnable.items())
    has_lost_track = not then.runnable.keys() <= now.runnable.keys()  # of a thread that ended meanwhile
    start_s = 0.0 if now.children <= then.children else START_OF_PROCESS_S
    excused_s = others_computed_s + others_waited_ns / 1e9 + (now.stolen - then.stolen) + start_s
    blocked_s = 0.0 if has_lost_track else max(slept_s - excused_s, 0)
    return max(computed_s - (after.collections - before.collections) - start_s, 0.0), blocked_s


class WatchedLoop(asyncio.SelectorEventLoop):
    """An event loop in debug mode that distinguishes slow callbacks from a slow machine.

    In debug mode asyncio reads `loop.time()` before and after each callback, and logs slow ones. This time includes
    what other processes and threads did meanwhile, so the loop reads other clocks whenever its own is read.
    """

    def __init__(self) -> None:
        self._clocks: Clocks | None = None
        self._readings: deque[Reading] = deque(maxlen=READINGS)
        self._read_at_s = self._time_s = 0.0
        super().__init__()
        self.set_debug(True)

    def get_debug(self) -> bool:
        # The debug mode of the loop is enough: handles, futures and tasks would each keep the stack that created them.
        return False

    def run_forever(self) -> None:
        """Run, with the clocks of the thread that calls this."""
        self._clocks = Clocks()
        try:
            super().run_forever()
        finally:
            self._clocks.close()
            self._clocks = None
            self._readings.clear()
            self._read_at_s = 0.0  # the next run begins with a reading, however soon it comes

    def time(self) -> float:
        """Return the loop's time, and store the times of the other clocks."""
        now_s = super().time()
        clocks = self._clocks
        if clocks is not None and clocks.thread_id == threading.get_ident():
            self._time_s = now_s
            if now_s - self._read_at_s >= READ_EVERY_S:
                self._readings.append(clocks.read(now_s))
                self._read_at_s = now_s
        return now_s

    def held_up_s(self, took_s: float) -> tuple[float, float]:
        """Return how long the callback that has just ended, after `took_s`, computed, and how long it slept."""
        assert self._clocks is not None
        began_s = self._time_s - took_s
        before = next(reading for reading in reversed(self._readings) if reading.wall <= began_s + 1e-6)
        after = self._clocks.read(super().time())
        return held_up_s(before, after._replace(surroundings=self._clocks.look_around()))


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test sets forward: what waits for the time in between is due."""

    _ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self._ahead_s

    async def step(self, seconds: float) -> None:
        """Set the clock forward, and run what is due."""
        self._ahead_s += seconds
        for _ in range(2):  # timers that are due run in the next iteration of the loop
            await asyncio.sleep(0)


class SlowCallbackHandler(logging.Handler):
    """Collect the callbacks that blocked a WatchedLoop for longer than its `slow_callback_duration`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Check a record. Called on the thread of the loop that has just executed a callback."""
        if not record.msg.startswith("Executing ") or not isinstance(record.args, tuple):
            return
        loop = asyncio.get_running_loop()
        if isinstance(loop, WatchedLoop):
            callback, took_s = record.args
            computed_s, slept_s = loop.held_up_s(float(took_s))  # type: ignore[arg-type]
            is_counted = slept_s >= (TEST_SLEEP_S if f"name='{TEST}'" in str(callback) else SLEEP_S)
            held_up_s = computed_s + (slept_s if is_counted else 0.0)
            if held_up_s >= loop.slow_callback_duration:
                self.found.append(f"{held_up_s:.3f} s of {took_s:.3f} s: {callback}")


@contextmanager
def watch_callbacks() -> Iterator[list[str]]:
    """Yield a list of the slow callbacks of the block. Raise AssertionError if it is not empty when the block ends."""
    handler, logger = SlowCallbackHandler(), logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        yield handler.found
    finally:
        logger.removeHandler(handler)
    assert not handler.found, "\n".join(["Callbacks held up an event loop:", *handler.found])


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a watched loop, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        return runner.run(main)


def run_in_steps(act: Callable[[SteppedLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop whose clock it sets forward itself."""
    loop = SteppedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(act(loop))


def name_task() -> None:
    """Mark the current task as one that runs a test's own coroutine."""
    if (task := asyncio.current_task()) is not None:
        task.set_name(TEST)


def run_with_broker(target: RedisTarget, act: Callable[[AsyncBroker], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        name_task()
        broker = AsyncBroker.connect(target, **options)
        try:
            return await act(broker)
        finally:
            await broker.close()

    return run(main())


async def wait_until(is_so: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Return as soon as a condition holds, without blocking the loop. Raise AssertionError if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        await asyncio.sleep(0.005)
