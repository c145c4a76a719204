"""A receiver gets its messages beside 300 slow endpoints of one maker with 30,000 messages. It is down for an hour
while 100,000 tasks end, and comes back while maintenance is killed before it has recorded what it sent; then PostgreSQL
is away for five minutes. Each message arrives.

The hour and the delays of the schedule take minutes: what is due later is made due earlier in the database.
"""

import signal
import time
from collections import Counter
from dataclasses import dataclass

import psycopg

from runqy.broker.keys import QueueKeys
from tests.support.postgresql import find_programs
from tools.soak import processes
from tools.soak.measuring import fill, noop_stack
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.slow_receiver import SlowReceiver
from tools.soak.stack import Stack, StackParts
from tools.soak.webhook_receiver import WebhookReceiver

PART = "webhooks"
MINUTES, RATE = 5.0, 50.0
OUTAGE_S, STEP_S = 3600, 300
"""How long the receiver is down, and how much of this passes at once."""
STEP_LIMIT_S = 20.0
"""How long a step lasts at most, if more is due than is tried in this time."""
PUBLISHED_S = 3.0
"""Until all web processes know of the endpoint. Tasks that are enqueued before that are not told."""
QUIET_S = 5.0
"""If nothing arrives for so long, the next attempts are made due."""
STUCK_S = 300.0
DRAIN_S = 1800.0
KILLS = 10
SLOW_ENDPOINTS, SLOW_TASKS = 300, 100
LATE_S = 5.0
"""By when a message must arrive beside slow endpoints."""
_ADD_SLOW = """
from webhooks.operations import create_endpoint
for _ in range({count}):
    create_endpoint(url="{url}", events=["task.completed"])
"""
_DELETE_SLOW = """
from webhooks.models import Endpoint
from webhooks.operations import delete_endpoint
for pk in Endpoint.objects.filter(url="{url}").values_list("pk", flat=True):
    delete_endpoint(pk)
"""
_COUNTS = """
SELECT count(*) FILTER (WHERE delivered_at IS NOT NULL), count(*) FILTER (WHERE abandoned_at IS NOT NULL),
    count(*), coalesce(sum(attempts), 0) FROM webhooks_delivery
"""
_DUE = "SELECT count(*) FROM webhooks_delivery WHERE delivered_at IS NULL AND abandoned_at IS NULL AND due_at <= now()"
_NEXT = """
SELECT extract(epoch FROM min(due_at) - now()) FROM webhooks_delivery
WHERE delivered_at IS NULL AND abandoned_at IS NULL AND slot IS NULL
"""
_PASS = """
UPDATE webhooks_delivery SET due_at = due_at - make_interval(secs => %(s)s)
WHERE delivered_at IS NULL AND abandoned_at IS NULL AND slot IS NULL
"""
_END_CLAIMS = """
UPDATE webhooks_delivery SET due_at = now() WHERE delivered_at IS NULL AND abandoned_at IS NULL AND slot IS NOT NULL
"""
_FAILED_LONGER = "UPDATE webhooks_endpoint SET failing_since = failing_since - make_interval(secs => %(s)s)"


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of the deliveries in the database."""

    delivered: int
    failed: int
    all: int
    attempts: int


def run(options: Options, report: Report) -> None:
    """Have an outage of the receiver, then one of the database."""
    if not find_programs():
        report.skip(PART, "PostgreSQL's programs are not installed")
        return
    env = {"RUNQY_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    parts = StackParts(has_postgresql=True, has_networks=False, env=env)
    with noop_stack(report, options.rng(PART), parts) as stack:
        _Campaign(stack, options, report).run()


class _Campaign:
    def __init__(self, stack: Stack, options: Options, report: Report) -> None:
        self._stack, self._options, self._report = stack, options, report
        self._receiver = WebhookReceiver()
        self._client = stack.client(timeout_s=30)
        self._accepted = 0
        self._passed_s = 0.0

    def run(self) -> None:
        self._stack.add_worker("worker-a", queues="noop", RUNQY_CONCURRENCY="16", RUNQY_PROCESSES="1")
        self._stack.wait_until_ready(1)
        body = {"url": self._receiver.url, "queues": ["noop"], "events": ["task.completed", "task.archived"]}
        self._receiver.secret = self._client.send("POST", "/api/webhooks", body).content["secret"]
        time.sleep(PUBLISHED_S)
        self._send_beside_slow_endpoints()
        self._take_receiver_away(self._options.told_tasks)
        self._take_database_away(self._options.minutes or MINUTES, self._options.rate or RATE)
        self._client.close()

    def _send_beside_slow_endpoints(self) -> None:
        self._report.section(
            f"{SLOW_ENDPOINTS} endpoints of one maker respond after 14 s, each to {SLOW_TASKS} messages"
        )
        slow, late_s = SlowReceiver(), list[float]()
        second = self._stack.add_maintenance("maintenance-2")
        self._stack.manage("shell", "-c", _ADD_SLOW.format(count=SLOW_ENDPOINTS, url=slow.url))
        time.sleep(PUBLISHED_S)
        with self._receiver.running():
            fill(self._client, "noop", SLOW_TASKS)
            self._accepted += SLOW_TASKS
            wait_for(lambda: slow.count, DRAIN_S, "slow messages are accepted")
            for _ in range(SLOW_TASKS):
                self._client.send("POST", "/queue/add", {"queue": "noop", "data": {}})
                self._accepted += 1
                began_s = time.monotonic()
                wait_for(lambda: len(self._receiver.ids) >= self._accepted, DRAIN_S, "the message arrives")
                late_s.append(time.monotonic() - began_s)
        text = f"{max(late_s):.1f} s at most, while {slow.count:,} slow ones were accepted"
        self._report.figure(PART, "a task's end is told", text, passed=max(late_s) <= LATE_S)
        self._stack.manage("shell", "-c", _DELETE_SLOW.format(url=slow.url))
        second.end()

    def _take_database_away(self, minutes: float, rate: float) -> None:
        self._report.section(f"PostgreSQL is away for {minutes:g} min under {rate:g} tasks/s")
        database = self._stack.database
        assert database is not None  # noqa: S101 (the stack was started with one)
        refused: Counter[str] = Counter()
        self._client.close()  # the server has ended it, after minutes without a request
        with self._receiver.running():
            for is_away in (False, True, False):
                if is_away:
                    database.interrupt()
                until_s = time.monotonic() + (minutes * 60 if is_away else 5)
                while time.monotonic() < until_s:
                    reply = self._client.send("POST", "/queue/add", {"queue": "noop", "data": {}})
                    self._accepted += reply.status == 200
                    if reply.status != 200:
                        refused[f"{reply.status} {reply.content}"] += 1
                    time.sleep(1 / rate)
                if is_away:
                    database.resume()
            self._report.figure(PART, "tasks accepted, without a database for most of them", f"{self._accepted:,}")
            text = f"{refused.total()} {', '.join(refused)}"[:300]
            self._report.figure(PART, "refused meanwhile", text, passed=not refused)
            took_s = wait_for(lambda: len(self._receiver.ids) >= self._accepted, DRAIN_S, "all ends are told")
            self._report.figure(PART, "all told", f"{took_s:.1f} s after the database was back")
        self._judge("PostgreSQL away")

    def _take_receiver_away(self, count: int) -> None:
        self._report.section(f"The receiver is down for an hour at {count:,} tasks")
        began_s = time.monotonic()
        fill(self._client, "noop", count)
        self._accepted += count
        completed = QueueKeys("noop").completed
        with self._stack.redis_client() as redis:
            wait_for(lambda: redis.zcard(completed) >= self._accepted, DRAIN_S, "the tasks complete")
        wait_for(lambda: self._counts().all >= self._accepted, DRAIN_S, "each end has a delivery")
        self._report.figure(
            PART, "tasks done, each with its delivery", f"{count:,} in {time.monotonic() - began_s:.0f} s"
        )
        for _ in range(OUTAGE_S // STEP_S):
            self._pass_time(STEP_S)
            until_s = time.monotonic() + STEP_LIMIT_S
            while time.monotonic() < until_s and self._number(_DUE):
                time.sleep(1)
        counts = self._counts()
        failed_attempts = counts.attempts - (self._accepted - count)
        self._report.figure(PART, "attempts while it was down", f"{failed_attempts:,}", passed=failed_attempts > 0)
        began_s = time.monotonic()
        rng = self._options.rng(f"{PART} kills")
        among = count - count // 10
        with (
            self._receiver.running(),
            self._receiver.interrupting(self._kill_maintenance, kills=min(KILLS, among), among=among, rng=rng),
        ):
            self._wait_until_told()
        took_s = time.monotonic() - began_s
        text = f"{took_s:.0f} s after it was back, and {self._passed_s / 3600:.1f} h that were left out"
        self._report.figure(PART, "all told", text)
        self._judge("receiver down")

    def _kill_maintenance(self) -> None:
        for pid in self._stack.maintenance_processes():
            processes.send_signal(pid, signal.SIGKILL)

    def _wait_until_told(self) -> None:
        """Wait until each message was accepted. If none is, the next attempts are made due, and claims end, of which
        only those of killed processes last for so long.
        """
        told, seen, changed_s = self._accepted, -1, time.monotonic()
        while (delivered := self._counts().delivered) < told:
            now_s = time.monotonic()
            if delivered != seen:
                seen, changed_s = delivered, now_s
            elif now_s - changed_s > STUCK_S:
                raise TimeoutError(f"{delivered:,} of {told:,} messages are delivered, and no more for {STUCK_S:g} s")
            elif now_s - changed_s > QUIET_S:
                self._pass_time(max(self._number(_NEXT), 0) + STEP_S, is_claim_over=True)
            time.sleep(1)

    def _judge(self, name: str) -> None:
        receiver, counts = self._receiver, self._counts()
        is_whole = len(receiver.ids) == len(receiver.tasks) == counts.all == self._accepted
        text = f"{len(receiver.ids):,} about {len(receiver.tasks):,} of {self._accepted:,} tasks"
        self._report.figure(PART, f"{name}: messages", text, passed=is_whole and not counts.failed)
        self._report.figure(PART, f"{name}: arrived again", f"{receiver.ids.total() - len(receiver.ids):,} times")
        if receiver.interrupted:
            again = sum(receiver.ids[each] > 1 for each in receiver.interrupted)
            text = f"{again} of {len(receiver.interrupted)} with the same webhook-id and body"
            passed = again == len(receiver.interrupted)
            self._report.figure(PART, f"{name}: sent again after kill -9 before the record", text, passed=passed)
        for problem in receiver.problems[:10]:
            self._report.fail(PART, problem)
        (disabled,) = self._select(
            "SELECT count(*) FROM webhooks_endpoint WHERE NOT is_enabled AND disabled_reason <> ''"
        )
        self._report.figure(PART, f"{name}: disabled endpoints", str(disabled), passed=not disabled)

    def _counts(self) -> _Counts:
        return _Counts(*map(int, self._select(_COUNTS)))

    def _number(self, query: str) -> float:
        (value,) = self._select(query)
        return float(value or 0)

    def _pass_time(self, seconds: float, *, is_claim_over: bool = False) -> None:
        """Make messages due as they will be in so many seconds, also those that a killed process has claimed."""
        assert self._stack.database is not None  # noqa: S101 (the stack was started with one)
        with psycopg.connect(self._stack.database.url) as database:
            for statement in (_PASS, _FAILED_LONGER, *([_END_CLAIMS] if is_claim_over else [])):
                database.execute(statement, {"s": seconds})
        self._passed_s += seconds

    def _select(self, query: str) -> tuple[int, ...]:
        assert self._stack.database is not None  # noqa: S101 (the stack was started with one)
        with psycopg.connect(self._stack.database.url) as database:
            return database.execute(query).fetchone() or ()  # type: ignore[call-overload]
