"""Spells moments in answers: RFC 3339 in UTC, or null."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_s(seconds: int | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC."""
    return None if seconds is None else moment_ns(seconds * 10**9)


def moment_ns(nanoseconds: int | None) -> str | None:
    """Return Unix nanoseconds as RFC 3339 in UTC; a moment beyond the year 9999 as the end of it."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    start = _second(seconds)
    return f"{start}.{rest // 1000:06}Z" if rest >= 1000 and start is not _END else f"{start}Z"


_END = "9999-12-31T23:59:59"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """Return how the spelling of a Unix second begins. Most moments that are told at a time share a few."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
    except OverflowError:
        return _END


def moment_of(time: datetime) -> str:
    """Return a time from the database as RFC 3339 in UTC, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
