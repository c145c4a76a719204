"""The worker's log on stderr, with the output of children, without secrets. It is JSON except on a terminal."""

import logging
import sys
from collections import deque
from collections.abc import Callable
from typing import TextIO

import structlog

from runqy import clock
from workers.runtime.pipes import LineSplitter, LongLine
from workers.runtime.redaction import secrets


def configure_logging(stream: TextIO | None = None) -> None:
    stream = stream or sys.stderr
    is_terminal = stream.isatty()
    renderer = structlog.dev.ConsoleRenderer(colors=True) if is_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_terminal else "iso", utc=not is_terminal),
            structlog.processors.format_exc_info,
            # After format_exc_info, which adds the text of the traceback.
            secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


LINE_MAX_BYTES = 8 << 10
"""Longer lines are truncated."""
LINE_READ_BYTES = 64 << 10
"""Longer lines are replaced by a note."""
LINES_PER_SECOND = 200
BURST_LINES = 1_000
TAIL_LINES = 20

log = structlog.get_logger()


class TokenBucket:
    """Limits the rate of lines. Up to `limit` lines may come at once."""

    def __init__(self, *, rate: float, limit: float, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._rate, self._limit, self._now_s = rate, limit, now_s
        self._tokens, self._checked_s = limit, now_s()

    def acquire(self) -> bool:
        """Take a token; return whether there was one."""
        now_s = self._now_s()
        self._tokens = min(self._limit, self._tokens + (now_s - self._checked_s) * self._rate)
        self._checked_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class ChildLog:
    """Logs the output of one child at a limited rate, and keeps its last lines."""

    def __init__(self, *, pid: int) -> None:
        self._log = log.bind(child=pid)
        self._splitter = LineSplitter(LINE_READ_BYTES)
        self._bucket = TokenBucket(rate=LINES_PER_SECOND, limit=BURST_LINES)
        self._suppressed = 0
        self._is_muted = False
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def mute(self) -> None:
        """Log and keep nothing from now on. What tasks of a queue with hidden payloads print may contain these."""
        self._is_muted = True
        self._tail.clear()

    def feed(self, data: bytes) -> None:
        """Log the complete lines of what the child wrote to stderr."""
        for line in self._splitter.feed(data):
            self.add(line)

    def end(self) -> None:
        """Log the last line of stderr if it is unterminated."""
        if line := self._splitter.rest():
            self.add(line)

    def add(self, line: object) -> None:
        if self._is_muted:
            return
        if not self._bucket.acquire():
            self._suppressed += 1
            return
        text = _truncate(secrets.redact(_decode(line)).rstrip())
        if text:
            self._tail.append(text)
            self._log.info("child_output", line=text)
        if self._suppressed:
            self._log.warning("child_output_cut", lines=self._suppressed)
            self._suppressed = 0

    @property
    def tail(self) -> str:
        return "\n".join(self._tail)


def _decode(line: object) -> str:
    if isinstance(line, LongLine) or (isinstance(line, bytes) and len(line) > LINE_READ_BYTES):
        return "[line too long to log]"
    return line.decode(errors="replace") if isinstance(line, bytes) else str(line)


def _truncate(text: str) -> str:
    """Truncate a long text, with a note. It must be redacted before: the rest of a cut secret is not recognized."""
    data = text.encode()
    if len(data) <= LINE_MAX_BYTES:
        return text
    return f"{data[:LINE_MAX_BYTES].decode(errors='ignore')} [truncated, {len(data)} bytes]"
