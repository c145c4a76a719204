"""The time zones of the IANA database."""

from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones


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
