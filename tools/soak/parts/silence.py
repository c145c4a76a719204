"""Redis is stopped, or behind a black hole, under steady requests: each gets a response soon, during and after it.

PostgreSQL is stopped under waits for batches: enqueueing goes on, also with names that a server has to look for.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.support.bad_network import FaultMode
from tools.soak.api import Client, Reply
from tools.soak.options import Options
from tools.soak.processes import descendants_of, frozen
from tools.soak.report import Report, counted
from tools.soak.stack import Stack, StackParts, running_stack
from tools.soak.threads import BackgroundThreads

PART = "silence"
RATES = (5, 50)
"""Requests a second. A single client would send nothing while it waits, which hides what blocks other clients."""
SILENT_S, BEFORE_S, AFTER_S = 15.0, 3.0, 6.0
ANSWERED_S, BACK_S = 3.0, 1.0
BODY = {"queue": "canary", "data": {"do": "ok"}}
CLIENT_TIMEOUT_S = 60.0
WAITS, WAIT_S = 200, 2
"""How many clients wait, each again and again, for a batch of its own."""
LOOKED_UP = {"queue_not_found", "unauthorized"}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request and its response."""

    sent_s: float
    reply: Reply

    @property
    def answered_s(self) -> float:
        return self.sent_s + self.reply.took_s


def run(options: Options, report: Report) -> None:
    """Enqueue at each rate while Redis is silent in each way, and while PostgreSQL is stopped."""
    with running_stack(report, options.rng(PART), StackParts(has_postgresql=True)) as stack:
        report.section(f"Redis silent for {SILENT_S:g} s under {' and '.join(map(str, RATES))} enqueues a second")
        for rate in RATES:
            _judge(stack, report, f"stopped, {rate}/s", rate, lambda: _stopped(stack))
            _judge(stack, report, f"black hole, {rate}/s", rate, lambda: _black_hole(stack))
        if stack.database is None:
            report.skip(PART, "PostgreSQL's programs are not installed: no database is stopped")
            return
        report.section(f"PostgreSQL stopped for {SILENT_S:g} s under {WAITS} waits for batches")
        _judge_without_database(stack, report, max(RATES))


def _stopped(stack: Stack) -> AbstractContextManager[None]:
    redis = stack.redis
    assert redis is not None  # noqa: S101 (the stack was started with a Redis of its own)
    assert redis.process is not None  # noqa: S101
    return frozen(redis.process.pid)


@contextmanager
def _black_hole(stack: Stack) -> Iterator[None]:
    """Accept connections and forward nothing. Connections that were open then stay dead afterwards."""
    network = stack.server_network
    assert network is not None  # noqa: S101 (the stack was started with networks)
    network.mode = FaultMode.SILENT
    try:
        yield
    finally:
        network.half_open()
        network.mode = FaultMode.FINE


def _judge(
    stack: Stack, report: Report, name: str, rate: int, silence: Callable[[], AbstractContextManager[None]]
) -> None:
    with sending(stack, rate) as sent:
        time.sleep(BEFORE_S)
        with silence():
            time.sleep(SILENT_S)
        back_s = time.monotonic()
        time.sleep(AFTER_S)
    statuses = Counter(one.reply.status for one in sent)
    report.figure(
        PART, f"{name}: responses", ", ".join(f"{count} times {status}" for status, count in statuses.items())
    )
    report.require(PART, f"{name}: slowest response", max(one.reply.took_s for one in sent), at_most=ANSWERED_S)
    accepted_s = [one.answered_s - back_s for one in sent if one.reply.status == 200 and one.sent_s > back_s]
    report.require(PART, f"{name}: accepted again after", min(accepted_s, default=float("inf")), at_most=BACK_S)
    late = Counter(one.reply.status for one in sent if one.sent_s > back_s + BACK_S and one.reply.status != 200)
    report.figure(PART, f"{name}: refused {BACK_S:g} s after and later", str(late.total()), passed=not late)


class Waits(BackgroundThreads):
    """Clients that wait for batches that do not end."""

    def __init__(self, stack: Stack, batches: list[str]) -> None:
        super().__init__(patience_s=CLIENT_TIMEOUT_S)
        self.replies: list[Reply] = []
        self._stack = stack
        for batch in batches:
            self.add_thread(self._wait, batch)

    def _wait(self, batch: str) -> None:
        client = self._stack.client(timeout_s=CLIENT_TIMEOUT_S)
        while self.waits(0.2):
            self.replies.append(client.send("GET", f"/batches/{batch}?wait={WAIT_S}"))
        client.close()


class Searches(BackgroundThreads):
    """Clients that enqueue on a queue that no server knows, with these keys."""

    def __init__(self, stack: Stack, keys: list[str]) -> None:
        super().__init__(patience_s=CLIENT_TIMEOUT_S)
        self.replies: list[Reply] = []
        for key in keys:
            self.add_thread(self._search, Client(stack.port, key, timeout_s=CLIENT_TIMEOUT_S))

    def _search(self, client: Client) -> None:
        while self.waits(3):  # more wrong keys than the limit of failures allows
            self.replies.append(client.send("POST", "/queue/add", {"queue": "nowhere", "data": {}}))
        client.close()


def _judge_without_database(stack: Stack, report: Report, rate: int) -> None:
    assert stack.database is not None  # noqa: S101 (the caller has looked)
    client, name = stack.client(timeout_s=CLIENT_TIMEOUT_S), "PostgreSQL stopped"
    batches = [client.send("POST", "/batches", {"name": f"{number}"}).content["id"] for number in range(WAITS)]
    waits = Waits(stack, batches)
    with waits, sending(stack, rate) as sent:
        time.sleep(BEFORE_S)
        new, revoked = (client.send("POST", "/api/keys", {"name": each}).content for each in ("new", "revoked"))
        # No server knows it any more, and each looks for it.
        client.send("DELETE", f"/api/keys/{revoked['api_key']['id']}")
        pids = stack.database.pid, *descendants_of(stack.database.pid)
        with frozen(*pids), Searches(stack, [new["key"], revoked["key"]]) as searches:
            waits_before = len(waits.replies)
            time.sleep(SILENT_S)
            refused = waits.replies[waits_before:]
        back = len(waits.replies)
        time.sleep(AFTER_S)
    client.close()
    statuses = Counter(str(one.reply.status) for one in sent)
    report.figure(PART, f"{name}: enqueued", counted(statuses), passed=set(statuses) == {"200"})
    report.require(PART, f"{name}: slowest enqueue", max(one.reply.took_s for one in sent), at_most=ANSWERED_S)
    found = Counter(reply.content.get("code", str(reply.status)) for reply in searches.replies)
    report.figure(PART, f"{name}: unknown queue and key", counted(found), passed=set(found) == LOOKED_UP)
    slowest_s = max(reply.took_s for reply in searches.replies)
    report.require(PART, f"{name}: slowest of these", slowest_s, at_most=ANSWERED_S)
    codes = Counter(str(reply.content.get("code", reply.status)) for reply in refused)
    is_refused = set(codes) <= {"database_unavailable", "202"}  # server_busy: they took threads of others
    report.figure(PART, f"{name}: waits meanwhile", counted(codes), passed=is_refused)
    last = Counter(str(reply.status) for reply in waits.replies[back:][-WAITS:])
    report.figure(PART, f"{name}: last waits", counted(last), passed=set(last) == {"202"})


@contextmanager
def sending(stack: Stack, rate: int) -> Iterator[list[Sent]]:
    """Send requests at their due times, whether earlier ones have a response or not."""
    sent: list[Sent] = []
    ended = threading.Event()
    own = threading.local()

    def send() -> None:
        if not hasattr(own, "client"):
            own.client = Client(stack.port, stack.key, timeout_s=CLIENT_TIMEOUT_S)
        sent_s = time.monotonic()
        sent.append(Sent(sent_s, own.client.send("POST", "/queue/add", BODY)))

    def pace(pool: ThreadPoolExecutor) -> None:
        due_s = time.monotonic()
        while not ended.wait(max(due_s - time.monotonic(), 0)):
            pool.submit(send)
            due_s += 1 / rate

    with ThreadPoolExecutor(max_workers=int(rate * SILENT_S) + 50) as pool:
        pacing = threading.Thread(target=pace, args=[pool])
        pacing.start()
        try:
            yield sent
        finally:
            ended.set()
            pacing.join()
