"""Values as text: times, and what stands in one column of a line."""

import re
from datetime import UTC, datetime, timedelta

import msgspec
import typer

from runqy.formats import durations
from runqy.formats.error_texts import find_error_line

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_DATE_AFTER_S = 30 * 86400
"""From this age on a date says more than a number of days."""


def format_value(value: object) -> str:
    """Return a value on one line. Of a string it is the line that says what happened."""
    if value is None:
        return ""
    if isinstance(value, str):
        return find_error_line(value).replace("\t", " ")
    return msgspec.json.encode(value).decode()


def clean(text: str) -> str:
    """Return a text without escape sequences: those of a task's error could rewrite the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def parse_time(value: object) -> datetime | None:
    """Return the time that a text of the API is, such as 2026-01-31T12:00:00Z; None for any other value."""
    if not isinstance(value, str) or not 20 <= len(value) <= 35 or value[10] != "T":
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else None


def describe_time(time: datetime, *, is_exact: bool = False) -> str:
    """Return a time relative to now, such as "5m ago" or "in 2h", or exactly in the local time zone."""
    if is_exact:
        return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"
    age_s = round((datetime.now(UTC) - time).total_seconds())
    if abs(age_s) >= _DATE_AFTER_S:
        return f"{time.astimezone():%Y-%m-%d}"
    text = format_duration(abs(age_s))
    return f"in {text}" if age_s < 0 else f"{text} ago"


def format_duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as "90s" as "1m"."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"


def parse_duration(value: str | float) -> float:
    """Return the seconds of an option, or of its default. Raise BadParameter."""
    try:
        return durations.parse_ns(str(value)) / 1e9
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from error


def parse_since(text: str) -> str:
    """Return the time that was as long ago as a duration says. Other texts are returned as they are, for the server."""
    return _from_now(text, -1)


def parse_until(text: str) -> str:
    """Return the time in as long as a duration says. Other texts are returned as they are, for the server."""
    return _from_now(text, 1)


def _from_now(text: str, sign: int) -> str:
    try:
        return (datetime.now(UTC) + sign * timedelta(seconds=durations.parse_s(text))).isoformat()
    except (ValueError, OverflowError):
        return text
