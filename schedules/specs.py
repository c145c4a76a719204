"""What a schedule is, as its definition in a file, a request or a form says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from schedules.times import Timing

MAX_WINDOW_S = 22 * 3600
"""The longest time after its due time at which a fire is enqueued: an hour less than for an intent."""
MIN_WINDOW_S = 60
"""The default of a shorter period: maintenance may be away for as long."""
MAX_JITTER_S = 3600


class Overlap(StrEnum):
    """What to do when a schedule is due while a task of it has not ended."""

    SKIP = "skip"
    ALLOW = "allow"


class CatchUp(StrEnum):
    """What to do with due times at which no maintenance ran."""

    LAST = "last"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """The definition of a schedule."""

    name: str
    queue: str
    """Any of the names of a Redis queue."""
    payload: str
    """JSON on one line."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `/queue/add`, as they are sent there."""
    cron: str = ""
    """With `every_s`, exactly one of the two is set."""
    every_s: int = 0
    time_zone: str = "UTC"
    jitter_s: int = 0
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LAST
    catch_up_window_s: int | None = None
    """None: one period."""

    def timing(self, created_at: datetime) -> Timing:
        return Timing.of(self, created_at)
