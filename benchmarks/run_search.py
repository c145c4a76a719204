"""How long searches of the run history take in SQLite: `python -m benchmarks.run_search [RUNS [FOLDER]]`.

The database is kept in the folder if there is one, and used again.
"""

# ruff: noqa: PLC0415 (models can be imported once Django is set up)
import os
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

OUTCOMES = (["completed"] * 195) + ["retried", "failed", "timed_out", "lost", "canceled"]
ERRORS = [
    "TimeoutError: no response from {host} within 30 s",
    "ValueError: order {order}: amount must be positive",
    "KeyError: 'customer-{number}'",
    "ConnectionError: {host}: connection refused",
]
WEEK_S = 7 * 86_400


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
    report(TaskRun.objects.count())


def fill(count: int) -> None:
    """Insert runs of the last week, in transactions of 500 as the duty does."""
    from django.db import connection, transaction

    from tasks.models import TaskRun

    fields = [field.column for field in TaskRun._meta.concrete_fields if not field.primary_key]
    names, marks = ", ".join(f'"{name}"' for name in fields), ", ".join("%s" for _ in fields)
    statement = f"INSERT INTO tasks_taskrun ({names}) VALUES ({marks})"  # noqa: S608 (names of columns)
    random.seed(1)
    now, spent, longest = datetime.now(UTC), 0.0, 0.0
    for start in range(0, count, 500):
        rows = [make_values(number, count, now) for number in range(start, min(start + 500, count))]
        prepared = [[row.get(name, "") for name in fields] for row in rows]
        started = time.perf_counter()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(statement, prepared)
        took = time.perf_counter() - started
        spent, longest = spent + took, max(longest, took)
    print(f"{count:,} rows in {spent:.1f} s: {count / spent:,.0f} a second, longest batch {longest * 1e3:.0f} ms")


def make_values(number: int, count: int, now: datetime) -> dict[str, object]:
    from tasks.error_groups import parse_error

    outcome = random.choice(OUTCOMES)
    order = f"ORD-{2024 + number % 3}-{number:07}"
    error = None
    if outcome not in ("completed", "canceled"):
        text = random.choice(ERRORS)
        error = parse_error(text.format(host=f"10.0.0.{number % 256}", order=order, number=number))
    ended = now.replace(tzinfo=None) - timedelta(seconds=WEEK_S * (count - number) / count)
    run_ms = int(random.lognormvariate(6, 1.5))
    return {
        "task_id": f"{number * 0x9E3779B97F4A7C15 % (1 << 64):032x}",
        "run_id": f"{number:016x}",
        "queue": f"queue-{number % 20}",
        "redis_queue": f"queue-{number % 20}",
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


def report(count: int) -> None:
    from django.db import connection

    from runqy.broker.states import RunOutcome
    from tasks.models import TaskRun
    from tasks.run_queries import RunFilter, RunOrder, list_error_groups, list_runs

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
        "common word, slowest, of a queue": (RunFilter(text="back door", queue="queue-3"), slowest),
        "one digit": (RunFilter(text="1"), RunOrder.NEWEST),
        "failures with a text": (RunFilter(text="refused", outcomes=failures), RunOrder.NEWEST),
    }
    for name, (run_filter, run_order) in searches.items():
        times, after, used = [], None, time.process_time()
        for _ in range(5):
            started = time.perf_counter()
            page = list_runs(run_filter, limit=50, order=run_order, after=after)
            times.append((time.perf_counter() - started) * 1e3)
            after = page.end
        state = "partial" if page.is_partial else ""
        used_ms = (time.process_time() - used) * 1e3 / 5
        print(f"{name:36} {max(times):7.1f} ms at most, {used_ms:7.1f} ms of processor, {len(page.runs)} {state}")
    for name, run_filter in {"error groups of a day": RunFilter(since=day), "error groups": RunFilter()}.items():
        started = time.perf_counter()
        groups = list_error_groups(run_filter, limit=100).groups
        print(f"{name:36} {(time.perf_counter() - started) * 1e3:7.1f} ms, {len(groups)}")
    started = time.perf_counter()
    first = TaskRun.objects.order_by("ended_at").values_list("pk", flat=True)[:500]
    TaskRun.objects.filter(pk__in=list(first)).delete()
    print(f"{'deletion of 500 rows':36} {(time.perf_counter() - started) * 1e3:7.1f} ms")
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(pgsize) / 1e6 FROM dbstat WHERE name LIKE 'tasks_taskrun_text%'")
        print(f"index {cursor.fetchone()[0]:.0f} MB")
        cursor.execute("SELECT sum(pgsize) / 1e6 FROM dbstat")
        print(f"of {cursor.fetchone()[0]:.0f} MB")


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 2:
        main(number, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(number, Path(temporary))
