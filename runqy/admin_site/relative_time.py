"""Timestamps for display: relative to now, and exact."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.utils.safestring import SafeString

from runqy.admin_site import times
from runqy.core.formats import durations

_GRACE_NS = 10 * 10**9
"""How late something may be before it is overdue. Maintenance does what is due within seconds."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RelativeTime:
    """A timestamp relative to another, both in Unix nanoseconds. `admin_site/relative_time.html` renders it."""

    at_ns: int
    now_ns: int
    is_due: bool = False
    """Whether something will happen at this time, so that it is overdue when the time has passed."""

    @classmethod
    def of_s(cls, at_s: int | None, now_ns: int, *, is_due: bool = False) -> "RelativeTime | None":
        """Return the time at these Unix seconds; None for None or 0."""
        return cls(at_s * 10**9, now_ns, is_due) if at_s else None

    @classmethod
    def of_ns(cls, at_ns: int | None, now_ns: int) -> "RelativeTime | None":
        """Return the time at these Unix nanoseconds; None for None or 0."""
        return cls(at_ns, now_ns) if at_ns else None

    @classmethod
    def of_datetime(cls, at: datetime, now_ns: int) -> "RelativeTime":
        return cls(int(at.timestamp() * 1e9), now_ns)

    @property
    def distance(self) -> str:
        """The difference, such as `2 h 5 min`."""
        # Of whole seconds, since some timestamps have no fractions.
        return durations.humanize(self.at_ns // 10**9 - self.now_ns // 10**9)

    @property
    def is_overdue(self) -> bool:
        return self.is_due and self.now_ns - self.at_ns >= _GRACE_NS

    @property
    def relative(self) -> str:
        """The difference with its direction: `in 5 min`, `5 min ago`, `5 min overdue`."""
        if self.is_due and self.at_ns <= self.now_ns:
            return f"{self.distance} overdue" if self.is_overdue else "due now"
        return f"in {self.distance}" if self.at_ns > self.now_ns else f"{self.distance} ago"

    @property
    def iso(self) -> str:
        return times.format_absolute(self._at())

    @property
    def exact(self) -> SafeString:
        """The time in the reader's zone, as HTML."""
        return times.show_time(self._at())

    @property
    def title(self) -> str:
        """The time in the reader's zone, and in UTC if that is another."""
        exact, utc = times.format_time(self._at()), times.format_utc(self._at())
        return utc if utc.startswith(exact) else f"{exact} ({utc})"

    def _at(self) -> datetime:
        try:
            return _EPOCH + timedelta(seconds=self.at_ns // 10**9)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)
