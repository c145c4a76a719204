"""Measure searches of the run history in SQLite, with a million runs.

`python -m tools.benchmarks.run_search RUNS [FOLDER]` prints the figures as JSON. With a folder, the database is kept
there and used again.
"""

# ruff: noqa: PLC0415 (models can be imported once Django is set up)
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack

RUNS = 1_000_000
GOAL_MS = 300.0
"""The limit for the slowest of the first pages of a list."""
PREVIEW_GOAL_MS = 2_000.0
_PAGES = 5
_FEW = 30
"""The number of runs of the queue `thumbnail`, which are the oldest of all."""
OUTCOMES = (["completed"] * 195) + ["retried", "failed", "timed_out", "lost", "canceled"]
ERRORS = [
    "TimeoutError: no response from {host} within 30 s",
    "ValueError: order {order}: amount must be positive",
    "KeyError: 'customer-{number}'",
    "ConnectionError: {host}: connection refused",
]
WEEK_S = 7 * 86_400


def measure_search(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print the time of the slowest of the first pages of each search, and of other reads of the history."""
    report.section(f"The first {_PAGES} pages of a search of {RUNS:,} runs in SQLite, the slowest of each")
    words = [str(stack.source.python), "-m", "tools.benchmarks.run_search", str(RUNS)]
    done = subprocess.run(words, cwd=stack.source.root, env=stack.env, check=True, stdout=subprocess.PIPE)
    for name, milliseconds in json.loads(done.stdout).items():
        goal = 0.0 if name.startswith("error groups") else PREVIEW_GOAL_MS if name.startswith("count") else GOAL_MS
        report.figure(name, milliseconds, "ms", goal=goal)


def main(count: int, folder: Path) -> None:
    os.environ |= {"DJANGO_SETTINGS_MODULE": "runqy.settings", "RUNQY_HOME": str(folder)}
    os.environ |= {"SQLITE_DB_PATH": str(folder / "db.sqlite3"), "REDIS_URL": "redis://127.0.0.1:1"}
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from tasks.models import TaskRun

    if not TaskRun.objects.exists():
        fill(count)
    json.dump(measure(TaskRun.objects.count()), sys.stdout, indent=2)


def fill(count: int) -> None:
    """Insert runs of the last week. The indexes are created afterwards, which takes a fraction of the time."""
    from django.db import connection, transaction

    from tasks.history import fulltext_index
    from tasks.models import TaskRun

    fields = [field.column for field in TaskRun._meta.concrete_fields if not field.primary_key]
    names, marks = ", ".join(f'"{name}"' for name in fields), ", ".join("%s" for _ in fields)
    statement = f"INSERT INTO tasks_taskrun ({names}) VALUES ({marks})"  # noqa: S608 (names of columns)
    random.seed(1)
    now = datetime.now(UTC)
    with connection.schema_editor() as editor:
        fulltext_index.remove(connection)
        for index in TaskRun._meta.indexes:
            editor.remove_index(TaskRun, index)
    with transaction.atomic(), connection.cursor() as cursor:
        for start in range(0, count, 5_000):
            rows = [make_values(number, count, now) for number in range(start, min(start + 5_000, count))]
            cursor.executemany(statement, [[row.get(name, "") for name in fields] for row in rows])
    with connection.schema_editor() as editor:
        for index in TaskRun._meta.indexes:
            editor.add_index(TaskRun, index)
        fulltext_index.install(connection)


def make_values(number: int, count: int, now: datetime) -> dict[str, object]:
    from tasks.history.error_groups import parse_error

    outcome = random.choice(OUTCOMES)
    order = f"ORD-{2024 + number % 3}-{number:07}"
    error = None
    if outcome not in ("completed", "canceled"):
        text = random.choice(ERRORS)
        error = parse_error(text.format(host=f"10.0.0.{number % 256}", order=order, number=number))
    ended = now.replace(tzinfo=None) - timedelta(seconds=WEEK_S * (count - number) / count)
    run_ms = int(random.lognormvariate(6, 1.5))
    queue = "thumbnail" if number < _FEW else f"queue-{number % 20}"
    return {
        "task_id": f"{number * 0x9E3779B97F4A7C15 % (1 << 64):032x}",
        "run_id": f"{number:016x}",
        "queue": queue,
        "redis_queue": queue,
        "attempt": 1,
        "outcome": outcome,
        "is_final": outcome != "retried",
        "is_foreign": False,
        "worker_id": f"worker-{number % 8}",
        "commit": f"{number * 10 // count:040x}",
        "enqueued_at": str(ended - timedelta(milliseconds=run_ms + 40)),
        "started_at": str(ended - timedelta(milliseconds=run_ms)),
        "ended_at": str(ended),
        "wait_ms": 40,
        "run_ms": run_ms,
        "error_class": error.error_class if error else "",
        "error_message": error.message if error else "",
        "fingerprint": error.fingerprint if error else None,
        "payload": f'{{"order_id":"{order}","customer":{number % 5000},"items":[{number % 97},{number % 89}],'
        f'"note":"please deliver to the back door of house {number % 300}"}}',
        "result": '{"ok":true}' if outcome == "completed" else "",
    }


def measure(count: int) -> dict[str, float]:
    """Return the figures in ms, by name."""
    from runqy.broker.states import RunOutcome
    from tasks.history.error_groups import list_error_groups
    from tasks.history.queries import RunFilter, RunOrder, count_ended_tasks, list_runs
    from tasks.models import TaskRun

    now = datetime.now(UTC)
    day, hour, minutes = now - timedelta(days=1), now - timedelta(hours=1), now - timedelta(minutes=5)
    failures = frozenset({RunOutcome.FAILED, RunOutcome.RETRIED, RunOutcome.TIMED_OUT, RunOutcome.LOST})
    fingerprint = TaskRun.objects.exclude(fingerprint=None).values_list("fingerprint", flat=True).first() or ""
    commit, order_id = f"{9:040x}", f"ORD-{2024 + (count // 2) % 3}-{count // 2:07}"
    slowest = RunOrder.SLOWEST
    searches = {
        "newest": (RunFilter(), RunOrder.NEWEST),
        "oldest": (RunFilter(), RunOrder.OLDEST),
        "slowest": (RunFilter(), slowest),
        "slowest of a day": (RunFilter(since=day), slowest),
        "slowest of an hour": (RunFilter(since=hour), slowest),
        "slowest of 5 minutes in a queue": (RunFilter(since=minutes, queue="queue-3"), slowest),
        "slowest of a worker": (RunFilter(worker_id="worker-3"), slowest),
        "slowest failures of a queue": (RunFilter(queue="queue-3", outcomes=failures), slowest),
        "queue": (RunFilter(queue="queue-3"), RunOrder.NEWEST),
        "failures": (RunFilter(outcomes=failures), RunOrder.NEWEST),
        "failures of a queue in a day": (RunFilter(queue="queue-3", outcomes=failures, since=day), RunOrder.NEWEST),
        "expired (none)": (RunFilter(outcomes=frozenset({RunOutcome.EXPIRED})), RunOrder.NEWEST),
        "worker in an hour": (RunFilter(worker_id="worker-3", since=hour), RunOrder.NEWEST),
        "expired on a worker (none)": (
            RunFilter(worker_id="worker-3", outcomes=frozenset({RunOutcome.EXPIRED})),
            RunOrder.NEWEST,
        ),
        "failures of a commit": (RunFilter(commit=commit, outcomes=failures), RunOrder.NEWEST),
        "error group": (RunFilter(fingerprint=fingerprint), RunOrder.NEWEST),
        "error group of a queue": (RunFilter(fingerprint=fingerprint, queue="queue-3"), RunOrder.NEWEST),
        "order id": (RunFilter(text=order_id), RunOrder.NEWEST),
        "beginning of an order id": (RunFilter(text=order_id[:-2]), RunOrder.NEWEST),
        "common word": (RunFilter(text="door"), RunOrder.NEWEST),
        "common word, oldest": (RunFilter(text="door"), RunOrder.OLDEST),
        "common word, slowest": (RunFilter(text="back door"), slowest),
        "common word, slowest, of a queue": (RunFilter(text="back door", queue="queue-3"), slowest),
        "common word in a queue": (RunFilter(text="back door", queue="queue-3"), RunOrder.NEWEST),
        "common word in a queue with few runs": (RunFilter(text="back door", queue="thumbnail"), RunOrder.NEWEST),
        "common word, worker and hour": (RunFilter(text="door", worker_id="worker-3", since=hour), RunOrder.NEWEST),
        "common word, failures of a queue": (
            RunFilter(text="door", queue="queue-3", outcomes=failures),
            RunOrder.NEWEST,
        ),
        "common word, failures": (RunFilter(text="door", outcomes=failures), RunOrder.NEWEST),
        "common word, expired on a worker": (
            RunFilter(text="door", worker_id="worker-3", outcomes=frozenset({RunOutcome.EXPIRED})),
            RunOrder.NEWEST,
        ),
        "common and rare word": (RunFilter(text=f"door {order_id}"), RunOrder.NEWEST),
        "one digit": (RunFilter(text="1"), RunOrder.NEWEST),
        "one digit, a worker": (RunFilter(text="1", worker_id="worker-3"), RunOrder.NEWEST),
        "failures with a text": (RunFilter(text="refused", outcomes=failures), RunOrder.NEWEST),
    }
    found: dict[str, float] = {}
    for name, (run_filter, run_order) in searches.items():
        after, found[name] = None, 0.0
        for _ in range(_PAGES):
            started = time.perf_counter()
            page = list_runs(run_filter, limit=50, order=run_order, after=after)
            found[name] = max(found[name], _elapsed_ms(started))
            after = page.end
            if after is None:
                break
    for name, run_filter in {"error groups of a day": RunFilter(since=day), "error groups": RunFilter()}.items():
        started = time.perf_counter()
        list_error_groups(run_filter, limit=100)
        found[name] = _elapsed_ms(started)
    for name in ("queue-3", "thumbnail"):
        started = time.perf_counter()
        count_ended_tasks(RunFilter(text="door", queue=name), limit=100_000)
        found[f"count of a common word in {name}"] = _elapsed_ms(started)
    return found


def _elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    if len(sys.argv) > 2:
        main(number, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(number, Path(temporary))
