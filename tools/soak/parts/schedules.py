"""Fourteen months of schedules in minutes: real processes and a real Valkey under faketime, stepped from due time to
due time, while three maintenance processes are killed at random and PostgreSQL is away for minutes around due times.
Each due time has one task.

First, in real time, thousands of schedules that are due at the same times as one whose stored row always raises.
"""

import base64
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import redis as redis_py

from runqy.broker.keys import QueueKeys
from schedules.times import Timing
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.servers import ValkeyServer
from tools.soak.options import Options
from tools.soak.processes import ROOT, ManagedProcess, wait_for
from tools.soak.report import Report
from tools.soak.stack import QUEUE_FILE, StackParts, running_stack

PART = "schedules"
MONTHS = 14
PROCESSES = 3
KILLED_SHARE = 0.3
"""In this share of the steps a maintenance process is killed around the due time."""
AWAY_SHARE = 0.1
"""In this share PostgreSQL ends before the due time, and starts again minutes later."""
AWAY_MOST = timedelta(minutes=20)
AWAY_REAL_S = 3.0
"""How long it is away by the clock on the wall: several passes of each process fail."""
EARLY_S = 0.4
"""The clocks are set to so long before a due time, and then run."""
STEP_LIMIT_S = 180.0
GOOD, ODD_MINUTES, ODD_LATE_S = 2000, 5.0, 30.0
"""Schedules beside one that raises, for how long, and how late the latest may be."""
QUEUE = "reports"
LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]
TIMINGS = {
    "nightly": Timing(cron="30 2 * * *", zone="Europe/Berlin"),
    "half-hour": Timing(cron="15 2 * * *", zone="Australia/Lord_Howe"),
    "weekly": Timing(cron="0 0 * * MON", zone="America/Santiago"),
}
FILE = """queues:
  reports: {priority: 5, deployment: {git_url: "https://example.com/reports.git", startup_cmd: python main.py}}
schedules:
"""


def run(options: Options, report: Report) -> None:
    """Fire beside a row that raises, then step through the months; `--minutes` limits how long each takes."""
    _fire_beside_odd_row(options, report)
    library = os.environ.get("RUNQY_SOAK_FAKETIME") or next(iter(map(str, LIBRARIES)), "")
    if not library:
        report.skip(PART, "libfaketime is not installed (apt install faketime)")
        return
    if (programs := find_programs()) is None:
        report.skip(PART, "PostgreSQL is not installed")
        return
    report.section(f"{MONTHS} months of schedules; {PROCESSES} maintenance processes are killed, PostgreSQL is away")
    with tempfile.TemporaryDirectory(prefix="runqy-schedules-") as name:
        _Campaign(Path(name), library, PostgresqlServer(programs), options.rng(PART), report).run(options.minutes)


def _fire_beside_odd_row(options: Options, report: Report) -> None:
    """Let many schedules be due each minute beside a stored one of another queue that raises at each try."""
    minutes = options.minutes or ODD_MINUTES
    parts = StackParts(has_postgresql=True, has_networks=False)
    with running_stack(report, options.rng(PART), parts) as stack:
        report.section(f"{GOOD:,} schedules of each minute beside one that raises, for {minutes:g} minutes")
        if stack.database is None:
            report.skip(PART, "PostgreSQL is not installed")
            return
        stack.add_maintenance("maintenance-b")
        names = [*(f"good-{number}" for number in range(GOOD)), "odd"]
        queues = {name: "canary" if name == "odd" else "steady.high" for name in names}
        entries = [f'  {name}: {{{{queue: {queues[name]}, cron: "* * * * *", overlap: allow}}}}\n' for name in names]
        stack.write_queue_file(QUEUE_FILE + "schedules:\n" + "".join(entries))
        stack.manage("load_queues")
        with psycopg.connect(stack.database.url) as database:
            database.execute("UPDATE schedules_schedule SET options = '7' WHERE name = 'odd'")
            (began,) = database.execute("SELECT now()").fetchone() or ()
        time.sleep(60 * minutes)
        with psycopg.connect(stack.database.url) as database:
            found = database.execute(_ODD_FIGURES, {"began": began}).fetchone() or ()
        fires, others, latest_s = found
        report.figure(PART, "fires beside a row that raises", f"{fires:,}", passed=fires >= GOOD * int(minutes - 1))
        report.figure(PART, "of them not enqueued", str(others), passed=not others)
        report.require(PART, "the latest of them", float(latest_s or 0), at_most=ODD_LATE_S)
        client = stack.client()
        listed = client.get("/api/alerts?state=all&limit=100")["alerts"]  # resolved while a fire is missed
        client.close()
        alerts = {each["message"].partition("(")[0] for each in listed if each["kind"] == "row_failed"}
        passed = alerts == {"Maintenance cannot handle the schedule odd "}
        report.figure(PART, "alerts of rows that raise", "; ".join(alerts), passed=passed)


_ODD_FIGURES = """
SELECT count(*), count(*) FILTER (WHERE state <> 'enqueued'), max(extract(epoch FROM settled_at - fire_at))
FROM schedules_fire WHERE fire_at BETWEEN %(began)s AND now() - interval '30 s'
AND schedule_id IN (SELECT id FROM schedules_schedule WHERE name LIKE 'good-%%')
"""


class _Campaign:
    def __init__(
        self, folder: Path, library: str, database: PostgresqlServer, rng: random.Random, report: Report
    ) -> None:
        self._folder, self._database, self._rng, self._report = folder, database, rng, report
        self._offset = folder / "offset"
        self._clock = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self._tasks: Counter[str] = Counter()
        self._kills = self._outages = 0

    def run(self, minutes: float | None) -> None:
        start = datetime(2027, 1, 1, tzinfo=UTC)
        end = start + timedelta(days=MONTHS * 365 / 12)
        self._set_clock(start)
        os.environ |= self._clock  # the server starts with the environment of this process
        valkey = ValkeyServer("--appendonly", "yes", "--appendfsync", "always").start()
        for name in self._clock:
            del os.environ[name]
        self._database.start()
        env = self._environment(valkey)
        processes = [
            ManagedProcess(f"maintenance {n}", _manage("run_maintenance"), env, self._folder / f"maintenance{n}.log")
            for n in range(PROCESSES)
        ]
        try:
            self._prepare(env)
            for process in processes:
                process.start()
            due = list(_due_times(start, end))
            done = self._step_through(due, valkey, processes, minutes)
            self._report.figure(PART, "due times", f"{done} of {len(due)}, to {due[done - 1]:%Y-%m-%d}")
            self._report.figure(PART, "kills of maintenance processes", str(self._kills))
            self._report.figure(PART, "times that PostgreSQL was away", str(self._outages))
            self._report.figure(PART, "tasks", str(len(self._tasks)), passed=len(self._tasks) == done)
            states = self._read("SELECT state, count(*) FROM schedules_fire GROUP BY state")
            expected = {f"{at:%Y-%m-%d %H:%M:%S}" for at in due[:done]}
            found = {f"{at:%Y-%m-%d %H:%M:%S}" for (at,) in self._read("SELECT due_at FROM schedules_fire")}
            self._report.figure(PART, "fires at no due time", str(len(found - expected)), passed=found <= expected)
            self._report.figure(PART, "states of the fires that are kept", str(dict(states)))
        finally:
            for process in processes:
                process.kill()
            valkey.stop()
            self._database.stop()

    def _step_through(
        self, due: list[datetime], valkey: ValkeyServer, processes: list[ManagedProcess], minutes: float | None
    ) -> int:
        until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        with closing(valkey.client()) as redis:
            for number, at in enumerate(due, 1):
                self._set_clock(at - timedelta(seconds=EARLY_S))
                following = due[number] if number < len(due) else at + timedelta(days=1)
                if self._rng.random() < AWAY_SHARE and following > at:
                    self._take_database_away(at, following)
                if self._rng.random() < KILLED_SHARE:
                    time.sleep(self._rng.uniform(0.5, 2.5) * EARLY_S)
                    process = self._rng.choice(processes)
                    process.kill()
                    process.start()
                    self._kills += 1
                wait_for(lambda n=number: self._is_done(redis, n), STEP_LIMIT_S, f"the task of {at:%Y-%m-%d %H:%M} UTC")
                if number % 100 == 0:
                    self._report.note(f"{number} due times, to {at:%Y-%m-%d}; {self._kills} kills")
                if time.monotonic() >= until:
                    return number
        return len(due)

    def _take_database_away(self, at: datetime, following: datetime) -> None:
        """Let a time be due while PostgreSQL is away for minutes, which end before the next one."""
        self._database.interrupt()
        self._set_clock(at + min(AWAY_MOST, (following - at) / 2) * self._rng.random())
        time.sleep(AWAY_REAL_S)
        self._database.resume()
        self._outages += 1

    def _is_done(self, redis: redis_py.Redis, number: int) -> bool:
        """End the tasks that wait, so that nothing is left of them; return whether all fires have theirs."""
        keys = QueueKeys(QUEUE)
        for raw in redis.lrange(keys.pending, 0, -1):
            self._tasks[raw.decode()] += 1
            redis.lrem(keys.pending, 1, raw)
            redis.unlink(keys.task(raw.decode()))
        for task_id, count in self._tasks.items():
            if count > 1:
                self._report.fail(PART, f"task {task_id} was enqueued {count} times")
        if len(self._tasks) > number:
            self._report.fail(PART, f"{len(self._tasks)} tasks of {number} due times")
        (waiting,) = self._read("SELECT count(*) FROM schedules_fire WHERE state = 'waiting'")[0]
        return len(self._tasks) >= number and not waiting

    def _set_clock(self, time_: datetime) -> None:
        written = self._offset.with_suffix(".new")
        written.write_text(f"+{time_.timestamp() - time.time():.3f}\n")
        written.rename(self._offset)

    def _environment(self, valkey: ValkeyServer) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNQY_", "REDIS_"))}
        return (
            kept
            | self._clock
            | {
                "REDIS_URL": valkey.url,
                "RUNQY_HOME": str(self._folder),
                "DATABASE_URL": self._database.url,
                "RUNQY_API_KEY": secrets.token_hex(24),
                "RUNQY_VAULT_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
                "QUEUE_WORKERS_DIR": str(self._folder / "queues"),
            }
        )

    def _prepare(self, env: dict[str, str]) -> None:
        queues = self._folder / "queues"
        queues.mkdir()
        entries = [
            f'  {name}: {{queue: {QUEUE}, cron: "{timing.cron}", time_zone: {timing.zone}, overlap: allow}}\n'
            for name, timing in TIMINGS.items()
        ]
        (queues / "reports.yaml").write_text(FILE + "".join(entries))
        for command in (["migrate"], ["load_queues"]):
            subprocess.run(_manage(*command), cwd=ROOT, env=env, check=True, capture_output=True)

    def _read(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database.url) as database:
            return database.execute(query.encode()).fetchall()


def _due_times(start: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the due times of all schedules, in order."""
    times = []
    for timing in TIMINGS.values():
        due = timing.next_after(start + timedelta(hours=1))  # the schedules are created in the first hour
        while due is not None and due < end:
            times.append(due)
            due = timing.next_after(due)
    yield from sorted(times)


def _manage(*command: str) -> list[str]:
    return [sys.executable, "manage.py", *command]
