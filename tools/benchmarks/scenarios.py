"""Run loads in alternating rounds, so that a slow period of the machine affects all that are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.benchmarks.load import UNIQUE, Load, request_bytes, run_load
from tools.benchmarks.server import KEY, Server

CONNECTIONS = 32
BATCH = 100
_WARM_UP_S = 3.0
"""Long enough for the second process too: the first one responds before that has loaded the application."""

BODY = b'{"queue":"bench","timeout":300,"data":{"prompt":"Hello world","width":1024}}'
_BATCH_BODY = b'{"queue":"bench","jobs":[' + b",".join([b'{"prompt":"Hello world","width":1024}'] * BATCH) + b"]}"

ENQUEUE = request_bytes("POST", "/queue/add", KEY, BODY)
ENQUEUE_BATCH = request_bytes("POST", "/queue/add-batch", KEY, _BATCH_BODY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How often and how long each load runs."""

    rounds: int
    seconds: float
    against: str
    """The commit that the parts `http` and `no_ops` compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A load on a server."""

    server: Server
    request: bytes | Callable[[Server], bytes]
    connections: int = CONNECTIONS

    def run(self, seconds: float, *, is_emptied: bool = True) -> Load:
        """Run the load, and delete the tasks afterwards."""
        request = self.request if isinstance(self.request, bytes) else self.request(self.server)
        load = run_load(self.server.port, request, connections=self.connections, seconds=seconds)
        if is_emptied:
            self.server.stack.empty()
        return load


def warm_up(*servers: Server) -> None:
    """Wait until all web processes have loaded the application and are warm."""
    for server in servers:
        Scenario(server=server, request=ENQUEUE).run(_WARM_UP_S)


def run_rounds(scenarios: Mapping[str, Scenario], sampling: Sampling) -> dict[str, list[Load]]:
    """Run each scenario once a round; return the loads of all rounds."""
    loads: dict[str, list[Load]] = {name: [] for name in scenarios}
    for _ in range(sampling.rounds):
        for name, scenario in scenarios.items():
            loads[name].append(scenario.run(sampling.seconds))
    return loads


def get_task(server: Server) -> bytes:
    """Return a request that reads a task, which is enqueued before."""
    return request_bytes("GET", f"/queue/{server.enqueue_one()}", KEY)


def enqueue_with(headers: Mapping[str, str], *, has_row_key: bool = False) -> Callable[[Server], bytes]:
    """Return a function that makes a request to enqueue with these headers.

    Each request has a unique value, in another header if it has no idempotency key, so that all cost the same to send.
    """
    sent = dict(headers) if "Idempotency_Key" in headers else {"X_Benchmark_Id": UNIQUE.decode(), **headers}
    return lambda server: request_bytes(
        "POST", "/queue/add", server.stack.row_key if has_row_key else KEY, BODY, **sent
    )
