"""Measure how slow clients affect others: incomplete request heads, and bodies that arrive at a byte a second."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tools.benchmarks.load import Load, request_bytes
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import ENQUEUE, Sampling, Scenario, warm_up
from tools.benchmarks.server import KEY, Server
from tools.benchmarks.stack import Stack

HEADS = 500
BODIES = 200
CONNECTIONS = 8
_HEAD = b"POST /queue/add HTTP/1.1\r\nHost"
_BODY_BYTES = 1_000
_LIVEZ = request_bytes("GET", "/livez", KEY)


def measure_slow_clients(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Compare the p99 of a health check and of enqueueing with and without slow clients."""
    with stack.web() as server:
        scenarios = {
            "GET /livez": Scenario(server=server, request=_LIVEZ, connections=CONNECTIONS),
            "POST /queue/add": Scenario(server=server, request=ENQUEUE, connections=CONNECTIONS),
        }
        warm_up(server)
        without: dict[str, list[Load]] = {name: [] for name in scenarios}
        beside: dict[str, list[Load]] = {name: [] for name in scenarios}
        open_at_end = []
        for _ in range(sampling.rounds):
            for name, scenario in scenarios.items():
                without[name].append(scenario.run(sampling.seconds))
                # Opened for each load: the server closes an incomplete head after 10 s.
                with _slow_clients(server) as clients:
                    beside[name].append(scenario.run(sampling.seconds))
                    open_at_end.append(_count_open(clients))
    report.section(
        f"p99, {CONNECTIONS} connections, beside {HEADS} half-open heads and {BODIES} bodies at a byte a second / alone"
    )
    for name in scenarios:
        values, others = ([load.p99_ms for load in loads[name]] for loads in (beside, without))
        report.paired(name, values, others, "ms", goal=2.0, is_lower_better=True)
    report.failures({f"{name} beside slow clients": sum(load.failures for load in beside[name]) for name in scenarios})
    report.note(f"slow clients connected to the end, at the least: {min(open_at_end)} of {HEADS + BODIES}")


@contextmanager
def _slow_clients(server: Server) -> Iterator[list[socket.socket]]:
    """Connect clients that send almost nothing."""
    body_head = request_bytes("POST", "/queue/add", KEY, b" " * _BODY_BYTES)[:-_BODY_BYTES]
    heads, bodies = (
        [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(count)]
        for count in (HEADS, BODIES)
    )
    stopped = threading.Event()
    sender = threading.Thread(target=_send_bytes, args=[bodies, stopped])
    try:
        for client in heads:
            client.sendall(_HEAD)
        for client in bodies:
            client.sendall(body_head)
        sender.start()
        server.send("GET", "/livez")  # served after the clients were accepted
        yield heads + bodies
    finally:
        stopped.set()
        sender.join()
        for client in heads + bodies:
            client.close()


def _send_bytes(clients: list[socket.socket], stopped: threading.Event) -> None:
    """Send the bodies at a byte a second each, spread over the second."""
    while True:
        for client in clients:
            if stopped.wait(1 / len(clients)):
                return
            try:
                client.send(b" ")
            except OSError:  # the server has given up on it
                continue


def _count_open(clients: list[socket.socket]) -> int:
    """Return how many clients have neither a response nor a closed connection."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        return len(clients) - len(selector.select(0))
