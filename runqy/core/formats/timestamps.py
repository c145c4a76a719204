"""Points in time as RFC 3339 writes them, and the time zones of the IANA database."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = "9999-12-31T23:59:59"


def format_s(seconds: int | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC."""
    return None if seconds is None else format_ns(seconds * 10**9)


def format_ns(nanoseconds: int | None) -> str | None:
    """Return Unix nanoseconds as RFC 3339 in UTC. Later times than the year 9999 become its last second."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    start = _second(seconds)
    return f"{start}.{rest // 1000:06}Z" if rest >= 1000 and start is not _END else f"{start}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """Return a Unix second, without a fraction. Cached: the timestamps of one response share few seconds."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
    except OverflowError:
        return _END


@lru_cache(maxsize=1024)
def get_zone(name: str) -> ZoneInfo:
    """Return a time zone. Raise ValueError."""
    if name not in _zone_names():
        city = f"/{name.strip().replace(' ', '_').lower()}"
        likely = min((zone for zone in _zone_names() if f"/{zone}".lower().endswith(city)), default="")
        raise ValueError(
            f'Must be a time zone of the IANA database: did you mean "{likely}"?'
            if likely
            else 'Must be a time zone of the IANA database, such as "Europe/Berlin".'
        )
    return ZoneInfo(name)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    # Reads a directory of 600 files.
    return frozenset(available_timezones())


def list_zones() -> list[str]:
    return sorted(_zone_names())
