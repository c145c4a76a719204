"""SIGINT, SIGTERM and SIGHUP, made into events that a loop can wait for."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A stop signal arrived during a wait."""


class StopSignals:
    """Counts stop signals: the first requests an orderly shutdown, the second a quick one."""

    def __init__(self) -> None:
        self.count = 0
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a stop signal, at most `timeout_s`. Return whether one has arrived, now or before."""
        if not self.count:
            # A pipe, because Python restarts a sleep that a signal interrupts (PEP 475).
            select.select([self._read_fd], [], [], timeout_s)
        return self.count > 0

    def sleep(self, timeout_s: float) -> None:
        """Sleep. Raise Interrupted as soon as a stop signal arrives."""
        if self.wait(timeout_s):
            raise Interrupted

    def on_signal(self, _number: int, _frame: object) -> None:
        self.count += 1
        with contextlib.suppress(BlockingIOError):  # the pipe is full of earlier signals
            os.write(self._write_fd, b"!")


@contextmanager
def catch_signals() -> Iterator[StopSignals]:
    stop = StopSignals()
    before = {number: signal.signal(number, stop.on_signal) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
