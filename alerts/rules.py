"""The rules of alerts: they take what was observed, and return findings. No I/O."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import combinations
from statistics import median

from runqy.broker.health import RedisHealth
from runqy.broker.memory import MemoryUse
from runqy.broker.queues.stats import QueueCounts
from runqy.broker.workers.records import SHARED_DEATHS_WINDOW_S
from runqy.formats import durations
from runqy.formats.error_texts import find_error_line
from tasks.history.stats import StatsPoint

FAILURE_WINDOW_MIN = 5
GROWTH_WINDOW_MIN = 10
DROP_WINDOW_MIN = GROWTH_WINDOW_MIN
SHARED_DEATHS_WINDOW_MIN = SHARED_DEATHS_WINDOW_S // 60
MIN_SAMPLES = 8
"""With fewer minutes of the window there is no meaningful trend."""
REASON_MAX_CHARS = 300
"""How much of the reason that a worker reports is in a message. The worker's page has all of it."""
IDLE_S = 15
"""A worker that dequeued a task within this time is not idle. Longer than the interval of observations, and than the
age of what the worker reports."""
MIN_RUNS = 10
"""Over fewer runs a failure rate is not meaningful."""


class AlertKind(StrEnum):
    """What an alert is about."""

    NO_READY_WORKER = "no_ready_worker"
    OLDEST_PENDING = "oldest_pending"
    FAILURE_RATE = "failure_rate"
    BACKLOG_GROWING = "backlog_growing"
    WORKER_MISSING = "worker_missing"
    WORKER_START_FAILED = "worker_start_failed"
    WORKER_NOT_CONSUMING = "worker_not_consuming"
    CONFIGURATION_NOT_PUBLISHED = "configuration_not_published"
    HISTORY_DROPPED = "history_dropped"
    VAULT_UNREADABLE = "vault_unreadable"
    REDIS_MEMORY = "redis_memory"
    INACTIVE_KEY_CREATOR = "inactive_key_creator"
    REDIS_FAILOVER = "redis_failover"
    SHARED_DEATHS = "shared_deaths"


class AlertLevel(StrEnum):
    """How urgent an alert is."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """When a rule finds something, and how long that must last before an alert opens."""

    is_enabled: bool = True
    threshold: float | None = None
    """In the unit of the kind; None if the kind has no threshold."""
    for_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleInfo:
    """A kind of alert: its texts and defaults."""

    label: str
    description: str
    level: AlertLevel
    threshold_unit: str = ""
    """`%`, `s` or a countable noun; empty if the kind has no threshold."""
    is_per_queue: bool = True
    """Whether it can have settings for one queue."""
    defaults: RuleSettings = field(default_factory=RuleSettings)
    keep_s: int = 60
    """How long an alert stays open after the condition was last observed, so that a brief pause does not resolve it."""

    def format_threshold(self, threshold: float) -> str:
        """Format a threshold with its unit: `20 %`, `10 min`, `1 pending task`."""
        if self.threshold_unit == "s" and threshold == int(threshold):
            return durations.humanize_exactly(int(threshold))
        if self.threshold_unit in ("%", "s"):
            return f"{threshold:,.12g} {self.threshold_unit}"
        return _count(threshold, self.threshold_unit)


RULES: Mapping[AlertKind, RuleInfo] = {
    AlertKind.NO_READY_WORKER: RuleInfo(
        label="No ready worker",
        description="At least as many tasks as the threshold are pending in sub-queues that no ready worker serves.",
        level=AlertLevel.CRITICAL,
        threshold_unit="pending task",
        defaults=RuleSettings(threshold=1, for_s=60),
        keep_s=0,
    ),
    AlertKind.OLDEST_PENDING: RuleInfo(
        label="Oldest pending task",
        description="The oldest pending task has been waiting for longer than the threshold.",
        level=AlertLevel.WARNING,
        threshold_unit="s",
        defaults=RuleSettings(threshold=600),
    ),
    AlertKind.FAILURE_RATE: RuleInfo(
        label="Failure rate",
        description=f"More than the threshold of the runs that ended in the last {FAILURE_WINDOW_MIN} minutes failed; "
        f"at least {MIN_RUNS} must have ended.",
        level=AlertLevel.CRITICAL,
        threshold_unit="%",
        defaults=RuleSettings(threshold=20),
    ),
    AlertKind.BACKLOG_GROWING: RuleInfo(
        label="Backlog growing",
        description=f"By the trend of the last {GROWTH_WINDOW_MIN} minutes the number of pending tasks grew by the "
        "threshold or more, and did not fall in the second half.",
        level=AlertLevel.WARNING,
        threshold_unit="task",
        defaults=RuleSettings(threshold=100),
    ),
    AlertKind.WORKER_MISSING: RuleInfo(
        label="Worker missing",
        description="A worker stopped sending heartbeats without deregistering. Resolved when it reports again, or "
        "after 15 minutes.",
        level=AlertLevel.WARNING,
        keep_s=900,
    ),
    AlertKind.WORKER_START_FAILED: RuleInfo(
        label="Worker failed to start",
        description="A worker cannot run tasks: its deployment or its process fails.",
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.WORKER_NOT_CONSUMING: RuleInfo(
        label="Worker not consuming",
        description="A ready worker with free slots dequeues nothing although tasks are pending in a queue that it "
        "serves. Restart it.",
        level=AlertLevel.CRITICAL,
        defaults=RuleSettings(for_s=60),
        keep_s=0,
    ),
    AlertKind.SHARED_DEATHS: RuleInfo(
        label="Dies at concurrency",
        description=f"At least as many processes as the threshold died in the last {SHARED_DEATHS_WINDOW_MIN} minutes "
        "while they ran several tasks. A task that was in two of them runs alone.",
        level=AlertLevel.WARNING,
        threshold_unit="death",
        defaults=RuleSettings(threshold=2),
    ),
    AlertKind.CONFIGURATION_NOT_PUBLISHED: RuleInfo(
        label="Configuration not published",
        description="Redis and the database differ, so that workers and servers do not use the latest configuration.",
        level=AlertLevel.CRITICAL,
        is_per_queue=False,
        defaults=RuleSettings(for_s=60),
        keep_s=0,
    ),
    AlertKind.HISTORY_DROPPED: RuleInfo(
        label="History incomplete",
        description=f"Runs were dropped before they reached the history, in the last {DROP_WINDOW_MIN} minutes: the "
        "database, or maintenance that writes to it, is unavailable or too slow. Tasks are not affected.",
        level=AlertLevel.WARNING,
    ),
    AlertKind.VAULT_UNREADABLE: RuleInfo(
        label="Vault missing or unreadable",
        description="A vault of the queue is missing or cannot be decrypted, so its workers cannot register. Also "
        "opens when the server lacks the master key of any vault.",
        level=AlertLevel.CRITICAL,
        keep_s=0,
    ),
    AlertKind.INACTIVE_KEY_CREATOR: RuleInfo(
        label="Keys of former admins",
        description="Some accepted API keys were created by users who are deleted, inactive or no longer allowed to "
        "create keys, or were created with such keys.",
        level=AlertLevel.WARNING,
        is_per_queue=False,
        keep_s=0,
    ),
    AlertKind.REDIS_MEMORY: RuleInfo(
        label="Redis memory",
        description="Redis uses the threshold of its memory limit (maxmemory) or more; beyond 97 % no task can be "
        "enqueued.",
        level=AlertLevel.CRITICAL,
        threshold_unit="%",
        is_per_queue=False,
        defaults=RuleSettings(threshold=90),
    ),
    AlertKind.REDIS_FAILOVER: RuleInfo(
        label="Redis failover",
        description="A replica of Redis was promoted, or a master with replicas started from a snapshot: writes "
        "made just before may be missing. Resolved after a day.",
        level=AlertLevel.CRITICAL,
        is_per_queue=False,
        keep_s=86_400,
    ),
}


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
    publication_problem: str = ""
    """How Redis and the database differ; empty if they agree."""
    inactive_creators: str = ""
    """Which valid API keys were created by users who may no longer create keys; empty if there are none."""
    master_key_error: str = ""
    """Which master keys of vault entries the server lacks; empty if it has all."""
    history_dropped: Mapping[str, int] = field(default_factory=dict)
    """The number of dropped runs that were counted in the last minutes, by queue."""
    memory_use: float = 0
    """The fraction of its memory limit that Redis uses; in a cluster, the fullest server."""
    masters: Sequence[RedisHealth] = ()
    known_masters: Collection[str] = ()
    """The replication ids that were observed before."""
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A condition that a rule found."""

    kind: AlertKind
    subject: str
    """The name of the queue or worker, or the replication id of a new master; empty for the whole installation."""
    queue: str = ""
    """The queue concerned; empty if there is none."""
    message: str
    for_s: int = 0


GetSettings = Callable[[AlertKind, str], RuleSettings]  # by kind and name of the queue


def find_problems(observed: Observation, get_settings: GetSettings) -> list[Finding]:
    findings: list[Finding] = []
    for queue in observed.queues:
        for kind, rule in _QUEUE_RULES.items():
            settings = get_settings(kind, queue.name)
            if settings.is_enabled and (message := rule(queue, settings.threshold or 0)):
                findings.append(
                    Finding(kind=kind, subject=queue.name, queue=queue.name, message=message, for_s=settings.for_s)
                )
    findings += _find_general(observed, get_settings)
    return findings


def list_recovered_workers(observed: Observation) -> set[str]:
    """Return the ids of workers that send heartbeats. Their alerts are resolved at once."""
    return {worker.worker_id for worker in observed.workers if not worker.is_missing}


def _check_workers(queue: QueueObservation, threshold: float) -> str | None:
    unserved = [each for each in queue.not_paused if each.queue not in queue.served]
    pending = sum(each.pending for each in unserved)
    if not queue.is_enabled or pending < max(threshold, 1):
        return None
    if len(unserved) == len(queue.redis_queues):
        return f"Queue {queue.name} has {_count(pending, 'pending task')} and no ready worker."
    names = [each.queue for each in unserved if each.pending]
    subject = f"Sub-queue {names[0]} has" if len(names) == 1 else f"Sub-queues {', '.join(names)} have"
    return f"{subject} {_count(pending, 'pending task')} and no ready worker."


def _check_oldest(queue: QueueObservation, threshold: float) -> str | None:
    waiting = [each for each in queue.not_paused if each.pending and each.latency_s > threshold]
    if not waiting:
        return None
    oldest = max(waiting, key=lambda each: each.latency_s)
    where = f"sub-queue {oldest.queue}" if len(queue.redis_queues) > 1 else f"queue {queue.name}"
    return f"The oldest pending task of {where} has been waiting for {durations.humanize(oldest.latency_s)}."


def _check_failures(queue: QueueObservation, threshold: float) -> str | None:
    recent = queue.minutes[-FAILURE_WINDOW_MIN:]
    ended, failed = sum(point.ended for point in recent), sum(point.failed for point in recent)
    if ended < MIN_RUNS or 100 * failed <= threshold * ended:
        return None
    share = _format_share(failed, ended)
    return (
        f"{share} of the runs of queue {queue.name} failed in the last {FAILURE_WINDOW_MIN} minutes "
        f"({failed:,} of {ended:,})."
    )


def _check_growth(queue: QueueObservation, threshold: float) -> str | None:
    # Without the current minute, which is not over.
    minutes = enumerate(queue.minutes[:-1][-GROWTH_WINDOW_MIN:])
    samples = [(minute, point.backlog) for minute, point in minutes if point.backlog is not None]
    if len(samples) < MIN_SAMPLES:
        return None
    slope, recent_slope = _median_slope(samples), _median_slope(samples[len(samples) // 2 :])
    if slope * GROWTH_WINDOW_MIN < max(threshold, 1) or recent_slope < 0:
        return None
    rate = _count(round(slope, 1 if slope < 10 else None), "task")
    return (
        f"The backlog of queue {queue.name} grew by about {rate} a minute in the last {GROWTH_WINDOW_MIN} minutes, "
        f"to {_count(samples[-1][1], 'pending task')}."
    )


def _median_slope(samples: Sequence[tuple[int, int]]) -> float:
    """Return the median slope of all pairs of samples (the Theil-Sen estimator), which single outliers do not move."""
    return median((later - earlier) / (to - since) for (since, earlier), (to, later) in combinations(samples, 2))


def _check_vaults(queue: QueueObservation, _: float) -> str | None:
    if not queue.vault_errors or not queue.is_enabled:
        return None
    return f"Workers cannot register for queue {queue.name}. {' '.join(queue.vault_errors)}"


def _check_shared_deaths(queue: QueueObservation, threshold: float) -> str | None:
    if queue.shared_deaths < max(threshold, 1):
        return None
    processes = "1 process" if queue.shared_deaths == 1 else f"{queue.shared_deaths:,} processes"
    return (
        f"Queue {queue.name} dies at concurrency {queue.shared_death_tasks:,}: {processes} died in the last "
        f"{SHARED_DEATHS_WINDOW_MIN} minutes while running at least as many tasks. If one task is the cause, it is "
        "archived; otherwise lower its tasks at once (child_concurrency), or the size of its batches."
    )


_QUEUE_RULES: Mapping[AlertKind, Callable[[QueueObservation, float], str | None]] = {
    AlertKind.NO_READY_WORKER: _check_workers,
    AlertKind.OLDEST_PENDING: _check_oldest,
    AlertKind.FAILURE_RATE: _check_failures,
    AlertKind.BACKLOG_GROWING: _check_growth,
    AlertKind.VAULT_UNREADABLE: _check_vaults,
    AlertKind.SHARED_DEATHS: _check_shared_deaths,
}


def _find_general(observed: Observation, get_settings: GetSettings) -> Iterator[Finding]:
    for kind, subject, queue, message in (
        *_worker_problems(observed),
        *_installation_problems(observed),
        *_memory_problems(observed.memory_use, get_settings(AlertKind.REDIS_MEMORY, "").threshold or 0),
        *_failovers(observed),
    ):
        settings = get_settings(kind, queue)
        if settings.is_enabled:
            yield Finding(kind=kind, subject=subject, queue=queue, message=message, for_s=settings.for_s)


def _worker_problems(observed: Observation) -> Iterator[tuple[AlertKind, str, str, str]]:
    pending = {each.queue: each.pending for queue in observed.queues for each in queue.not_paused if each.pending}
    for worker in observed.workers:
        if worker.is_missing:
            message = f"Worker {worker.worker_id} has sent no heartbeat for {durations.humanize(worker.silent_s)}."
            yield AlertKind.WORKER_MISSING, worker.worker_id, worker.queue, message
        elif worker.start_failure is not None:
            message = f"Worker {worker.worker_id} failed to start: {_shorten(worker.start_failure) or 'unknown reason'}"
            yield AlertKind.WORKER_START_FAILED, worker.worker_id, worker.queue, message
        elif waiting := [f"{name}: {pending[name]:,}" for name in worker.idle_queues if name in pending]:
            message = (
                f"Worker {worker.worker_id} is ready and has free slots, but dequeues nothing although tasks are "
                f"pending ({', '.join(waiting)})."
            )
            yield AlertKind.WORKER_NOT_CONSUMING, worker.worker_id, worker.queue, message


def _shorten(reason: str) -> str:
    line = find_error_line(reason)
    return line if len(line) <= REASON_MAX_CHARS else f"{line[:REASON_MAX_CHARS]}…"


def _installation_problems(observed: Observation) -> Iterator[tuple[AlertKind, str, str, str]]:
    if observed.publication_problem:
        yield AlertKind.CONFIGURATION_NOT_PUBLISHED, "", "", observed.publication_problem
    if observed.inactive_creators:
        yield AlertKind.INACTIVE_KEY_CREATOR, "", "", observed.inactive_creators
    if observed.master_key_error:
        yield AlertKind.VAULT_UNREADABLE, "", "", observed.master_key_error
    for queue, dropped in observed.history_dropped.items():
        was = "was" if dropped == 1 else "were"
        message = (
            f"{_count(dropped, 'run')} of queue {queue} {was} found to be missing from the history in the last "
            f"{DROP_WINDOW_MIN} minutes."
        )
        yield AlertKind.HISTORY_DROPPED, queue, queue, message


def _memory_problems(use: float, threshold: float) -> Iterator[tuple[AlertKind, str, str, str]]:
    if not use or 100 * use < threshold:
        return
    effect = "No task" if use > MemoryUse.MAX_USE else "Beyond 97 % no task"
    message = (
        f"Redis uses {100 * use:.0f} % of its memory limit. {effect} can be enqueued until tasks are deleted or end, "
        "or maxmemory is raised."
    )
    yield AlertKind.REDIS_MEMORY, "", "", message


def _failovers(observed: Observation) -> Iterator[tuple[AlertKind, str, str, str]]:
    """Yield the masters that took over from a known one. A server that starts without a snapshot has no previous id."""
    known = observed.known_masters
    # After two failovers between two observations the previous id is unknown too. Without any known id this is the
    # first observation.
    are_all_new = bool(known) and not any(master.replication_id in known for master in observed.masters)
    for master in observed.masters:
        if master.replication_id in known or not master.previous_replication_id:
            continue
        if master.previous_replication_id in known or are_all_new:
            where = f"Redis server {master.name}" if master.name else "Redis"
            message = (
                f"{where} failed over to a replica or started from a snapshot (detected at "
                f"{observed.now:%Y-%m-%d %H:%M:%S} UTC). Writes made just before may be missing: accepted tasks, "
                "results and leases. Compare with the records of your clients, and enqueue missing tasks again with "
                "the same Idempotency-Key or unique key: see “After a failover” in docs/how-to/sentinel-and-cluster.md."
            )
            yield AlertKind.REDIS_FAILOVER, master.replication_id, "", message


def _format_share(part: int, whole: int) -> str:
    """Format a share in percent, to begin a sentence. 0 % and 100 % mean exactly none and all."""
    rounded = round(100 * part / whole)
    if rounded == 0 and part:
        return "Less than 1 %"
    return "More than 99 %" if rounded == 100 and part < whole else f"{rounded} %"


def _count(number: float, noun: str) -> str:
    return f"{number:,.12g} {noun}{'' if number == 1 else 's'}"
