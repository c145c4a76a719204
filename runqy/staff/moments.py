"""Says when something was or will be, as staff read it: how far away, and exactly."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runqy import durations

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment seen from another, both in Unix ns; `staff/moment.html` shows it."""

    at_ns: int
    now_ns: int

    @classmethod
    def of_s(cls, at_s: int | None, now_ns: int) -> "Moment | None":
        """Return the moment of Unix seconds; None for none."""
        return cls(at_s * 10**9, now_ns) if at_s else None

    @classmethod
    def of_ns(cls, at_ns: int | None, now_ns: int) -> "Moment | None":
        """Return the moment of Unix nanoseconds; None for none."""
        return cls(at_ns, now_ns) if at_ns else None

    @property
    def distance(self) -> str:
        """Return how far away it is, in words, without a direction."""
        return durations.in_words((self.at_ns - self.now_ns) / 1e9)

    @property
    def relative(self) -> str:
        """Return how far away it is, and whether it was or will be."""
        return f"in {self.distance}" if self.at_ns > self.now_ns else f"{self.distance} ago"

    @property
    def iso(self) -> str:
        """Return it as machines read it, to the second."""
        return self._at().strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def exact(self) -> str:
        """Return it as people read it, to the second."""
        return self._at().strftime("%Y-%m-%d %H:%M:%S UTC")

    def _at(self) -> datetime:
        """Return it as Python knows it; what is beyond the year 9999 as the end of it."""
        try:
            return _EPOCH + timedelta(seconds=self.at_ns // 10**9)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)
