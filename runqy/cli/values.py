"""Values as text: times, and what stands in one column of a line."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import typer

from runqy.core.formats import durations
from runqy.core.formats.error_texts import find_error_line

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NO_COLOUR = re.compile(rf"(?!\x1b\[[0-9;:]*m){_CONTROL.pattern}")
_RAW_IN_JSON = re.compile(r"[\x7f-\x9f]")
_INT_DIGITS = 18
"""The digits of integers that always have 64 bits."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_DATE_AFTER_S = 30 * 86400
"""From this age on a date says more than a number of days."""


def format_value(value: object) -> str:
    """Return a value on one line. Of a string it is the line that says what happened."""
    if value is None:
        return ""
    if isinstance(value, str):
        return find_error_line(value).replace("\t", " ")
    return encode_json(value)


def clean(text: str, *, keeps_colours: bool = False) -> str:
    """Return a text without control characters: escape sequences, of a task's error or a name, rewrite the terminal."""
    return (_NO_COLOUR if keeps_colours else _CONTROL).sub("\N{REPLACEMENT CHARACTER}", text)


def encode_json(value: object, *, indent: int = 0) -> str:
    """Return JSON, in which control characters are escaped."""
    try:
        encoded = msgspec.json.encode(value)
    except OverflowError:  # of integers above 64 bits
        encoded = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    return _RAW_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def decode_object(content: bytes | str) -> dict[str, Any]:
    """Return the object that JSON is. Raise ValueError.

    Of a document with numbers beyond what Python reads (4,300 digits, 1e308), these and other long integers are
    `msgspec.Raw`.
    """
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.ValidationError as error:
        value = json.loads(content, parse_int=_read_int, parse_float=_read_float)
        if isinstance(value, dict):
            return value
        raise ValueError(str(error)) from error
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def read_number(text: str) -> int | str:
    """Return an option's number; any other text, and a number that no server takes, as it is."""
    return int(text) if text.isdecimal() and len(text) <= _INT_DIGITS else text


def _read_int(digits: str) -> int | msgspec.Raw:
    return int(digits) if len(digits) <= _INT_DIGITS else msgspec.Raw(digits.encode())


def _read_float(digits: str) -> float | msgspec.Raw:
    number = float(digits)
    return msgspec.Raw(digits.encode()) if math.isinf(number) else number


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
