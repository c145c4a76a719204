"""Queries for the configuration of queues, from the database."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from queues.definitions import QueueSpec
from queues.models import Queue
from queues.names import AllowedQueues, spellings
from runqy.errors import QueueNotFound

__all__ = ["QueueConfig", "get_configuration", "list_configurations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The configuration of a queue, or of one of its sub-queues."""

    spec: QueueSpec
    sub_queue: str
    """Empty: of the queue as a whole."""
    source: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Queue, sub_queue: str = "") -> "QueueConfig":
        """Return the configuration in a row."""
        times = {"created_at": row.created_at, "updated_at": row.updated_at}
        return cls(spec=row.as_spec(), sub_queue=sub_queue, source=row.source, **times)

    @property
    def redis_queue(self) -> str:
        """Return the name of the Redis queue; for a queue with sub-queues as a whole, its own name."""
        return self.spec.name + (f"{settings.RUNQY_SUBQUEUE_SEPARATOR}{self.sub_queue}" if self.sub_queue else "")

    @property
    def priority(self) -> int:
        """Return the priority of the sub-queue, or of the queue as a whole."""
        return next((sub.priority for sub in self.spec.sub_queues if sub.name == self.sub_queue), self.spec.priority)


def list_configurations(*, allowed_queues: AllowedQueues = None) -> list[QueueConfig]:
    """Return the configuration of every Redis queue, in order of the queues' names, from the database."""
    configs = []
    for row in Queue.objects.prefetch_related("sub_queues"):
        if allowed_queues is None or row.name in allowed_queues:
            configs += [QueueConfig.of(row, sub.name) for sub in row.sub_queues.all()] or [QueueConfig.of(row)]
    return configs


def get_configuration(name: str, *, allowed_queues: AllowedQueues = None) -> QueueConfig:
    """Return the configuration of a queue, or of the sub-queue that a name means. Raises QueueNotFound."""
    for row in Queue.objects.prefetch_related("sub_queues"):
        if allowed_queues is not None and row.name not in allowed_queues:
            continue
        if row.name == name:
            return QueueConfig.of(row)
        for sub, names in zip(row.sub_queues.all() or [None], spellings(row.as_spec()), strict=True):
            if name in names:
                return QueueConfig.of(row, sub.name if sub else "")
    raise QueueNotFound(f"No queue {name[:128]!r}.")
