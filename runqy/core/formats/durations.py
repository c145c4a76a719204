"""Parse and format durations in Go's format, `300ms`, `30s`, `1h30m`, and parse rates: a number of requests per second,
minute or hour.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PART = re.compile(rf"({_NUMBER})(ns|us|µs|ms|s|m|h)")
_MAX_LENGTH = 64
"""The limit of a text. The time to convert digits grows with the square of their number."""
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
RATE = r"0*([1-9][0-9]{0,4}|100000)/[smh]"
"""A pattern without anchors: at most 100,000 requests per second, minute or hour."""
RATE_EXAMPLES = "a rate such as 50/s, 600/m or 10000/h"


def parse_ns(text: str) -> int:
    """Return a duration in nanoseconds. A plain number is seconds. Raise ValueError, also for a negative duration."""
    text = text.strip()
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"{text[:_MAX_LENGTH]!r}… is too long for a duration such as 30s, 15m or 1h30m")
    if re.fullmatch(_NUMBER, text):
        return int(Decimal(text) * 10**9)
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 30s, 15m or 1h30m")
    return int(sum(Decimal(number) * _UNITS_NS[unit] for number, unit in _PART.findall(text)))


def parse_s(text: str) -> int:
    """Return a duration in seconds. It is rounded up, so that a short one does not become 0. Raise ValueError."""
    return -(-parse_ns(text) // 10**9)


def format_short(seconds: int) -> str:
    """Return a duration without zero units: `0`, `45s`, `10m`, `1h30m`."""
    parts = re.findall(r"[1-9]\d*[hms]", format_s(seconds))
    return "".join(parts) or "0"


@lru_cache(maxsize=1024)  # each task in a response has its timeout, and few tasks have one of their own
def format_s(seconds: int) -> str:
    """Return a duration in Go's format: `0s`, `45s`, `10m0s`, `1h0m0s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def humanize(seconds: float) -> str:
    """Return a duration in its one or two largest units: `12 s`, `3 min`, `2 h 5 min`, `4 d`."""
    parts = _split(int(abs(seconds)))
    first = next((i for i, (number, _) in enumerate(parts) if number), 3)
    return _join(parts[first : first + 2] if first < 2 else parts[first : first + 1])


def humanize_ms(milliseconds: int | None) -> str:
    """Return a duration with about three digits: `85 ms`, `1.25 s`, `2 min 5 s`; empty for None, which is unknown."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.{2 if milliseconds < 10_000 else 1}f} s"
    if milliseconds < 3_600_000:
        minutes, seconds = divmod(milliseconds // 1000, 60)
        return f"{minutes} min {seconds} s"
    return humanize(milliseconds / 1000)


def humanize_exactly(seconds: int) -> str:
    """Return a duration in all its units: `10 min`, `1 min 30 s`."""
    return _join(_split(seconds))


def _split(seconds: int) -> list[tuple[int, str]]:
    minutes, whole_s = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return [(days, "d"), (hours, "h"), (minutes, "min"), (whole_s, "s")]


def _join(parts: list[tuple[int, str]]) -> str:
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of requests in a time window."""

    limit: int
    window_s: int

    def __str__(self) -> str:
        return f"{self.limit} in {self.window_s} s"


WINDOWS_S = {"s": 1, "m": 60, "h": 3600}


def parse_rate(text: str) -> Rate:
    """Parse a number of requests per second, minute or hour: `600/m`. Raise ValueError."""
    if not re.fullmatch(RATE, text):
        raise ValueError(f"{text!r} is not {RATE_EXAMPLES}")
    limit, _, unit = text.partition("/")
    return Rate(int(limit), WINDOWS_S[unit])
