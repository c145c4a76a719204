"""The conditions that rules look for: each takes what was observed and a threshold. No I/O."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from statistics import median

from alerts.observations import Observation, Problem, QueueObservation, ReplacingWorker
from runqy.broker.memory import MemoryUse
from runqy.broker.streams.ends import MAX_ENDS_WITH_RESULTS
from runqy.broker.tasks.enqueue import MAX_ENDS
from runqy.broker.workers.records import SHARED_DEATHS_WINDOW_S
from runqy.core.formats import durations
from runqy.core.formats.error_texts import find_error_line
from tasks.history.failure_counts import NO_FAILURES, FailureCounts

FAILURE_WINDOW_MIN = 5
GROWTH_WINDOW_MIN = 10
DROP_WINDOW_MIN = GROWTH_WINDOW_MIN
SHARED_DEATHS_WINDOW_MIN = SHARED_DEATHS_WINDOW_S // 60
MIN_SAMPLES = 8
"""With fewer minutes of the window there is no meaningful trend."""
REASON_MAX_CHARS = 300
"""How much of the reason that a worker reports is in a message. The worker's page has all of it."""
REPLACING_MAX = 3
"""How many workers that have their turn a message names."""
MIN_TASKS = 10
"""Over fewer tasks a failure rate is not meaningful."""

Check = Callable[[QueueObservation, float], str | None]
Find = Callable[[Observation, float], Iterator[Problem]]


def check_workers(queue: QueueObservation, threshold: float) -> str | None:
    unserved = [each for each in queue.not_paused if each.queue not in queue.served]
    pending = sum(each.pending for each in unserved)
    if not queue.is_enabled or pending < max(threshold, 1):
        return None
    if len(unserved) == len(queue.redis_queues):
        return f"Queue {queue.name} has {count(pending, 'pending task')} and no ready worker."
    names = [each.queue for each in unserved if each.pending]
    subject = f"Sub-queue {names[0]} has" if len(names) == 1 else f"Sub-queues {', '.join(names)} have"
    return f"{subject} {count(pending, 'pending task')} and no ready worker."


def check_oldest(queue: QueueObservation, threshold: float) -> str | None:
    waiting = [each for each in queue.not_paused if each.pending and each.latency_s > threshold]
    if not waiting:
        return None
    oldest = max(waiting, key=lambda each: each.latency_s)
    where = f"sub-queue {oldest.queue}" if len(queue.redis_queues) > 1 else f"queue {queue.name}"
    return f"The oldest pending task of {where} has been waiting for {durations.humanize(oldest.latency_s)}."


def check_failures(queue: QueueObservation, threshold: float) -> str | None:
    counts = sum((point.failures for point in queue.minutes[-FAILURE_WINDOW_MIN:]), start=NO_FAILURES)
    # Without new tasks, only those end that have failed again and again.
    if counts.first_ended < MIN_TASKS:
        return None
    failed, ended, noun = choose_rate(counts)
    if 100 * failed <= threshold * ended:
        return None
    new = count(counts.first_ended, "new task")
    return (
        f"{_format_share(failed, ended)} of the {noun} of queue {queue.name} that ended in the last "
        f"{FAILURE_WINDOW_MIN} minutes failed ({failed:,} of {ended:,}; {new})."
    )


def choose_rate(counts: FailureCounts) -> tuple[int, int, str]:
    """Return how many failed, of how many, and of what: tasks that ended, but first attempts while all are retried."""
    if counts.tasks_ended < MIN_TASKS <= counts.first_ended:
        return counts.first_failed, counts.first_ended, "first attempts"
    return counts.tasks_failed, counts.tasks_ended, "tasks"


def check_growth(queue: QueueObservation, threshold: float) -> str | None:
    # Without the current minute, which is not over.
    minutes = enumerate(queue.minutes[:-1][-GROWTH_WINDOW_MIN:])
    samples = [(minute, point.backlog) for minute, point in minutes if point.backlog is not None]
    if len(samples) < MIN_SAMPLES:
        return None
    slope, recent_slope = _median_slope(samples), _median_slope(samples[len(samples) // 2 :])
    if slope * GROWTH_WINDOW_MIN < max(threshold, 1) or recent_slope < 0:
        return None
    rate = count(round(slope, 1 if slope < 10 else None), "task")
    return (
        f"The backlog of queue {queue.name} grew by about {rate} a minute in the last {GROWTH_WINDOW_MIN} minutes, "
        f"to {count(samples[-1][1], 'pending task')}."
    )


def _median_slope(samples: Sequence[tuple[int, int]]) -> float:
    """Return the median slope of all pairs of samples (the Theil-Sen estimator), which single outliers do not move."""
    return median((later - earlier) / (to - since) for (since, earlier), (to, later) in combinations(samples, 2))


def check_vaults(queue: QueueObservation, _: float) -> str | None:
    if not queue.vault_errors or not queue.is_enabled:
        return None
    return f"Workers cannot register for queue {queue.name}. {' '.join(queue.vault_errors)}"


def check_shared_deaths(queue: QueueObservation, threshold: float) -> str | None:
    if queue.shared_deaths < max(threshold, 1):
        return None
    processes = "1 process" if queue.shared_deaths == 1 else f"{queue.shared_deaths:,} processes"
    return (
        f"Queue {queue.name} dies at concurrency {queue.shared_death_tasks:,}: {processes} died in the last "
        f"{SHARED_DEATHS_WINDOW_MIN} minutes while running at least as many tasks. If one task is the cause, it is "
        "archived; otherwise lower its tasks at once (child_concurrency), or the size of its batches."
    )


def check_ends(queue: QueueObservation, threshold: float) -> str | None:
    fullest = max(queue.redis_queues, key=lambda each: each.ends, default=None)
    if fullest is None or fullest.ends < max(threshold, 1):
        return None
    return (
        f"{count(fullest.ends, 'end')} of tasks of {fullest.queue} wait to be told to webhooks and batches. From "
        f"{MAX_ENDS_WITH_RESULTS:,} on their results are left out; at {MAX_ENDS:,} no task of it is enqueued that "
        "tells its end."
    )


def check_replacements(queue: QueueObservation, threshold: float) -> str | None:
    in_turn = [each for each in queue.replacing if each.has_turn]
    waiting = [each for each in queue.replacing if not each.has_turn]
    stalled = [each for each in in_turn if each.problem or each.lasts_s > threshold]
    if not stalled and not any(each.lasts_s > threshold for each in waiting):
        return None
    texts = [f"Processes of queue {queue.name} still have the environment before its last change."]
    texts += map(_describe_turn, (stalled or in_turn)[:REPLACING_MAX])
    if hidden := len((stalled or in_turn)[REPLACING_MAX:]):
        texts.append(f"{hidden:,} more like it.")
    if waiting:
        first = max(waiting, key=lambda each: each.lasts_s)
        texts.append(
            f"Waiting for a turn: {count(len(waiting), 'worker')}, {first.worker_id} for "
            f"{durations.humanize(first.lasts_s)}."
        )
    return " ".join(texts)


def _describe_turn(worker: ReplacingWorker) -> str:
    lasts = durations.humanize(worker.lasts_s)
    problem = shorten(worker.problem) or "its new processes are not ready"
    return f"Worker {worker.worker_id} has had its turn to replace them for {lasts}: {problem.rstrip('.')}."


def find_missing_workers(observed: Observation, _: float) -> Iterator[Problem]:
    for worker in observed.workers:
        if worker.is_missing:
            message = f"Worker {worker.worker_id} has sent no heartbeat for {durations.humanize(worker.silent_s)}."
            yield Problem(worker.worker_id, message, worker.queue)


def find_failed_starts(observed: Observation, _: float) -> Iterator[Problem]:
    for worker in observed.workers:
        if worker.start_failure is not None and not worker.is_missing:
            message = f"Worker {worker.worker_id} failed to start: {shorten(worker.start_failure) or 'unknown reason'}"
            yield Problem(worker.worker_id, message, worker.queue)


def find_not_consuming(observed: Observation, _: float) -> Iterator[Problem]:
    pending = {each.queue: each.pending for queue in observed.queues for each in queue.not_paused if each.pending}
    for worker in observed.workers:
        waiting = [f"{name}: {pending[name]:,}" for name in worker.idle_queues if name in pending]
        if waiting and not worker.is_missing and worker.start_failure is None:
            message = (
                f"Worker {worker.worker_id} is ready and has free slots, but dequeues nothing although tasks are "
                f"pending ({', '.join(waiting)})."
            )
            yield Problem(worker.worker_id, message, worker.queue)


def find_dropped_history(observed: Observation, _: float) -> Iterator[Problem]:
    for queue, dropped in observed.history_dropped.items():
        was = "was" if dropped == 1 else "were"
        message = (
            f"{count(dropped, 'run')} of queue {queue} {was} found to be missing from the history in the last "
            f"{DROP_WINDOW_MIN} minutes."
        )
        yield Problem(queue, message, queue)


def find_full_memory(observed: Observation, threshold: float) -> Iterator[Problem]:
    use = observed.memory_use
    if not use or 100 * use < threshold:
        return
    effect = "No task" if use > MemoryUse.MAX_USE else "Beyond 97 % no task"
    message = (
        f"Redis uses {100 * use:.0f} % of its memory limit. {effect} can be enqueued until tasks are deleted or end, "
        "or maxmemory is raised."
    )
    yield Problem("", message)


def find_failovers(observed: Observation, _: float) -> Iterator[Problem]:
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
            yield Problem(master.replication_id, message)


def shorten(reason: str) -> str:
    line = find_error_line(reason)
    return line if len(line) <= REASON_MAX_CHARS else f"{line[:REASON_MAX_CHARS]}…"


def count(number: float, noun: str) -> str:
    """Return a number with its noun: `1 task`, `1,500 tasks`."""
    return f"{number:,.12g} {noun}{'' if number == 1 else 's'}"


def _format_share(part: int, whole: int) -> str:
    """Format a share in percent, to begin a sentence. 0 % and 100 % mean exactly none and all."""
    rounded = round(100 * part / whole)
    if rounded == 0 and part:
        return "Less than 1 %"
    return "More than 99 %" if rounded == 100 and part < whole else f"{rounded} %"
