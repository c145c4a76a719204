"""Logs what a child prints, limited in rate and length, and keeps the last lines for error messages."""

from collections import deque
from collections.abc import Callable

import structlog

from runqy import clock
from workers.runtime.logs import secrets
from workers.runtime.pipes import TOO_LONG, LineSplitter

LINE_MAX_BYTES = 8 << 10
"""How much of a line is logged."""
LINE_READ_BYTES = 1 << 20
"""A longer line is not logged at all."""
LINES_A_SECOND = 200
LINES_AT_ONCE = 1_000
TAIL_LINES = 20

log = structlog.get_logger()


class TokenBucket:
    """A number of lines that grows with time up to a limit."""

    def __init__(self, *, rate: float, limit: float, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._rate, self._limit, self._now_s = rate, limit, now_s
        self._left, self._seen_s = limit, now_s()

    def take(self) -> bool:
        """Take one, if there is one."""
        now_s = self._now_s()
        self._left = min(self._limit, self._left + (now_s - self._seen_s) * self._rate)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class ChildLog:
    """The output of one child."""

    def __init__(self, *, pid: int) -> None:
        self._log = log.bind(child=pid)
        self._splitter = LineSplitter(LINE_READ_BYTES)
        self._bucket = TokenBucket(rate=LINES_A_SECOND, limit=LINES_AT_ONCE)
        self._suppressed = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> None:
        """Log the lines in what the child wrote to stderr."""
        for line in self._splitter.feed(data):
            self.add("[a line too long to be logged]" if line is TOO_LONG else line)

    def end(self) -> None:
        """Log what the child wrote to stderr last, without ending its line."""
        if line := self._splitter.rest():
            self.add(line)

    def add(self, line: object) -> None:
        """Log one line, unless there were too many."""
        if not self._bucket.take():
            self._suppressed += 1
            return
        text = secrets.redact(_rendered(line).rstrip() if isinstance(line, bytes) else str(line))
        if text:
            self._tail.append(text)
            self._log.info("child_output", line=text)
        if self._suppressed:
            self._log.warning("child_output_cut", lines=self._suppressed)
            self._suppressed = 0

    @property
    def tail(self) -> str:
        """Return the last lines."""
        return "\n".join(self._tail)


def _rendered(line: bytes) -> str:
    """Return a line as text; of a long one its beginning, and that it was cut."""
    if len(line) <= LINE_MAX_BYTES:
        return line.decode(errors="replace")
    return f"{line[:LINE_MAX_BYTES].decode(errors='replace')} [cut, {len(line)} bytes]"
