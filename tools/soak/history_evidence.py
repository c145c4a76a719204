"""Wait until the history has caught up, and collect what its checker compares."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from urllib.parse import urlencode

import redis as redis_py
from prometheus_client.parser import text_string_to_metric_families

from runqy.broker.keys import QueueKeys
from runqy.broker.states import TaskState
from tools.soak.attempts import LETTERS, QueueHistory, check_history, compare_sums
from tools.soak.evidence import UNENDED, count_unended, read_ids
from tools.soak.history_database import HistoryDatabase
from tools.soak.history_load import SteadyLoad
from tools.soak.processes import wait_for
from tools.soak.report import Report, counted
from tools.soak.stack import Stack

ENDED = (TaskState.COMPLETED, TaskState.ARCHIVED)
DRAIN_S = 300.0
CATCH_UP_S = 300.0
METRICS_S = 60.0  # workers report with their heartbeats
SETTLED_S = 3.0
"""How long to wait after the last entry was removed: the number of dropped ones is stored later."""

Metrics = dict[tuple[str, str, str], float]  # by name, queue and outcome, which is empty if a metric has none


def wait_for_history(stack: Stack, load: SteadyLoad, report: Report, part: str) -> None:
    """Wait until all tasks have ended and none of their attempts is left in Redis."""
    queues = list(load.accepted)
    with stack.redis_client() as redis:
        took_s = _try_to_wait(lambda: not count_unended(queues, [redis]), DRAIN_S)
        report.figure(part, "all tasks ended", _after(took_s), passed=took_s is not None)
        streams = [QueueKeys(queue).runs for queue in queues]
        took_s = _try_to_wait(lambda: not any(map(redis.xlen, streams)), CATCH_UP_S)
        report.figure(part, "the history had caught up", _after(took_s), passed=took_s is not None)
        time.sleep(SETTLED_S)
        attempts = sum(int(redis.get(QueueKeys(queue).processed) or 0) for queue in queues)
    _try_to_wait(lambda: _count_runs(read_metrics(stack), queues) >= attempts, METRICS_S)


def collect_histories(stack: Stack, load: SteadyLoad, *, since: datetime) -> list[QueueHistory]:
    database, journal, metrics = HistoryDatabase(stack), read_journal(stack), read_metrics(stack)
    with stack.redis_client() as redis:
        return [
            _collect(
                stack, queue, accepted, database=database, journal=journal, metrics=metrics, redis=redis, since=since
            )
            for queue, accepted in load.accepted.items()
        ]


def report_histories(histories: Sequence[QueueHistory], report: Report, part: str) -> None:
    """Print the sums over all queues, and the result of each queue's check."""
    results = [check_history(history) for history in histories]
    accepted = sum(len(history.accepted) for history in histories)
    ended, waiting = (sum(len(getattr(history, name)) for history in histories) for name in ("ended", "waiting"))
    text = f"{accepted:,} accepted, {ended:,} ended, {waiting:,} waiting"
    report.figure(part, "accepted = ended + waiting", text, passed=accepted == ended + waiting)
    rows = sum(len(letters) for history in histories for letters in history.rows.values())
    attempts, missing = sum(history.attempts for history in histories), sum(r.missing.total() for r in results)
    lost = sum(result.lost for result in results)
    report.figure(part, "attempts noted by tasks, rows", f"{attempts:,}, {rows:,} ({lost:,} of lost attempts)")
    counts = {
        "in the rollups only": sum(history.counted_only for history in histories),
        "dropped": sum(history.dropped for history in histories),
        "invalid": sum(history.invalid for history in histories),
    }
    text = f"{missing:,} ({counted({name: count for name, count in counts.items() if count})})"
    report.figure(part, "attempts without a row", text, passed=missing == sum(counts.values()))
    twice = [found for history in histories for found in history.twice]
    report.figure(part, "attempts or ends stored twice", str(len(twice)), passed=not twice)
    _report_sums(histories, report, part)
    violations = [violation for result in results for violation in result.violations]
    report.figure(part, "broken invariants of the history", str(len(violations)), passed=not violations)
    report.add_violations(part, violations)


def _report_sums(histories: Sequence[QueueHistory], report: Report, part: str) -> None:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for history in histories:
        for what, charted, counted_elsewhere in compare_sums(history):
            sums[what][0] += charted
            sums[what][1] += counted_elsewhere
    for what, (charted, elsewhere) in sums.items():
        report.figure(part, f"charts: {what}", f"{charted:,.0f} and {elsewhere:,.0f}{_percent(charted, elsewhere)}")


def read_journal(stack: Stack) -> dict[str, str]:
    """Return the outcomes of each task's attempts as the tasks recorded them, a letter each."""
    found: dict[str, str] = {}
    with stack.journal.open() as lines:
        for line in lines:
            task_id, _, letter = line.rstrip("\n").partition(" ")
            found[task_id] = found.get(task_id, "") + letter
    return found


def read_metrics(stack: Stack) -> Metrics:
    """Return the counters of runs from /metrics."""
    connection = HTTPConnection("127.0.0.1", stack.port, timeout=30)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {stack.key}"})
    text = connection.getresponse().read().decode()
    connection.close()
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        if family.name in ("runqy_task_runs", "asynq_tasks_processed", "asynq_tasks_failed"):
            for sample in family.samples:
                found[sample.name, sample.labels["queue"], sample.labels.get("outcome", "")] = sample.value
    return found


def sum_stats(stack: Stack, queue: str, *, since: datetime) -> dict[str, int]:
    """Return the sums of the statistics behind the charts, by outcome, and the number of dropped runs."""
    times = {"from": since - timedelta(minutes=1), "to": datetime.now(UTC) + timedelta(minutes=1)}
    query = urlencode({"step": "1m", **{name: time.isoformat() for name, time in times.items()}})
    client = stack.client(timeout_s=30)
    points = client.get(f"/api/cli/queues/{queue}/stats?{query}")["points"]
    client.close()
    return {name: sum(point[name] for point in points) for name in (*LETTERS, "dropped")}


def _collect(
    stack: Stack,
    queue: str,
    accepted: set[str],
    *,
    database: HistoryDatabase,
    journal: Mapping[str, str],
    metrics: Metrics,
    redis: redis_py.Redis,
    since: datetime,
) -> QueueHistory:
    keys, stream, charted = QueueKeys(queue), database.read_stream(queue), sum_stats(stack, queue, since=since)
    return QueueHistory(
        queue=queue,
        accepted=frozenset(accepted),
        waiting=frozenset(task_id for state in UNENDED for task_id in read_ids(redis, keys, state)),
        ended=[task_id for state in ENDED for task_id in read_ids(redis, keys, state)],
        journal={task_id: journal[task_id] for task_id in accepted if task_id in journal},
        rows=database.read_rows(queue),
        twice=database.find_twice(queue),
        counted_only=stream.counted_only,
        dropped=stream.dropped,
        invalid=stream.invalid,
        minutes=database.sum_rollups("tasks_queueminute", queue),
        hours=database.sum_rollups("tasks_queuehour", queue),
        charted={outcome: charted[outcome] for outcome in LETTERS},
        charted_dropped=charted["dropped"],
        processed=int(redis.get(keys.processed) or 0),
        failed=int(redis.get(keys.failed) or 0),
        metrics={
            outcome: value
            for (name, label, outcome), value in metrics.items()
            if name == "runqy_task_runs_total" and label == queue
        },
        metrics_processed=metrics.get(("asynq_tasks_processed_total", queue, ""), 0.0),
    )


def _count_runs(metrics: Metrics, queues: Sequence[str]) -> float:
    return sum(
        value for (name, queue, _), value in metrics.items() if name == "runqy_task_runs_total" and queue in queues
    )


def _percent(value: float, other: float) -> str:
    return f" ({(value - other) / other:+.2%})" if other else ""


def _try_to_wait(look: Callable[[], bool], timeout_s: float) -> float | None:
    try:
        return wait_for(look, timeout_s, "")
    except TimeoutError:
        return None


def _after(took_s: float | None) -> str:
    return "no" if took_s is None else f"after {took_s:.1f} s"
