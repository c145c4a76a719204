"""Runs coroutines in tests, on event loops that show which callbacks hold them up."""

import asyncio
import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.redis_client import RedisTarget

T = TypeVar("T")

READ_EVERY_S = 0.002
READINGS = 20_000
RIVALS_SHARE = 0.05
"""Of the time of a callback: from then on other threads may have had the interpreter's lock when it wanted it."""


class Reading(NamedTuple):
    """Clocks at one time, in seconds."""

    wall: float
    thread: float
    """CPU time of the loop's thread."""
    process: float
    """CPU time of all threads."""
    runnable: float
    """How long the thread has waited for a CPU that others used."""
    collections: float
    """CPU time of garbage collections on the thread: they look through all that a test process has."""


class Clocks:
    """The clocks of the current thread, until `close`."""

    def __init__(self) -> None:
        self.thread_id = threading.get_ident()
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)  # proc_pid_schedstat(5)
        self._collections_s = self._collection_began_s = 0.0
        gc.callbacks.append(self._note_collection)

    def read(self, wall_s: float) -> Reading:
        """Return what the clocks show."""
        runnable_ns = int(os.pread(self._schedstat, 100, 0).split()[1])
        return Reading(wall_s, time.thread_time(), time.process_time(), runnable_ns / 1e9, self._collections_s)

    def close(self) -> None:
        """Stop counting garbage collections."""
        gc.callbacks.remove(self._note_collection)
        os.close(self._schedstat)

    def _note_collection(self, phase: str, _info: dict[str, int]) -> None:
        if threading.get_ident() != self.thread_id:
            return
        if phase == "start":
            self._collection_began_s = time.thread_time()
        else:
            self._collections_s += time.thread_time() - self._collection_began_s


BLOCKED_S = 0.5
"""From when on a callback that waits for anything but a CPU counts as slow."""


class WatchedLoop(asyncio.SelectorEventLoop):
    """An event loop in debug mode that distinguishes slow callbacks from a slow machine.

    In debug mode asyncio reads `loop.time()` before and after each callback and logs one that took long. That time
    includes what other processes and threads did meanwhile. The loop notes other clocks whenever its own is read.
    """

    def __init__(self) -> None:
        self._clocks: Clocks | None = None
        self._readings: deque[Reading] = deque(maxlen=READINGS)
        self._read_at_s = self._time_s = 0.0
        super().__init__()
        self.set_debug(True)

    def run_forever(self) -> None:
        """Run with the clocks of the thread that runs it."""
        self._clocks = Clocks()
        try:
            super().run_forever()
        finally:
            self._clocks.close()
            self._clocks = None
            self._readings.clear()

    def time(self) -> float:
        """Return the loop's time, having noted what other clocks show."""
        now_s = super().time()
        clocks = self._clocks
        if clocks is not None and clocks.thread_id == threading.get_ident():
            self._time_s = now_s
            if now_s - self._read_at_s >= READ_EVERY_S:
                self._readings.append(clocks.read(now_s))
                self._read_at_s = now_s
        return now_s

    def held_up_s(self, took_s: float) -> float:
        """Return how long the callback that ended just now, after `took_s`, kept the loop from all else.

        That is the CPU time that it used, and the time in which it waited for anything but a CPU. Where other threads
        computed meanwhile it waited for the interpreter's lock, perhaps: then only the CPU time counts.
        """
        assert self._clocks is not None
        began_s = self._time_s - took_s
        before = next(reading for reading in reversed(self._readings) if reading.wall <= began_s + 1e-6)
        after = self._clocks.read(super().time())
        spent = Reading(*(end - begin for begin, end in zip(before, after, strict=True)))
        has_rivals = spent.process - spent.thread > RIVALS_SHARE * spent.wall
        blocked_s = spent.wall - spent.runnable
        # Starting a process blocks too, longer on a busy machine.
        is_blocked = blocked_s >= BLOCKED_S and not has_rivals
        return (max(spent.thread, blocked_s) if is_blocked else spent.thread) - spent.collections


class SlowCallbackHandler(logging.Handler):
    """Collects the callbacks that held up a WatchedLoop for longer than its `slow_callback_duration`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a record, on the thread of the loop that has just executed a callback."""
        if not record.msg.startswith("Executing ") or not isinstance(record.args, tuple):
            return
        loop = asyncio.get_running_loop()
        if isinstance(loop, WatchedLoop):
            callback, took_s = record.args
            held_up_s = loop.held_up_s(float(took_s))  # type: ignore[arg-type]
            if held_up_s >= loop.slow_callback_duration:
                self.found.append(f"{held_up_s:.3f} s of {took_s:.3f} s: {callback}")


@contextmanager
def watch_callbacks() -> Iterator[list[str]]:
    """Return a list of the slow callbacks in the block, which must be empty at its end."""
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


def run_with_broker(target: RedisTarget, act: Callable[[AsyncBroker], Awaitable[T]], **options: Any) -> T:
    """Run a coroutine with a broker of its own."""

    async def main() -> T:
        broker = AsyncBroker.connect(target, **options)
        try:
            return await act(broker)
        finally:
            await broker.close()

    return run(main())


async def wait_until(is_so: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return as soon as a condition holds, letting the loop work meanwhile. Raise AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        await asyncio.sleep(0.005)
