"""The health of a queue in a few words: what differs from a queue that works, the most urgent first.

An app above, which knows what queues did in the last minutes and their open alerts, registers a reader.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

R = TypeVar("R", bound="Callable[[Collection[str]], Mapping[str, QueueActivity]]")

_STEADY = 0.01
"""A backlog that changes by less than this part of it per minute is steady."""
VAULT_PROBLEM = "vault problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueProblem:
    """What an open alert of a queue says."""

    label: str
    """In few words: `no worker`, `failing 23 %`."""
    message: str
    is_critical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueActivity:
    """A queue in the last minutes."""

    problems: tuple[QueueProblem, ...] = ()
    """The most urgent first."""
    pending_before: int | None = None
    """The pending tasks some minutes ago; None: not sampled."""
    minutes: float = 1.0
    """How long ago that was."""
    started_per_minute: float = 0.0
    """Attempts, like those that failed."""
    failed_per_minute: float = 0.0

    def describe_trend(self, pending: int) -> str:
        """Return how the number of pending tasks has changed; empty if that is unknown."""
        return "" if self.pending_before is None else describe_trend(self.pending_before, pending, self.minutes)


NO_ACTIVITY = QueueActivity()

_readers: list[Callable[[Collection[str]], Mapping[str, QueueActivity]]] = []


def register_activity(read: R) -> R:
    """Register a function that returns the activity of queues by name. A decorator."""
    _readers.append(read)
    return read


def read_activity(queues: Collection[str]) -> dict[str, QueueActivity]:
    """Return the activity of queues by name."""
    return {name: activity for read in _readers for name, activity in read(queues).items()}


def describe_trend(before: int, pending: int, minutes: float) -> str:
    """Return the change per minute, such as `shrinks 120/min`; empty if nothing was or is pending."""
    if not before and not pending:
        return ""
    per_minute = (pending - before) / minutes
    if abs(per_minute) < max(_STEADY * max(pending, before), 0.5):
        return "steady"
    return f"{'grows' if per_minute > 0 else 'shrinks'} {round(abs(per_minute)):,}/min"


class HealthLevel(IntEnum):
    """How urgent it is. The most urgent is the lowest, so that a list in ascending order begins with it."""

    CRITICAL = 0
    WARNING = 1
    UNKNOWN = 2
    STOPPED = 3
    """A user paused or disabled it."""
    OK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One thing that differs."""

    text: str
    level: HealthLevel
    detail: str = ""


BEING_DELETED = Health(text="being deleted", level=HealthLevel.CRITICAL, detail="Its tasks are being deleted.")
NOT_PUBLISHED = Health(
    text="not published",
    level=HealthLevel.WARNING,
    detail="Maintenance, if it runs, publishes the latest changes within seconds.",
)
OK = Health(text="ok", level=HealthLevel.OK)
UNDEFINED = Health(text="undefined", level=HealthLevel.WARNING, detail="It exists only in Redis.")
NO_COUNTS = Health(text="unknown", level=HealthLevel.UNKNOWN, detail="Redis is unavailable.")
NOT_WATCHED = Health(
    text="unknown", level=HealthLevel.UNKNOWN, detail="No maintenance process runs, so nothing looks for problems."
)


def list_health(
    problems: Iterable[QueueProblem], *, is_enabled: bool, paused: str = "", others: Sequence[Health] = ()
) -> list[Health]:
    """Return what differs from a working queue, the most urgent first; `ok` if nothing does.

    `paused` is the label of a paused queue. The first of several with the same text counts.
    """
    found = [
        *others,
        *(
            Health(
                text=problem.label,
                level=HealthLevel.CRITICAL if problem.is_critical else HealthLevel.WARNING,
                detail=problem.message,
            )
            for problem in problems
        ),
    ]
    if paused:
        found.append(Health(text=paused, level=HealthLevel.STOPPED, detail="Workers get no tasks."))
    if not is_enabled:
        found.append(Health(text="disabled", level=HealthLevel.STOPPED, detail="Rejects tasks and workers."))
    by_text: dict[str, Health] = {}
    for each in found:
        by_text.setdefault(each.text, each)
    return sorted(by_text.values(), key=lambda each: each.level) or [OK]
