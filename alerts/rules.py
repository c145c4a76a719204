"""The table of rules: what each kind of alert looks for, its texts and its defaults."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from alerts import conditions as c
from alerts.kinds import AlertKind, AlertLevel
from alerts.observations import Observation, Problem, WorkerObservation
from runqy.broker.streams.ends import MAX_ENDS_WITH_RESULTS
from runqy.broker.tasks.enqueue import MAX_ENDS
from runqy.core.formats import durations
from runqy.maintenance.failed_rows import RowFailures

failures = RowFailures("alert rule")
"""Each rule, and each rule for each subject, counts as a row; so does the observation of each queue and worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """When a rule finds something, and how long that must last before an alert opens."""

    is_enabled: bool = True
    threshold: float | None = None
    """In the unit of the kind; None if the kind has no threshold."""
    for_s: int = 0


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """A kind of alert: what it looks for, its texts and defaults."""

    label: str
    description: str
    find: c.Find | None = None
    """Returns problems besides those that other apps report."""
    is_of_workers: bool = False
    """Whether `find` looks at each worker for itself."""
    check: c.Check | None = None
    """Returns the message for a queue that has the problem."""
    level: AlertLevel = AlertLevel.WARNING
    defaults: RuleSettings = RuleSettings()
    threshold_unit: str = ""
    """`%`, `s` or a countable noun; empty if the kind has no threshold."""
    is_per_queue: bool = True
    """Whether it can have settings for one queue."""
    keep_s: int = 60
    """How long an alert stays open after the condition was last observed, so that a brief pause does not resolve it."""

    def format_threshold(self, threshold: float | None) -> str:
        """Format a threshold with its unit: `20 %`, `10 min`, `1 pending task`. Empty for a rule without one."""
        if threshold is None or not self.threshold_unit:
            return ""
        if self.threshold_unit == "s" and threshold == int(threshold):
            return durations.humanize_exactly(int(threshold))
        if self.threshold_unit in ("%", "s"):
            return f"{threshold:,.12g} {self.threshold_unit}"
        return c.count(threshold, self.threshold_unit)


RULES: Mapping[AlertKind, RuleInfo] = {
    AlertKind.NO_READY_WORKER: RuleInfo(
        "No ready worker",
        "At least as many tasks as the threshold are pending in sub-queues that no ready worker serves.",
        check=c.check_workers,
        defaults=RuleSettings(threshold=1, for_s=60),
        threshold_unit="pending task",
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.OLDEST_PENDING: RuleInfo(
        "Oldest pending task",
        "The oldest pending task has been waiting for longer than the threshold.",
        check=c.check_oldest,
        defaults=RuleSettings(threshold=600),
        threshold_unit="s",
    ),
    AlertKind.FAILURE_RATE: RuleInfo(
        "Failure rate",
        f"More than the threshold of the tasks that ended in the last {c.FAILURE_WINDOW_MIN} minutes failed; at least "
        f"{c.MIN_TASKS} new tasks must have been tried. If fewer than {c.MIN_TASKS} tasks ended, because they are "
        "retried, the first attempts of the new tasks count instead.",
        check=c.check_failures,
        defaults=RuleSettings(threshold=20),
        threshold_unit="%",
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.BACKLOG_GROWING: RuleInfo(
        "Backlog growing",
        f"By the trend of the last {c.GROWTH_WINDOW_MIN} minutes the number of pending tasks grew by the threshold or "
        "more, and did not fall in the second half.",
        check=c.check_growth,
        defaults=RuleSettings(threshold=100),
        threshold_unit="task",
    ),
    AlertKind.WORKER_MISSING: RuleInfo(
        "Worker missing",
        "A worker stopped sending heartbeats without deregistering. Resolved when it reports again, or after 15 "
        "minutes.",
        c.find_missing_workers,
        is_of_workers=True,
        keep_s=900,
    ),
    AlertKind.WORKER_START_FAILED: RuleInfo(
        "Worker failed to start",
        "A worker cannot run tasks: its deployment or its process fails.",
        c.find_failed_starts,
        is_of_workers=True,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.WORKER_NOT_CONSUMING: RuleInfo(
        "Worker not consuming",
        "A ready worker with free slots dequeues nothing although tasks are pending in a queue that it serves. Restart "
        "it.",
        c.find_not_consuming,
        is_of_workers=True,
        defaults=RuleSettings(for_s=60),
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.SHARED_DEATHS: RuleInfo(
        "Dies at concurrency",
        f"At least as many processes as the threshold died in the last {c.SHARED_DEATHS_WINDOW_MIN} minutes while they "
        "ran several tasks. A task that was in two of them runs alone.",
        check=c.check_shared_deaths,
        defaults=RuleSettings(threshold=2),
        threshold_unit="death",
    ),
    AlertKind.FIRE_MISSED: RuleInfo(
        "Schedule did not enqueue",
        "The last due time of a schedule enqueued nothing although it should have: its queue was full, disabled or "
        "deleted, or maintenance did not run, beyond its window; or its payload is not accepted. Resolved when it "
        "enqueues a task again, is paused or is over.",
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.ENQUEUE_UNKNOWN: RuleInfo(
        "Unknown whether enqueued",
        "Maintenance was interrupted for a day while it enqueued a task that is enqueued only once: it may or may not "
        "have been. Resolved after a day.",
        is_per_queue=False,
    ),
    AlertKind.CONFIGURATION_NOT_PUBLISHED: RuleInfo(
        "Configuration not published",
        "Redis and the database differ, so that workers and servers do not use the latest configuration.",
        is_per_queue=False,
        defaults=RuleSettings(for_s=60),
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.HISTORY_DROPPED: RuleInfo(
        "History incomplete",
        f"Runs were dropped before they reached the history, in the last {c.DROP_WINDOW_MIN} minutes: the database, or "
        "maintenance that writes to it, is unavailable or too slow. Tasks are not affected.",
        c.find_dropped_history,
    ),
    AlertKind.VAULT_UNREADABLE: RuleInfo(
        "Vault missing or unreadable",
        "A vault of the queue is missing or cannot be decrypted, so its workers cannot register. Also opens when the "
        "server lacks the master key of any vault.",
        check=c.check_vaults,
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.ENDS_BACKLOG: RuleInfo(
        "End-event backlog",
        "At least as many ends of tasks as the threshold wait in a sub-queue's stream to be told to webhooks and "
        "batches: maintenance is too slow, or the database is away. From "
        f"{MAX_ENDS_WITH_RESULTS:,} on their results are left out.",
        check=c.check_ends,
        defaults=RuleSettings(threshold=MAX_ENDS_WITH_RESULTS),
        threshold_unit="end",
    ),
    AlertKind.ENDS_NEARLY_FULL: RuleInfo(
        "End-event backlog nearly full",
        "At least as many ends of tasks as the threshold wait in a sub-queue's stream. At "
        f"{MAX_ENDS:,} no task is enqueued that tells its end.",
        check=c.check_ends,
        defaults=RuleSettings(threshold=MAX_ENDS // 2),
        threshold_unit="end",
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.WEBHOOK_LATE: RuleInfo(
        "Webhook late",
        "The oldest message that is due to a webhook endpoint has been due for more than 5 minutes, although the "
        "endpoint accepts others.",
        is_per_queue=False,
    ),
    AlertKind.WEBHOOK_FAILING: RuleInfo(
        "Webhook failing",
        "All messages to a webhook endpoint have failed for 15 minutes.",
        is_per_queue=False,
        keep_s=0,
    ),
    AlertKind.WEBHOOK_DISABLED: RuleInfo(
        "Webhook disabled",
        "The server disabled a webhook endpoint, because it has failed for five days or responded with status 410. "
        "Messages to it are kept until a user enables it, for at most 7 days.",
        is_per_queue=False,
        keep_s=0,
    ),
    AlertKind.WEBHOOK_DROPPED: RuleInfo(
        "Webhook messages dropped",
        "The server dropped messages to a webhook endpoint that it had disabled, because more than 100,000 or 256 MiB "
        "waited, or for more than 7 days. Resolved when a user enables it.",
        is_per_queue=False,
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.BATCH_INCOMPLETE: RuleInfo(
        "Batch incomplete",
        "The callback of a batch was refused, or it is unknown whether the callback or members were enqueued, because "
        "that was interrupted for 23 hours. Resolved when the batch is deleted.",
        is_per_queue=False,
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.BATCH_ABANDONED: RuleInfo(
        "Batch never closed",
        "The server closed a batch, because nothing was added to it for seven days. Resolved when the batch is "
        "deleted.",
        is_per_queue=False,
        keep_s=0,
    ),
    AlertKind.RELEASE_REVERTED: RuleInfo(
        "Release reverted",
        "The newest release of a queue did not start or failed on its first workers, which run the release before "
        "again. Resolved when there is a newer release.",
        keep_s=0,
    ),
    AlertKind.REPLACEMENT_STALLED: RuleInfo(
        "Processes not replaced",
        "After a change of secrets or variables, the new processes of a worker do not start in its turn, so that "
        "others wait, or a worker has had its turn, or waits for it, for longer than the threshold. The old processes "
        "go on.",
        check=c.check_replacements,
        defaults=RuleSettings(threshold=3600, for_s=60),
        threshold_unit="s",
    ),
    AlertKind.ROW_FAILED: RuleInfo(
        "Left out by maintenance",
        "Maintenance met an unexpected error at one object, such as a schedule or a batch, and leaves it out for a "
        "minute, up to an hour while it repeats. Everything else goes on. The log has the error (row_failed). Resolved "
        "when the object is handled again.",
        keep_s=0,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.INACTIVE_KEY_CREATOR: RuleInfo(
        "Keys of former admins",
        "Some accepted API keys were created by users who are deleted, inactive or no longer allowed to create keys, "
        "or were created with such keys.",
        is_per_queue=False,
        keep_s=0,
    ),
    AlertKind.REDIS_MEMORY: RuleInfo(
        "Redis memory",
        "Redis uses the threshold of its memory limit (maxmemory) or more; beyond 97 % no task can be enqueued.",
        c.find_full_memory,
        defaults=RuleSettings(threshold=90),
        threshold_unit="%",
        is_per_queue=False,
        level=AlertLevel.CRITICAL,
    ),
    AlertKind.REDIS_FAILOVER: RuleInfo(
        "Redis failover",
        "A replica of Redis was promoted, or a master with replicas started from a snapshot: writes made just before "
        "may be missing. Resolved after a day.",
        c.find_failovers,
        is_per_queue=False,
        keep_s=86_400,
        level=AlertLevel.CRITICAL,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Problem):
    """A condition that a rule found."""

    kind: AlertKind
    for_s: int = 0


GetSettings = Callable[[AlertKind, str], RuleSettings]  # by kind and name of the queue


def observation_key(name: str) -> str:
    """Return the key of the observation of a queue or worker."""
    return f"of {name}"


def subject_key(kind: str, subject: str) -> str:
    """Return the key of a rule for one subject."""
    return f"{kind} {subject}"


def is_evaluated(kind: str, subject: str, queue: str) -> bool:
    """Return whether the last pass could look for a problem: neither the rule nor what it looks at failed."""
    keys = (kind, subject_key(kind, subject), observation_key(subject), observation_key(queue))
    return not any(map(failures.is_paused, keys))


def find_problems(observed: Observation, get_settings: GetSettings) -> list[Finding]:
    findings: list[Finding] = []
    for kind, rule in RULES.items():
        problems = [*observed.reported.get(kind, ())]
        if rule.find and rule.is_of_workers:
            find = partial(_find_of_workers, rule.find, observed, problems)
            failures.handle(observed.workers, find, describe=partial(_describe_worker, kind))
        elif rule.find and not failures.is_paused(kind.value):
            with failures.isolate(kind.value):
                problems += list(rule.find(observed, get_settings(kind, "").threshold or 0))
        if check := rule.check:
            for queue in observed.queues:
                key = subject_key(kind, queue.name)
                if not failures.is_paused(key):
                    with failures.isolate(key, name=f"{kind} of {queue.name}", queue=queue.name):
                        if message := check(queue, get_settings(kind, queue.name).threshold or 0):
                            problems.append(Problem(queue.name, message, queue.name))
        by_problem = [(problem, get_settings(kind, problem.queue)) for problem in problems]
        findings += [Finding(**asdict(each), kind=kind, for_s=its.for_s) for each, its in by_problem if its.is_enabled]
    return findings


def _find_of_workers(
    find: c.Find, observed: Observation, problems: list[Problem], workers: Sequence[WorkerObservation]
) -> None:
    problems += list(find(replace(observed, workers=workers), 0))


def _describe_worker(kind: AlertKind, worker: WorkerObservation) -> tuple[str, str, str]:
    return subject_key(kind, worker.worker_id), f"{kind} of worker {worker.worker_id}", worker.queue


def list_recovered_workers(observed: Observation) -> set[str]:
    """Return the ids of workers that send heartbeats. Their alerts are resolved at once."""
    return {worker.worker_id for worker in observed.workers if not worker.is_missing}
