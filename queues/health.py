"""The health of a queue in a few words: what differs from a queue that works, the most urgent first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from queues.activity import QueueProblem


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
VAULT_PROBLEM = "vault problem"


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
