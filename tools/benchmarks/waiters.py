"""Measure requests that wait for a result: how many a process can hold, and what they cost others."""

import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tools.benchmarks.load import request_bytes
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import CONNECTIONS, ENQUEUE, Sampling, Scenario, warm_up
from tools.benchmarks.server import KEY, Server
from tools.benchmarks.stack import Stack

HELD = 5_000
BESIDE = 2_000
WAIT_S = 60
_GROUP = 250
_QUIET_S = 2.0
_END_S = 20.0


def measure_waiters(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Let clients wait in one web process, until their task ends and beside requests that enqueue."""
    with stack.web(processes=1) as server:
        warm_up(server)
        report.section("Requests that wait, in one web process")
        report.at_least("GET /queue/{task_id}?wait that wait and get the result", _count_served(server), goal=HELD)
        scenario = Scenario(server=server, request=ENQUEUE)
        alone, beside, open_at_end = [], [], []
        for _ in range(sampling.rounds):
            alone.append(scenario.run(sampling.seconds).rate)
            with _waiters(server, server.enqueue_one(), BESIDE) as waiters:
                # Emptying Redis would end the waits.
                load = scenario.run(sampling.seconds, is_emptied=False)
                beside.append(load.rate)
                open_at_end.append(len(waiters) - len(_readable(waiters, 0)))
            stack.empty()
        what = f"POST /queue/add, {CONNECTIONS} connections, while {BESIDE:,} wait / none"
        report.paired(what, beside, alone, "requests/s", goal=0.8)
        report.at_least("of them waiting to the end, at the least", min(open_at_end), goal=BESIDE)


def _count_served(server: Server) -> int:
    """Return how many of HELD clients wait until their task is cancelled, and then get it."""
    task_id = server.enqueue_one()
    with _waiters(server, task_id, HELD) as waiters:
        early = _readable(waiters, _QUIET_S)
        waiting = [waiter for waiter in waiters if waiter not in early]
        server.send("DELETE", f"/api/cli/tasks/{task_id}")
        served = _readable(waiting, _END_S)
        count = sum(waiter.recv(12) == b"HTTP/1.1 200" for waiter in served)
    server.stack.empty()
    return count


@contextmanager
def _waiters(server: Server, task_id: str, count: int) -> Iterator[list[socket.socket]]:
    """Open connections that wait for a task, half of them with each key: a key may use only a share of the waiters."""
    requests = [request_bytes("GET", f"/queue/{task_id}?wait={WAIT_S}", key) for key in (KEY, server.stack.row_key)]
    waiters: list[socket.socket] = []
    try:
        for start in range(0, count, _GROUP):
            for number in range(start, min(start + _GROUP, count)):
                waiters.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
                waiters[-1].sendall(requests[number % 2])
            server.send("GET", "/livez")  # served after the requests before it
        yield waiters
    finally:
        for waiter in waiters:
            waiter.close()
        server.send("GET", "/livez")


def _readable(connections: list[socket.socket], seconds: float) -> set[socket.socket]:
    """Return the connections on which something arrives, until nothing has arrived for `seconds`."""
    readable: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        while selector.get_map() and (events := selector.select(seconds)):
            for key, _ in events:
                selector.unregister(key.fileobj)
                readable.add(key.data)
    return readable
