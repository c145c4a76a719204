"""What the rules of alerts look at."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from alerts.kinds import AlertKind
from runqy.broker.health import RedisHealth
from runqy.broker.queues.stats import QueueCounts
from tasks.history.stats import StatsPoint

IDLE_S = 15
"""A worker that dequeued a task within this time is not idle. Longer than the interval of observations, and than the
age of what the worker reports."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A condition that needs attention."""

    subject: str
    """The name of the queue or worker, or the replication id of a new master; empty for the whole installation."""
    message: str
    queue: str = ""
    """The queue concerned; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacingWorker:
    """A worker that is to replace its processes, because their environment has changed."""

    worker_id: str
    has_turn: bool
    lasts_s: float
    """For how long it has waited for its turn, or has had it."""
    problem: str = ""
    """Why its new processes are not ready, if it has its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueObservation:
    """A queue with its sub-queues."""

    name: str
    is_enabled: bool
    redis_queues: Sequence[QueueCounts]
    served: Collection[str]
    """The Redis queues, of any queue, that a ready worker serves."""
    vault_errors: tuple[str, ...] = ()
    minutes: Sequence[StatsPoint] = ()
    """The last minutes of its history, oldest first, the current minute last. Their backlogs are without paused Redis
    queues."""
    shared_deaths: int = 0
    """How many processes died lately while they ran several tasks."""
    shared_death_tasks: int = 0
    """The smallest number of tasks that one of them ran."""
    replacing: Sequence[ReplacingWorker] = ()

    @property
    def not_paused(self) -> list[QueueCounts]:
        return [each for each in self.redis_queues if not each.is_paused]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerObservation:
    """A worker that sent a heartbeat within the last minute."""

    worker_id: str
    queue: str
    is_missing: bool
    start_failure: str | None
    """The reason why it failed to start; None if it did not fail."""
    silent_s: int = 0
    idle_queues: tuple[str, ...] = ()
    """The Redis queues that it serves, if it is idle: ready, with free slots, without a dequeue within IDLE_S."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the rules look at."""

    queues: Sequence[QueueObservation]
    workers: Sequence[WorkerObservation] = ()
    reported: Mapping[AlertKind, Sequence[Problem]] = field(default_factory=dict)
    """Problems that other apps know of."""
    history_dropped: Mapping[str, int] = field(default_factory=dict)
    """The number of dropped runs that were counted in the last minutes, by queue."""
    memory_use: float = 0
    """The fraction of its memory limit that Redis uses; in a cluster, the fullest server."""
    masters: Sequence[RedisHealth] = ()
    known_masters: Collection[str] = ()
    """The replication ids that were observed before."""
    now: datetime
