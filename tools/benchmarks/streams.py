"""Measure streams: how long a chunk takes from a task's print to its reader, and what streams cost other requests."""

import re
import selectors
import socket
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection

from tools.benchmarks.load import request_bytes
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import BODY, Sampling, warm_up
from tools.benchmarks.server import KEY, Server
from tools.benchmarks.stack import Stack

STREAMS, CHUNKS_A_SECOND, SECONDS = 20, 1_000, 8
ENQUEUES_A_SECOND = 50
QUEUE = "streams"
_END_S = 60.0
_READ_BYTES = 256 << 10
_CHUNK = re.compile(rb'"chunk":\[(\d+),([\d.]+)\]')


@dataclass(slots=True)
class Stream:
    """What a reader has received."""

    numbers: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    rest: bytes = b""

    def receive(self, data: bytes) -> None:
        """Note the chunks in received data, each the number and the Unix time of its print."""
        now_s, end = time.time(), 0
        self.rest += data
        for found in _CHUNK.finditer(self.rest):
            self.numbers.append(int(found[1]))
            self.latencies_s.append(now_s - float(found[2]))
            end = found.end()
        self.rest = self.rest[end:]


def measure_streams(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Read the streams of one child as server-sent events, while other tasks are enqueued."""
    with stack.web() as server, stack.worker(QUEUE, server, concurrency=STREAMS), ProcessPoolExecutor(1) as readers:
        warm_up(server)
        _read(server.port, _start(server, chunks=10))  # deployed and warm
        alone, beside, latencies_ms, whole = [], [], [], []
        for _ in range(sampling.rounds):
            alone.append(_p99_ms(_enqueue(server, SECONDS)))
            streams = readers.submit(_read, server.port, _start(server, chunks=SECONDS * CHUNKS_A_SECOND))
            beside.append(_p99_ms(_enqueue(server, SECONDS)))
            received = streams.result()
            latencies_ms.append(_p99_ms([time_s for stream in received for time_s in stream.latencies_s]))
            whole.append(sum(stream.numbers == list(range(SECONDS * CHUNKS_A_SECOND)) for stream in received))
            stack.empty()
    report.section(f"{STREAMS} streams of {CHUNKS_A_SECOND:,} chunks/s, with a reader each")
    report.at_least("streams of which each chunk arrived, once and in order", min(whole), goal=STREAMS)
    report.figure("from print to reader, p99 of the median round", statistics.median(latencies_ms), "ms", goal=250)
    what = f"POST /queue/add, {ENQUEUES_A_SECOND} a second, p99 beside the streams / alone"
    report.paired(what, beside, alone, "ms", goal=2.0, is_lower_better=True)


def _start(server: Server, *, chunks: int) -> list[str]:
    """Enqueue a task for each stream; return the ids."""
    data = {"chunks": chunks, "chunks_a_second": CHUNKS_A_SECOND}
    body = {"queue": QUEUE, "jobs": [data] * STREAMS}
    return [str(task_id) for task_id in server.send("POST", "/queue/add-batch", body)["task_ids"]]


def _read(port: int, ids: Sequence[str]) -> list[Stream]:
    """Read the streams of tasks until all have ended."""
    streams = []
    with selectors.DefaultSelector() as selector:
        for task_id in ids:
            connection = socket.create_connection(("127.0.0.1", port), timeout=_END_S)
            connection.sendall(request_bytes("GET", f"/queue/{task_id}/events", KEY))
            streams.append(Stream())
            selector.register(connection, selectors.EVENT_READ, (connection, streams[-1]))
        while selector.get_map():
            events = selector.select(_END_S)
            if not events:
                raise TimeoutError(f"no chunk arrived within {_END_S:g} s")
            for key, _ in events:
                connection, stream = key.data
                data = connection.recv(_READ_BYTES)
                stream.receive(data)
                if not data or b"event: end\n" in data:
                    selector.unregister(connection)
                    connection.close()
    return streams


def _enqueue(server: Server, seconds: float) -> list[float]:
    """Enqueue at a steady rate over one connection; return the times of the requests."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = BODY.replace(b'"bench"', b'"unserved"')
    times_s = []
    began_s = time.perf_counter()
    for number in range(int(seconds * ENQUEUES_A_SECOND)):
        time.sleep(max(began_s + number / ENQUEUES_A_SECOND - time.perf_counter(), 0))
        sent_s = time.perf_counter()
        connection.request("POST", "/queue/add", body, headers)
        response = connection.getresponse()
        response.read()
        times_s.append(time.perf_counter() - sent_s)
        if response.status != 200:
            raise RuntimeError(f"POST /queue/add: {response.status}")
    connection.close()
    return times_s


def _p99_ms(times_s: Sequence[float]) -> float:
    return sorted(times_s)[int(len(times_s) * 0.99)] * 1000
