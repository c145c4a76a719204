"""Outages of what the history needs: maintenance is killed, there is no database, Redis restarts, streams drop runs."""

import contextlib
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import httpx2
import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak import processes
from tools.soak.history_evidence import collect_histories, report_histories, wait_for_history
from tools.soak.history_load import SteadyLoad
from tools.soak.history_stack import history_stack
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.sampling import CpuMeter, Sampler
from tools.soak.stack import Stack
from tools.soak.staff import LIVE, make_session
from tools.soak.threads import BackgroundThreads

PART = "outages"
MINUTES, RATE = 5.0, 300.0
QUEUES = {"mail": 0.95, "reports": 0.05}
"""While there is no database, the stream of the first queue drops runs, and that of the second does not."""
WORKER = {"RUNQY_CONCURRENCY": "16", "RUNQY_PROCESSES": "1"}
KILLS_S = 60.0
"""How long maintenance alone is killed, under load."""
RESTARTS, DOWN_S, BETWEEN_S = 4, 1.0, 10.0
STREAM = 20_000
"""The length at which a stream drops its oldest entries."""
DROPS = 500
FILL_S = 600.0
ACCEPTED = 0.9
"""The share of the rate that is accepted without a database, which enqueueing does not need."""
CATCH_UP_S = 180.0
LEFT = 2_000
ALERT_S = 60.0
REDIS_MB = 300.0
"""For the streams and the tasks themselves."""


class Killer(BackgroundThreads):
    """A thread that kills maintenance processes again and again, soon after they have stored something."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        super().__init__(patience_s=30)
        self.kills = 0
        self._stack = stack
        self._rng = rng
        self.add_thread(self._kill)

    def _kill(self) -> None:
        with self._stack.redis_client() as redis:
            while self.waits(0):
                self._wait_for_progress(redis)
                if not self.waits(self._rng.uniform(0, 1.5)):
                    return
                own = [process.pid for process in self._stack.others if process.is_alive()]
                pids = [*self._stack.maintenance_processes(), *own]
                if pids and processes.send_signal(self._rng.choice(pids), signal.SIGKILL):
                    self.kills += 1
                for process in self._stack.others:
                    process.start()

    def _wait_for_progress(self, redis: redis_py.Redis) -> None:
        """Wait until an entry was removed from a stream, but only some seconds: there may be no database."""
        most, deadline = _lengths(redis), time.monotonic() + self._rng.uniform(8, 20)
        while time.monotonic() < deadline and self.waits(0.05):
            for queue, length in _lengths(redis).items():
                if length < most.get(queue, 0) and most[queue] < STREAM:
                    return
                most[queue] = max(length, most.get(queue, 0))


def run(options: Options, report: Report) -> None:
    """Cause the outages one after the other under load, and check the history afterwards."""
    minutes, rate = options.minutes or MINUTES, options.rate or RATE
    with history_stack(report, options, PART, is_durable=True) as stack:
        database = "PostgreSQL stopped" if stack.database else "SQLite's file locked"
        report.section(f"Outages of the history's parts, {rate:,.0f} tasks a second, {database} for {minutes:g} min")
        stack.add_worker("worker-a", queues=",".join(QUEUES), **WORKER)
        stack.add_maintenance("maintenance-b")
        stack.wait_until_ready(len(QUEUES))
        since, session = datetime.now(UTC), make_session(stack)
        load, sampler = SteadyLoad(stack, QUEUES, rate=rate), Sampler(stack, list(QUEUES))
        killer = Killer(stack, options.rng(f"{PART} kills"))
        with load, sampler, stack.redis_client() as redis:
            with killer:
                time.sleep(min(KILLS_S, minutes * 60))
                report.figure(PART, "maintenance killed under load", f"{killer.kills} times in two processes")
                _take_database_away(stack, load, redis, session, report, minutes=minutes, rate=rate, database=database)
            _await_return(stack, redis, session, report)
            _restart_redis(stack, options.rng(f"{PART} Redis"), report)
        _report_end(stack, load, sampler, killer, report, since=since)


def _take_database_away(
    stack: Stack,
    load: SteadyLoad,
    redis: redis_py.Redis,
    session: httpx2.Client,
    report: Report,
    *,
    minutes: float,
    rate: float,
    database: str,
) -> None:
    """Stop or lock the database for some minutes, and until a stream has dropped runs."""
    statuses: Counter[int] = Counter()
    kept_before, began_s, accepted_before = _count_appended(redis), time.monotonic(), load.accepted_count
    with _no_database(stack):
        while (away_s := time.monotonic() - began_s) < minutes * 60 or (
            not _has_dropped(redis, kept_before) and away_s < minutes * 60 + FILL_S
        ):
            with contextlib.suppress(httpx2.HTTPError):
                statuses[session.get(LIVE).status_code] += 1
            time.sleep(2)
    reached = (load.accepted_count - accepted_before) / away_s
    text = f"{reached:,.0f} of {rate:,.0f} tasks/s for {away_s:.0f} s"
    report.figure(PART, f"accepted, {database}", text, passed=reached >= rate * ACCEPTED)
    responses = ", ".join(f"{count} times {status}" for status, count in statuses.items()) or "none"
    report.figure(PART, "responses of the overview meanwhile", responses, passed=not statuses[500])
    report.figure(PART, "a stream dropped meanwhile", "yes" if _has_dropped(redis, kept_before) else "no")


@contextmanager
def _no_database(stack: Stack) -> Iterator[None]:
    """Stop PostgreSQL as a crash does, or hold SQLite's lock as a backup or VACUUM does."""
    if stack.database is not None:
        stack.database.interrupt()
        try:
            yield
        finally:
            stack.database.resume()
        return
    path = stack.folder / "home" / "db.sqlite3"
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def _await_return(stack: Stack, redis: redis_py.Redis, session: httpx2.Client, report: Report) -> None:
    """Measure how soon the history catches up under load, and wait for the alert about dropped runs."""
    meter = CpuMeter(stack)
    try:
        took_s = wait_for(lambda: sum(_lengths(redis).values()) < LEFT, CATCH_UP_S, "the history catches up")
        report.figure(PART, "caught up under load", f"{took_s:.1f} s after the database was back", passed=True)
    except TimeoutError:
        text = f"{sum(_lengths(redis).values()):,} entries left after {CATCH_UP_S:g} s"
        report.figure(PART, "caught up under load", text, passed=False)
    report.figure(PART, "CPU meanwhile, cores", meter.describe())
    client = stack.client()

    def is_alerted() -> bool:
        alerts = client.send("GET", "/api/alerts").content.get("alerts", [])
        return any(alert["kind"] == "history_dropped" for alert in alerts)

    try:
        took_s = wait_for(is_alerted, ALERT_S, "the alert")
        is_shown = "missing from the history" in session.get(LIVE).text
        text = f"{took_s:.1f} s later, {'and' if is_shown else 'but not'} on the overview"
        report.figure(PART, "alert about dropped runs", text, passed=is_shown)
    except TimeoutError:
        report.figure(PART, "alert about dropped runs", f"none within {ALERT_S:g} s", passed=False)
    client.close()


def _restart_redis(stack: Stack, rng: random.Random, report: Report) -> None:
    """Restart Redis under load, every second time by kill -9, while maintenance is killed too."""
    if stack.redis is None:
        raise RuntimeError("the stack has no Redis of its own")
    killer = Killer(stack, rng)
    with killer:
        for number in range(RESTARTS):
            time.sleep(rng.uniform(0.5, 1.5) * BETWEEN_S)
            process = stack.redis.process
            if process is None:
                raise RuntimeError("Redis does not run")
            process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
            process.wait()
            time.sleep(DOWN_S)
            stack.redis.start()
        time.sleep(BETWEEN_S)
    text = f"{RESTARTS} times, {RESTARTS // 2} by kill -9; maintenance killed {killer.kills} times"
    report.figure(PART, "Redis restarted under load", text)


def _report_end(
    stack: Stack, load: SteadyLoad, sampler: Sampler, killer: Killer, report: Report, *, since: datetime
) -> None:
    """Wait until everything has ended and is stored, and check."""
    report.figure(PART, "maintenance killed, Redis restarts aside", f"{killer.kills} times", passed=killer.kills > 0)
    for reason, count in load.refusals.items():
        report.fail(PART, f"{count} batches were refused: {reason}")
    report.figure(PART, "longest stream", f"{sampler.longest_stream:,} entries")
    report.require(PART, "Redis at most", max(sampler.redis_mb), at_most=REDIS_MB, unit="MB")
    wait_for_history(stack, load, report, PART)
    histories = collect_histories(stack, load, since=since)
    full, other = (next(history for history in histories if history.queue == queue) for queue in QUEUES)
    text = f"{full.dropped:,} of {full.queue}, {other.dropped:,} of {other.queue}"
    report.figure(PART, "dropped and counted", text, passed=full.dropped > 0 and other.dropped == 0)
    report_histories(histories, report, PART)


def _lengths(redis: redis_py.Redis) -> dict[str, int]:
    """Return the lengths of the streams; empty while Redis is unavailable."""
    with contextlib.suppress(redis_py.RedisError):
        return {queue: int(redis.xlen(QueueKeys(queue).runs)) for queue in QUEUES}
    return {}


def _count_appended(redis: redis_py.Redis) -> int:
    """Return how many entries were ever appended to the stream of the first queue."""
    return int(redis.xinfo_stream(QueueKeys(next(iter(QUEUES))).runs)["entries-added"])


def _has_dropped(redis: redis_py.Redis, appended_before: int) -> bool:
    """Return whether so many entries were appended since then that the stream must have dropped some."""
    return _count_appended(redis) - appended_before > STREAM + DROPS
