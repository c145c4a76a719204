"""What the history has stored and lost, for tests that count it."""

from dataclasses import dataclass
from datetime import datetime

from tasks.models import RunStream


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryStatus:
    """What the history has stored and lost, of all queues or of one."""

    recorded: int
    counted_only: int
    invalid: int
    dropped: int
    dropped_at: datetime | None


def get_history_status(redis_queue: str = "") -> HistoryStatus:
    """Return what was stored and lost, of all Redis queues or of one."""
    streams = list(RunStream.objects.filter(**({"redis_queue": redis_queue} if redis_queue else {})))
    return HistoryStatus(
        recorded=sum(stream.recorded for stream in streams),
        counted_only=sum(stream.counted_only for stream in streams),
        invalid=sum(stream.invalid for stream in streams),
        dropped=sum(stream.dropped for stream in streams),
        dropped_at=max((stream.dropped_at for stream in streams if stream.dropped_at), default=None),
    )
