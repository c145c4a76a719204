"""Redis is stopped, or behind a black hole, under steady requests: each gets a response soon, during and after it."""

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
from tools.soak.processes import frozen
from tools.soak.report import Report
from tools.soak.stack import Stack, running_stack

PART = "silence"
RATES = (5, 50)
"""Requests a second. A single client would send nothing while it waits, which hides what blocks other clients."""
SILENT_S, BEFORE_S, AFTER_S = 15.0, 3.0, 6.0
ANSWERED_S, BACK_S = 3.0, 1.0
BODY = {"queue": "canary", "data": {"do": "ok"}}
CLIENT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A request and its response."""

    sent_s: float
    reply: Reply

    @property
    def answered_s(self) -> float:
        return self.sent_s + self.reply.took_s


def run(options: Options, report: Report) -> None:
    """Enqueue at each rate while Redis is silent in each way."""
    with running_stack(report, options.rng(PART)) as stack:
        report.section(f"Redis silent for {SILENT_S:g} s under {' and '.join(map(str, RATES))} enqueues a second")
        for rate in RATES:
            _judge(stack, report, f"stopped, {rate}/s", rate, lambda: _stopped(stack))
            _judge(stack, report, f"black hole, {rate}/s", rate, lambda: _black_hole(stack))


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
