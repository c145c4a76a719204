"""Turns signals that ask for an end into something a loop can wait for."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopAsked(Exception):
    """A signal asked for the end while something was being waited for."""


class StopSignals:
    """Counts the requests to stop: the first asks for an orderly end, the second for a quick one."""

    def __init__(self) -> None:
        self.count = 0
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a request, at most that long. Returns at once if there has been one; tells whether there was."""
        if not self.count:
            select.select([self._read_fd], [], [], timeout_s)
        return self.count > 0

    def sleep(self, timeout_s: float) -> None:
        """Wait that long. Raises StopAsked as soon as there is a request."""
        if self.wait(timeout_s):
            raise StopAsked

    def on_signal(self, _number: int, _frame: object) -> None:
        """Count a request; a handler of signals."""
        self.count += 1
        with contextlib.suppress(BlockingIOError):  # full of requests already
            os.write(self._write_fd, b"!")


@contextmanager
def caught_signals() -> Iterator[StopSignals]:
    """Catch the signals for a while."""
    stop = StopSignals()
    before = {number: signal.signal(number, stop.on_signal) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
