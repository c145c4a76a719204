"""What queues did in the last minutes, and their open alerts. An app above, which knows them, registers a reader."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

R = TypeVar("R", bound="Callable[[Collection[str]], Mapping[str, QueueActivity]]")

_STEADY = 0.01
"""A backlog that changes by less than this part of it per minute is steady."""


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
