"""Compare the SDK's client with loops that are written by hand with its HTTP library and send the same tasks."""

import time
import uuid
from collections.abc import Callable

import httpx2

from runqy_sdk.client import Client
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling, warm_up
from tools.benchmarks.server import KEY
from tools.benchmarks.stack import Stack

QUEUE = "unserved"
TASKS, MANY, BATCH = 300, 10_000, 1_000
PAYLOAD = {"prompt": "Hello world", "width": 1024}

Enqueue = Callable[[int], object]


def measure_client(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Compare tasks a second over one connection, one task and many in a request."""
    with stack.web(processes=1) as server:
        url, headers = f"http://127.0.0.1:{server.port}", {"Authorization": f"Bearer {KEY}"}
        with Client(url, KEY) as client, httpx2.Client(base_url=url, headers=headers) as http:
            warm_up(server)

            def enqueue_by_hand(count: int) -> None:
                for _ in range(count):
                    body = {"queue": QUEUE, "data": PAYLOAD, "task_id": str(uuid.uuid4())}
                    http.post("/queue/add", json=body).raise_for_status().json()

            def enqueue(count: int) -> None:
                for _ in range(count):
                    client.enqueue(QUEUE, PAYLOAD)

            def enqueue_batches_by_hand(count: int) -> None:
                for _ in range(0, count, BATCH):
                    jobs = [{"data": PAYLOAD, "task_id": str(uuid.uuid4())} for _ in range(BATCH)]
                    http.post("/queue/add-batch", json={"queue": QUEUE, "jobs": jobs}).raise_for_status().json()

            def enqueue_many(count: int) -> None:
                assert all(outcome.error is None for outcome in client.enqueue_many(QUEUE, [PAYLOAD] * count))

            report.section("The client of the SDK, against its HTTP library")
            own, by_hand = _rates((enqueue, enqueue_by_hand), TASKS, stack, sampling)
            report.paired("enqueue, against a loop of requests", own, by_hand, "tasks/s", goal=0.9)
            own, by_hand = _rates((enqueue_many, enqueue_batches_by_hand), MANY, stack, sampling)
            report.paired("enqueue_many, against batches by hand", own, by_hand, "tasks/s", goal=0.8)


def _rates(ways: tuple[Enqueue, Enqueue], count: int, stack: Stack, sampling: Sampling) -> list[list[float]]:
    """Return the rates of both ways, by round."""
    by_round = []
    for _ in range(sampling.rounds):
        rates = []
        for enqueue in ways:
            began_s = time.perf_counter()
            enqueue(count)
            rates.append(count / (time.perf_counter() - began_s))
            stack.empty()
        by_round.append(rates)
    return [list(rates) for rates in zip(*by_round, strict=True)]
