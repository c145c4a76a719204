"""Spells moments in answers: RFC 3339 in UTC, or null."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_s(seconds: int | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC."""
    return None if seconds is None else moment_ns(seconds * 10**9)


def moment_ns(nanoseconds: int | None) -> str | None:
    """Return Unix nanoseconds as RFC 3339 in UTC; a moment beyond the year 9999 as the end of it."""
    if nanoseconds is None:
        return None
    try:
        moment = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        moment = datetime.max.replace(tzinfo=UTC, microsecond=0)
    return moment.isoformat().replace("+00:00", "Z")


def moment_of(time: datetime) -> str:
    """Return a time from the database as RFC 3339 in UTC, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
