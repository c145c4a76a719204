"""Timestamps for people: relative to now, and exact."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runqy import durations

_GRACE_NS = 10 * 10**9
"""Maintenance does what is due within seconds."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RelativeTime:
    """A timestamp relative to another, both in Unix ns; rendered by `admin_site/relative_time.html`."""

    at_ns: int
    now_ns: int
    is_due: bool = False
    """Something is to happen then, and has not happened yet: once the time has passed it is overdue."""

    @classmethod
    def of_s(cls, at_s: int | None, now_ns: int, *, is_due: bool = False) -> "RelativeTime | None":
        """Return the time of Unix seconds; None for None or 0."""
        return cls(at_s * 10**9, now_ns, is_due) if at_s else None

    @classmethod
    def of_ns(cls, at_ns: int | None, now_ns: int) -> "RelativeTime | None":
        """Return the time of Unix nanoseconds; None for None or 0."""
        return cls(at_ns, now_ns) if at_ns else None

    @property
    def distance(self) -> str:
        """Return the difference of the whole seconds, as some times have no parts of them, such as `2 h 5 min`."""
        return durations.humanize(self.at_ns // 10**9 - self.now_ns // 10**9)

    @property
    def is_overdue(self) -> bool:
        return self.is_due and self.now_ns - self.at_ns >= _GRACE_NS

    @property
    def relative(self) -> str:
        """Return the difference with its direction: `in 5 min`, `5 min ago`, `5 min overdue`."""
        if self.is_due and self.at_ns <= self.now_ns:
            return f"{self.distance} overdue" if self.is_overdue else "due now"
        return f"in {self.distance}" if self.at_ns > self.now_ns else f"{self.distance} ago"

    @property
    def iso(self) -> str:
        """Return RFC 3339, to the second."""
        return self._at().strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def exact(self) -> str:
        """Return the time in UTC, to the second, for people."""
        return self._at().strftime("%Y-%m-%d %H:%M:%S UTC")

    def _at(self) -> datetime:
        """Return a datetime, at most the end of the year 9999."""
        try:
            return _EPOCH + timedelta(seconds=self.at_ns // 10**9)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)
