"""How many tasks failed: at their first attempt, and for good. Retries of a few tasks do not raise these rates."""

from collections.abc import Iterator
from dataclasses import dataclass

FIELDS = ("first_ended", "first_failed", "tasks_ended", "tasks_failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCounts:
    """Counts of first attempts and of tasks, in the columns of the rollups."""

    first_ended: int = 0
    """First attempts that ended, and tasks that ended without any: new tasks."""
    first_failed: int = 0
    tasks_ended: int = 0
    """Tasks that ended for good."""
    tasks_failed: int = 0

    def __add__(self, other: "FailureCounts") -> "FailureCounts":
        return FailureCounts(**{name: getattr(self, name) + getattr(other, name) for name in FIELDS})

    @property
    def first_percent(self) -> float | None:
        """The share of first attempts that failed; None if none ended."""
        return 100 * self.first_failed / self.first_ended if self.first_ended else None

    @property
    def task_percent(self) -> float | None:
        """The share of tasks that failed for good; None if none ended."""
        return 100 * self.tasks_failed / self.tasks_ended if self.tasks_ended else None

    def describe(self) -> str:
        """Return both rates: `2.5 % of tasks, 20.0 % of first attempts`; empty if nothing ended."""
        return ", ".join(self._list_rates())

    def describe_briefly(self) -> str:
        """Return the rate of tasks, of first attempts while no task has ended; empty if nothing ended."""
        return next(self._list_rates(), "")

    def _list_rates(self) -> Iterator[str]:
        for percent, noun in ((self.task_percent, "tasks"), (self.first_percent, "first attempts")):
            if percent is not None:
                yield f"{percent:.1f} % of {noun}"


NO_FAILURES = FailureCounts()
