"""The worker's log on stderr: its format, the output of children and the texts of errors, all without secrets."""

import logging.config
import re
from collections import deque
from collections.abc import Callable
from typing import Required, TypedDict

import structlog

from runqy import clock
from runqy.broker.message import clean_text
from runqy.core.telemetry.logs import configure_structlog, dict_config
from workers.runtime.pipes import LineSplitter, LongLine
from workers.runtime.redaction import secrets

LINE_MAX_BYTES = 8 << 10
"""Longer lines are truncated."""
LINE_READ_BYTES = 64 << 10
"""Longer lines are replaced by a note."""
LINES_PER_SECOND = 200
BURST_LINES = 1_000
TAIL_LINES = 20
SUMMARY_MAX_CHARS = 500
_TRACEBACK = "Traceback (most recent call last):"
_GROUP_MARGIN = re.compile(r"^ *[|+] ?", re.MULTILINE)
_UNINDENTED_LINE = re.compile(r"^\S.*$", re.MULTILINE)

log = structlog.get_logger()


def configure_logging() -> None:
    """Log like the server does, but without secrets, those in libraries' lines included."""
    configure_structlog()
    logging.config.dictConfig(dict_config("info", redact=secrets))


class TokenBucket:
    """Limits a rate: of lines, or of bytes. Up to `limit` may come at once."""

    def __init__(self, *, rate: float, limit: float, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._rate, self._limit, self._now_s = rate, limit, now_s
        self._tokens, self._checked_s = limit, now_s()

    @property
    def available(self) -> int:
        now_s = self._now_s()
        self._tokens = min(self._limit, self._tokens + (now_s - self._checked_s) * self._rate)
        self._checked_s = now_s
        return int(self._tokens)

    def spend(self, count: int) -> None:
        self._tokens = max(self._tokens - count, 0)

    def acquire(self) -> bool:
        has_one = self.available > 0
        self.spend(has_one)
        return has_one


class ChildLog:
    """Logs the output of one child at a limited rate, and keeps its last lines."""

    def __init__(self, *, pid: int) -> None:
        self._log = log.bind(child=pid)
        self._splitter = LineSplitter(LINE_READ_BYTES)
        self._bucket = TokenBucket(rate=LINES_PER_SECOND, limit=BURST_LINES)
        self._suppressed = 0
        self._is_muted = False
        self._tail: deque[object] = deque(maxlen=TAIL_LINES)

    def mute(self) -> None:
        """Log and keep nothing from now on. What tasks of a queue with hidden payloads print may contain these."""
        self._is_muted = True
        self._tail.clear()

    def forget(self) -> None:
        self._tail.clear()

    def feed(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            self.add(line)

    def end(self) -> None:
        """Log the last line of stderr if it is unterminated."""
        if line := self._splitter.rest():
            self.add(line)

    def add(self, line: object) -> None:
        if self._is_muted or (isinstance(line, bytes) and not line.strip()):
            return
        self._tail.append(line)  # also what is not logged: the last lines say why a child ended
        if not self._bucket.acquire():
            self._suppressed += 1
            return
        if text := _to_text(line):
            self._log.info("child_output", line=text)
        if self._suppressed:
            self._log.warning("child_output_cut", lines=self._suppressed)
            self._suppressed = 0

    @property
    def tail(self) -> str:
        return "\n".join(filter(None, map(_to_text, self._tail)))


def _to_text(line: object) -> str:
    return _truncate(secrets.redact(_decode(line)).rstrip())


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


class ErrorMembers(TypedDict, total=False):
    """Members of a log entry. `exception` is the whole text, if it says more than `error`."""

    error: Required[str]
    exception: str


def error_members(text: str) -> ErrorMembers:
    """Return the members for an error's text. A long text is cut at its start: a traceback ends with what matters."""
    text = text.strip()
    return _members(_summarize(text), text)


def child_error_members(cause: str) -> ErrorMembers:
    """Return the members for the text of why a child ended: one line, and the child's last output."""
    reason, _, output = cause.strip().partition("\n")
    exception = _summarize(output) if _TRACEBACK in output else ""
    # An exception that other output follows was handled, and is not why the child ended.
    is_last = exception and output.endswith(exception)
    return _members(f"{reason}: {exception}" if is_last else reason, cause.strip())


def _members(summary: str, text: str) -> ErrorMembers:
    # Before the text is cut: what is left of a cut secret would not be recognized.
    summary, text = secrets.redact(summary), secrets.redact(text)
    if len(summary) > SUMMARY_MAX_CHARS:
        summary = f"{summary[:SUMMARY_MAX_CHARS]} ..."
    return {"error": summary} if summary == text else {"error": summary, "exception": clean_text(text)}


def _summarize(text: str) -> str:
    """Return a Python traceback's line with the exception's class and message, or another text's first line."""
    if text.startswith(f"+ Exception Group {_TRACEBACK}"):
        _, _, trace = _GROUP_MARGIN.sub("", text).partition(_TRACEBACK)
    else:
        trace = text.rpartition(_TRACEBACK)[2]
    first = _UNINDENTED_LINE.search(trace)
    return first[0].rstrip() if first else text.partition("\n")[0]
