"""When a schedule is due: cron expressions and intervals, also where clocks are set forward and back (ADR 0037).

cronsim parses the expression and finds the next local time that matches it. What a local time means in a zone whose
clocks change is decided here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from runqy.core.formats.timestamps import get_zone

FIRST_TIME, LAST_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Nothing is due outside of these: Python's calendar ends a year later, and jitter and offsets of zones are added."""
MIN_EVERY_S = 10
MAX_EVERY_S = 366 * 86_400
MAX_CRON_LENGTH = 256
_ALLOWED = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, a day that the month has, or L for its last",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 or SUN to SAT",
}
"""The fields of an expression as the library calls them, in their order."""
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = re.compile(r"[0-9A-Za-z*,/#-]+( [0-9A-Za-z*,/#-]+){4}")
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_SEARCHED = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=366), timedelta(days=8 * 366))
"""How far back the last due time is looked for. 29 February may be eight years ago."""


@dataclass(frozen=True)
class Timing:
    """The due times of a schedule: a cron expression in a time zone, or an interval."""

    cron: str = ""
    """As `parse_cron` returns it; empty with an interval."""
    zone: str = "UTC"
    every_s: int = 0
    base: datetime | None = None
    """What the interval is counted from, in UTC."""
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    """The last time that can be due."""

    @classmethod
    def of(cls, definition: Any, created_at: datetime) -> Self:
        """Return the timing of a row or of a specification."""
        return cls(
            cron=definition.cron,
            zone=definition.time_zone,
            every_s=definition.every_s,
            base=definition.starts_at or created_at,
            starts_at=definition.starts_at,
            ends_at=definition.ends_at,
        )

    def next_after(self, time: datetime) -> datetime | None:
        """Return the first due time after a time, in UTC; None if there is none any more."""
        if self.starts_at is not None and time < self.starts_at:
            time = self.starts_at - timedelta(microseconds=1)
        try:
            due = self._next_of_interval(time) if self.every_s else self._next_of_cron(time)
        except OverflowError:  # beyond the calendar
            return None
        last = LAST_TIME if self.ends_at is None else min(self.ends_at, LAST_TIME)
        return None if due is None or due > last else due

    def list_after(self, time: datetime, count: int) -> list[datetime]:
        """Return the next due times."""
        found: list[datetime] = []
        while len(found) < count and (due := self.next_after(found[-1] if found else time)) is not None:
            found.append(due)
        return found

    def last_until(self, first: datetime, until: datetime) -> datetime:
        """Return the last due time up to a time. `first` is due, and not after it."""
        if self.every_s:
            count = (until - first) // timedelta(seconds=self.every_s)
            return self._limited(first + count * timedelta(seconds=self.every_s))
        following = self.next_after(first)
        if following is None or following > until:  # nearly always
            return first
        for searched in _SEARCHED:
            last = None
            due = self.next_after(max(until - searched, first))
            while due is not None and due <= until:
                last, due = due, self.next_after(due)
            if last is not None:
                return last
        return first

    @cached_property
    def _tz(self) -> ZoneInfo:
        return get_zone(self.zone)

    @property
    def _follows_elapsed_time(self) -> bool:
        return self.cron.split()[1].startswith("*")

    def _limited(self, due: datetime) -> datetime:
        interval = timedelta(seconds=self.every_s)
        if self.ends_at is None or due <= self.ends_at:
            return due
        return due - -(-(due - self.ends_at) // interval) * interval

    def _next_of_interval(self, time: datetime) -> datetime:
        base, interval = self.base or datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=self.every_s)
        return base + ((time - base) // interval + 1) * interval

    def _next_of_cron(self, time: datetime) -> datetime | None:
        return self._next_elapsed(time) if self._follows_elapsed_time else self._next_wall(time)

    def _next_wall(self, time: datetime) -> datetime | None:
        """Return the next time, where each local time that matches fires once."""
        for local in self._matches(time.astimezone(self._tz).replace(tzinfo=None)):
            first, second = (local.replace(tzinfo=self._tz, fold=fold).astimezone(UTC) for fold in (0, 1))
            # A local time that exists twice fires first. In a gap the first one is after the change, and the second
            # before it (PEP 495): it fires when the gap ends.
            due = first if first <= second else self._find_change(second, first) or first
            if due > time:
                return due
        return None

    def _next_elapsed(self, time: datetime) -> datetime | None:
        """Return the next time at which a clock of the zone shows what matches: twice where it is set back."""
        while True:
            offset = self._offset(time)
            local = next(self._matches((time + offset).replace(tzinfo=None)), None)
            if local is None:
                return None
            due = local.replace(tzinfo=UTC) - offset
            change = self._find_change(time, due)
            if change is None:
                return due
            # From there on with the new offset, and with the time of the change itself.
            local = (change + self._offset(change)).replace(tzinfo=None)
            if self._is_match(local):
                return change
            time = change

    def _matches(self, local: datetime) -> Iterator[datetime]:
        """Yield the local times after one that match, none if there is none within 50 years."""
        return iter(_Cron(self.cron, local))

    def _is_match(self, local: datetime) -> bool:
        return next(self._matches(local - _SECOND), None) == local

    def _offset(self, time: datetime) -> timedelta:
        return time.astimezone(self._tz).utcoffset() or timedelta()

    def _find_change(self, after: datetime, until: datetime) -> datetime | None:
        """Return the first time after `after`, up to `until`, at which the clocks of the zone change."""
        offset, start = self._offset(after), after
        while start < until:
            end = min(start + _DAY, until)
            if self._offset(end) != offset:
                while end - start > _SECOND:
                    middle = start + (end - start) // 2
                    start, end = (middle, end) if self._offset(middle) == offset else (start, middle)
                return end.replace(microsecond=0)
            start = end
        return None


class _Cron:
    """The local times that match an expression, without a zone."""

    def __init__(self, cron: str, after: datetime) -> None:
        self._times = CronSim(cron, after)

    def __iter__(self) -> Iterator[datetime]:
        try:
            yield from self._times
        except OverflowError:  # the year 10000
            return


def parse_cron(text: str) -> str:
    """Return an expression with five fields in one spelling. Raise ValueError."""
    cron = " ".join(text.split())
    if cron.startswith("@"):
        if cron.lower() not in ALIASES:
            raise ValueError(f"{cron[:32]} is unknown. Known names: {', '.join(ALIASES)}.")
        return ALIASES[cron.lower()]
    if len(cron) > MAX_CRON_LENGTH or not _FIELDS.fullmatch(cron):
        raise ValueError(
            'Must have five fields: minute, hour, day of month, month, day of week, such as "30 2 * * MON".'
        )
    try:
        next(CronSim(cron, datetime(2024, 1, 1)))  # noqa: DTZ001 (a local time)
    except CronSimError as error:
        raise ValueError(_explain_error(cron, str(error))) from None
    except StopIteration:
        raise ValueError("No date matches.") from None
    return cron.upper()


def _explain_error(cron: str, error: str) -> str:
    """Return an error of the library with what the field may be. It names the field: `Bad day-of-month`."""
    for (name, allowed), value in zip(_ALLOWED.items(), cron.split(), strict=True):
        if error == f"Bad {name}":
            return f"The {name.replace('-', ' ')} {value[:32]!r} must be {allowed}, or *, a list, a range or a step."
    return f"{error}."


def explain_cron(cron: str) -> str:
    """Return an expression in words: `At 02:30 on Monday`."""
    return CronSim(cron, datetime(2024, 1, 1)).explain()  # noqa: DTZ001 (a local time)
