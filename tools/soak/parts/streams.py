"""Tasks stream while children, workers, web processes and Redis are killed and readers reconnect; one streams 10 GB."""

import json
import random
import signal
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

from runqy.broker.keys import QueueKeys
from tools.soak import processes
from tools.soak.api import Client
from tools.soak.options import Options
from tools.soak.processes import ManagedProcess, resident_mb, wait_for
from tools.soak.report import Report
from tools.soak.stack import Stack, running_stack
from tools.soak.threads import BackgroundThreads

PART = "streams"
QUEUE = "steady_high"
STREAMS, CHUNKS, CHUNKS_A_SECOND = 24, 5_000, 250
RECONNECTIONS = 20
FAULTS, PAUSE_S = 12, 4.0
PATIENCE_S = 300.0
FLOOD_BYTES = 10_000_000_000
FLOODS = {"chunks of 60 KB": 60_000, "one chunk": FLOOD_BYTES}
GROWN_MB = 80.0
"""A run may stream 4 MiB, and the worker reads a line of 32 MiB at most."""


def run(options: Options, report: Report) -> None:
    rng = options.rng(PART)
    with running_stack(report, rng) as stack, stack.redis_client() as redis:
        report.section(f"{STREAMS} streams of {CHUNKS:,} chunks, and {FAULTS} kills")
        for name in ("worker-a", "worker-b"):
            stack.add_worker(name, queues="steady", RUNQY_CONCURRENCY="4", RUNQY_PROCESSES="4")
        stack.wait_until_ready(2)
        client = stack.client()
        payload = {"do": "stream", "chunks": CHUNKS, "chunks_a_second": CHUNKS_A_SECOND, "number": "stream"}
        body = {"queue": QUEUE, "data": payload, "timeout": 120, "max_retry": 20}
        ids = [client.post("/queue/add", body)["info"]["id"] for _ in range(STREAMS)]
        with _Readers(stack, ids, rng) as readers:
            _kill(stack, rng, report)
            wait_for(lambda: redis.zcard(QueueKeys(QUEUE).completed) == STREAMS, PATIENCE_S, "all streams have ended")
            wait_for(lambda: readers.ended == len(ids), 60, "all readers have received the end")
        _check(client, ids, readers, report)
        _flood(stack, client, report)
        client.close()


def _kill(stack: Stack, rng: random.Random, report: Report) -> None:
    """Kill children, workers, web processes and Redis in turn."""

    def kill_child() -> None:
        children = [pid for worker in stack.workers.values() for pid in stack.child_processes(worker)]
        if children:
            processes.send_signal(rng.choice(children), signal.SIGKILL)

    def kill_worker() -> None:
        worker = rng.choice(list(stack.workers.values()))
        worker.kill()
        worker.start()

    def kill_web_process() -> None:
        if web := stack.web_processes():
            processes.send_signal(rng.choice(web), signal.SIGKILL)

    def kill_redis() -> None:
        assert stack.redis is not None  # noqa: S101 (the stack has its own)
        stack.redis.kill()
        stack.redis.start()

    faults: list[tuple[str, Callable[[], None]]] = [
        ("a child", kill_child),
        ("a worker", kill_worker),
        ("a web process", kill_web_process),
        ("Redis", kill_redis),
    ]
    for number in range(FAULTS):
        time.sleep(PAUSE_S * (0.5 + rng.random()))
        name, kill = faults[number % len(faults)]
        report.note(f"kill -9 of {name}")
        kill()


class _Readers(BackgroundThreads):
    """One reader for each stream, which reconnects now and then."""

    def __init__(self, stack: Stack, ids: list[str], rng: random.Random) -> None:
        super().__init__(patience_s=30)
        self.chunks: dict[str, list[Any]] = {task_id: [] for task_id in ids}
        self.connections = dict.fromkeys(ids, 0)
        self.gaps = 0
        self.resets = 0
        self.ended = 0
        self._stack = stack
        for task_id in ids:
            self.add_thread(self._read, task_id, random.Random(rng.random()))

    def _read(self, task_id: str, rng: random.Random) -> None:
        last_id, is_over = "", False
        while not is_over and self.waits(0.05):
            http = HTTPConnection("127.0.0.1", self._stack.port, timeout=30)
            try:
                headers = {"Authorization": f"Bearer {self._stack.key}", "Last-Event-ID": last_id}
                http.request("GET", f"/queue/{task_id}/events", headers=headers)
                response = http.getresponse()
                self.connections[task_id] += 1
                left = rng.randrange(1, CHUNKS // RECONNECTIONS)
                fields: dict[str, str] = {}
                while response.status == 200 and left and not is_over and (line := response.readline().decode()):
                    name, _, value = line.rstrip("\n").partition(": ")
                    if line != "\n":
                        fields[name] = value
                        continue
                    is_over = self._receive(task_id, fields)
                    last_id = fields.get("id", last_id)
                    left -= "event" in fields
                    fields = {}
                is_over = is_over or response.status == 204
            except (OSError, HTTPException):
                pass
            finally:
                http.close()
        self.ended += is_over

    def _receive(self, task_id: str, fields: dict[str, str]) -> bool:
        """Note an event; return whether it is the last one."""
        event = fields.get("event")
        if event == "chunk":
            self.chunks[task_id].append(json.loads(fields["data"])["chunk"])
        elif event == "reset":
            self.chunks[task_id] = []
            self.resets += 1
        elif event == "gap":
            self.gaps += 1
        return event in ("end", "gone")


def _check(client: Client, ids: list[str], readers: _Readers, report: Report) -> None:
    whole = list(range(CHUNKS))
    wrong = [task_id for task_id in ids if readers.chunks[task_id] != whole]
    for task_id in wrong[:5]:
        chunks = readers.chunks[task_id]
        first = next((n for n, chunk in enumerate(chunks) if chunk != n), len(chunks))
        report.fail(PART, f"{task_id}: {len(chunks)} chunks arrived, the first wrong one at {first}")
    results = [client.get(f"/queue/{task_id}")["info"]["result"] for task_id in ids]
    report.figure(PART, "streams without a gap or a repetition", f"{len(ids) - len(wrong)} of {len(ids)}")
    report.figure(
        PART, "results that are the stream", str(results.count(whole)), passed=results.count(whole) == STREAMS
    )
    report.figure(PART, "streams that began again", str(readers.resets))
    report.figure(PART, "gaps", str(readers.gaps), passed=readers.gaps == 0)
    report.figure(PART, "connections of a reader, at least", str(min(readers.connections.values())))


def _flood(stack: Stack, client: Client, report: Report) -> None:
    report.section(f"A task that streams {FLOOD_BYTES / 1e9:.0f} GB")
    for worker in stack.workers.values():
        worker.end()
    worker = stack.add_worker("worker-c", queues="steady", RUNQY_CONCURRENCY="1", RUNQY_PROCESSES="1")
    stack.wait_until_ready(1)
    before_mb = resident_mb(worker.pid)
    for name, chunk_bytes in FLOODS.items():
        payload = {"do": "flood", "bytes": FLOOD_BYTES, "chunk_bytes": chunk_bytes, "number": "flood"}
        body = {"queue": QUEUE, "data": payload, "timeout": 240, "max_retry": 3}
        began_s = time.monotonic()
        task_id = client.post("/queue/add", body)["info"]["id"]
        most_mb = _watch(client, worker, task_id)
        state = client.get(f"/api/cli/queues/{QUEUE}/tasks/{task_id}")
        report.figure(
            PART, f"{name}: after {time.monotonic() - began_s:.1f} s", f"{state['state']}, {state['last_err']}"
        )
        if state["state"] != "archived" or not state["last_err"].startswith("stream_too_large: "):
            report.fail(PART, f"{name}: the task did not fail with the limit")
        report.require(PART, f"{name}: the worker grew by", most_mb - before_mb, at_most=GROWN_MB, unit="MB")


def _watch(client: Client, worker: ManagedProcess, task_id: str) -> float:
    """Return the most memory that a worker used until a task has ended."""
    most_mb = 0.0
    deadline_s = time.monotonic() + PATIENCE_S
    while client.get(f"/queue/{task_id}")["info"]["state"] not in ("archived", "completed"):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{task_id}: not ended within {PATIENCE_S:g} s")
        most_mb = max(most_mb, resident_mb(worker.pid))
        time.sleep(0.1)
    return most_mb
