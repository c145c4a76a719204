"""Measure enqueueing while many messages are due to a receiver that is down, against the time in which none is sent,
and how many messages a second one maintenance process sends to a receiver that responds at once.
"""

import asyncio
import subprocess
import threading
import time

from runqy.broker.health import is_maintenance_running
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.servers import free_port
from tests.support.waiting import wait_until
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.server import KEY, Server
from tools.benchmarks.stack import Stack
from tools.soak.api import Client
from tools.soak.report import quantile

MESSAGES = 100_000
BODY = {"queue": "bench", "data": {"prompt": "Hello world", "width": 1024}}
PAUSE_S = 0.005
SENT_MESSAGES, SENT_A_SECOND = 6000, 400
SLICES = 4
"""Of each load in a round, in turn: a 99th percentile needs many requests."""


def measure_webhooks(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print the 99th percentiles with SQLite, and with PostgreSQL if its programs are installed."""
    report.section(f"Enqueueing while {MESSAGES:,} messages are due to a receiver that is down, against none")
    _report(stack, report, sampling, "SQLite", {})
    if (programs := find_programs()) is not None:
        server = PostgresqlServer(programs).start()
        env = {"DATABASE_URL": server.url}
        for command in (("migrate", "-v0"), ("load_queues",)):
            words = [str(stack.source.python), "manage.py", *command]
            subprocess.run(words, cwd=stack.source.root, env=stack.env | env, check=True, stdout=subprocess.PIPE)
        _report(stack, report, sampling, "PostgreSQL", env)
        report.section("Messages to one receiver that responds at once, by one maintenance process")
        report.at_least("PostgreSQL: messages a second", _measure_sending(stack, env), goal=SENT_A_SECOND)
        server.stop()


def _measure_sending(stack: Stack, env: dict[str, str]) -> float:
    env, receiver = env | {"RUNQY_WEBHOOK_NETWORKS": "127.0.0.0/8"}, _Receiver()
    endpoint = _fill(stack, env, receiver.url, SENT_MESSAGES)
    with stack.web(env=env) as server, stack.process(("-m", "django", "run_maintenance"), env):
        wait_until(lambda: stack.broker.run(is_maintenance_running()), timeout_s=60)
        server.send("PATCH", f"/api/webhooks/{endpoint}", {"enabled": True})
        wait_until(lambda: receiver.count >= SENT_MESSAGES, timeout_s=300)
    return (SENT_MESSAGES - 1) / (receiver.last_s - receiver.first_s)


class _Receiver:
    """Accepts each message at once, and counts them."""

    def __init__(self) -> None:
        self.count, self.first_s, self.last_s, port = 0, 0.0, 0.0, free_port()
        self.url = f"http://127.0.0.1:{port}/"

        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            writer.close()
            self.last_s = time.monotonic()
            self.first_s = self.first_s or self.last_s
            self.count += 1

        async def serve() -> None:
            await (await asyncio.start_server(respond, "127.0.0.1", port, backlog=1024)).serve_forever()

        threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()


def _fill(stack: Stack, env: dict[str, str], url: str, count: int) -> str:
    """Store an endpoint with messages; return its id."""
    words = [str(stack.source.python), "-m", "tools.benchmarks.fill_webhooks", url, str(count)]
    filled = subprocess.run(words, cwd=stack.source.root, env=stack.env | env, check=True, stdout=subprocess.PIPE)
    return filled.stdout.decode().strip()


def _report(stack: Stack, report: Report, sampling: Sampling, name: str, env: dict[str, str]) -> None:
    env = env | {"RUNQY_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    endpoint = _fill(stack, env, f"http://127.0.0.1:{free_port()}/", MESSAGES)
    times: dict[bool, list[float]] = {True: [], False: []}
    with stack.web(env=env) as server, stack.process(("-m", "django", "run_maintenance"), env):
        wait_until(lambda: stack.broker.run(is_maintenance_running()), timeout_s=60)
        for number in range(sampling.rounds * SLICES):
            for is_sending in (True, False) if number % 2 else (False, True):
                server.send("PATCH", f"/api/webhooks/{endpoint}", {"enabled": is_sending})
                if is_sending:
                    # Enabled, it begins anew; a target that fails gets an attempt every few seconds.
                    wait_until(lambda: _is_failing(server, endpoint), timeout_s=60)
                else:
                    time.sleep(1)  # the sender has seen it
                times[is_sending] += _enqueue(server, sampling.seconds)
    stack.empty()
    sending, idle = (quantile(times[is_sending], 0.99) * 1000 for is_sending in (True, False))
    report.ratio(f"{name}: p99 of a request", sending, idle, "ms", goal=1.1, is_lower_better=True)


def _is_failing(server: Server, endpoint: str) -> bool:
    return server.send("GET", f"/api/webhooks/{endpoint}")["failing_since"] is not None


def _enqueue(server: Server, seconds: float) -> list[float]:
    """Enqueue single tasks for some seconds, with pauses; return the time of each request in s."""
    client, times, until_s = Client(server.port, KEY), [], time.monotonic() + seconds
    while time.monotonic() < until_s:
        reply = client.send("POST", "/queue/add", BODY)
        if reply.status != 200:
            raise RuntimeError(f"POST /queue/add: {reply.status}")
        times.append(reply.took_s)
        time.sleep(PAUSE_S)
    client.close()
    return times
