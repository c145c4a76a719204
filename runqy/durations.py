"""Reads and writes spans of time as Go spells them: `300ms`, `30s`, `1h30m`."""

import re
from decimal import Decimal

_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_ns(text: str) -> int:
    """Return the nanoseconds of a span; a plain number counts seconds.

    Raises ValueError for anything else, and for a negative span.
    """
    text = text.strip()
    if re.fullmatch(r"\d+", text, re.ASCII):
        return int(text) * 10**9
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 30s, 15m or 1h30m")
    return int(sum(Decimal(number) * _UNITS_NS[unit] for number, unit in _PART.findall(text)))


def parse_s(text: str) -> int:
    """Return the whole seconds of a span, rounded up, so that a short one does not become none."""
    return -(-parse_ns(text) // 10**9)


def write_s(seconds: int) -> str:
    """Return a span as people write it: `0`, `45s`, `10m`, `1h30m`; `parse_s` reads it back."""
    parts = re.findall(r"[1-9]\d*[hms]", format_s(seconds))
    return "".join(parts) or "0"


def format_s(seconds: int) -> str:
    """Return a span as Go prints it: `0s`, `45s`, `10m0s`, `1h0m0s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def in_words(seconds: float) -> str:
    """Return a span as people say it, in its largest units: `12 s`, `3 min`, `2 h 5 min`, `4 d`."""
    minutes, whole_s = divmod(int(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole_s, "s")]
    first = next((i for i, (number, _) in enumerate(parts) if number), 3)
    shown = parts[first : first + 2] if first < 2 else parts[first : first + 1]
    return " ".join(f"{number} {unit}" for number, unit in shown if number) or "0 s"
