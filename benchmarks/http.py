"""Measures the HTTP paths against bare applications on the same server."""

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from benchmarks.load import UNIQUE, Load, request_bytes, run_load
from benchmarks.report import Report
from benchmarks.stack import KEY, Stack
from runqy import settings

CONNECTIONS = 32
SECONDS = 2.0
ROUNDS = 7
WAITERS_S = 4.0
WARM_UP_S = 3.0
"""A server listens before its second process has loaded the application."""
BARE_OPTIONS = ("-c", "python:benchmarks.apps.server_conf")
REAL_OPTIONS = ("-c", "python:runqy.gunicorn_conf")
BODY = b'{"queue":"bench","timeout":300,"data":{"prompt":"Hello world","width":1024}}'
UNIQUE_BODY = BODY.replace(b'"data"', b'"unique_key":"' + UNIQUE + b'","data"')
BATCH = 100
BATCH_BODY = b'{"queue":"bench","jobs":[' + b",".join([b'{"prompt":"Hello world","width":1024}'] * BATCH) + b"]}"


def measure_http(stack: Stack, report: Report) -> None:
    """Compare enqueueing and reading with a bare WSGI app and an empty Django view, in turns."""
    # Every request spells a value of its own, so that sending one costs the same with and without an idempotency key.
    enqueue = request_bytes("POST", "/queue/add", KEY, BODY, X_Number_Of_Bench=UNIQUE.decode())
    with ExitStack() as servers:
        bare = servers.enter_context(stack.web("benchmarks.apps.bare_wsgi:application", *BARE_OPTIONS))
        empty = servers.enter_context(stack.web("benchmarks.apps.empty_django:application", *BARE_OPTIONS))
        real = servers.enter_context(stack.web("runqy.asgi:application", *REAL_OPTIONS))
        nameless = servers.enter_context(stack.web("benchmarks.apps.nameless:application", *REAL_OPTIONS))
        once = {"Idempotency_Key": UNIQUE.decode()}
        named = once | {"X_Request_ID": "bench-0123456789"}
        task_id = enqueue_one(real)
        read = request_bytes("GET", f"/queue/{task_id}", KEY)
        runs = {
            "bare": (bare, enqueue),
            "empty": (empty, enqueue),
            "enqueue": (real, enqueue),
            "nameless": (nameless, enqueue),
            "row": (real, request_bytes("POST", "/queue/add", stack.row_key, BODY, X_Number_Of_Bench=UNIQUE.decode())),
            "once": (real, request_bytes("POST", "/queue/add", KEY, BODY, **once)),
            "all": (real, request_bytes("POST", "/queue/add", stack.row_key, BODY, **named)),
            "unique": (real, request_bytes("POST", "/queue/add", KEY, UNIQUE_BODY, X_Number_Of_Bench=UNIQUE.decode())),
            "batch": (real, request_bytes("POST", "/queue/add-batch", KEY, BATCH_BODY)),
            "read": (real, read),
        }
        loads: dict[str, list[Load]] = {name: [] for name in runs}
        for port, request in runs.values():
            run_load(port, request, connections=CONNECTIONS, seconds=WARM_UP_S)
        for _ in range(ROUNDS):
            for name, (port, request) in runs.items():
                loads[name].append(run_load(port, request, connections=CONNECTIONS, seconds=SECONDS))
                stack.empty() if name != "read" else None
                if name == "batch":
                    task_id = enqueue_one(real)
                    runs["read"] = (real, request_bytes("GET", f"/queue/{task_id}", KEY))
        measure_waiters(stack, report, real)
    rates = {name: [load.rate for load in loads[name]] for name in runs}
    rate = {name: statistics.median(of_rounds) for name, of_rounds in rates.items()}
    failures = {name: sum(load.failures for load in loads[name]) for name in runs}
    report.section(f"HTTP, {CONNECTIONS} connections, two processes")
    report.yardstick("bare WSGI app: parse, message, one script", rate["bare"], "requests/s")
    report.ratio("Django view that does nothing", rate["empty"], rate["bare"], "requests/s")
    report.paired("POST /queue/add", rates["enqueue"], rates["bare"], "requests/s", goal=0.6)
    report.paired("… as is / without request ids", rates["enqueue"], rates["nameless"], "requests/s", goal=0.9)
    report.paired("… with a key from a row / the environment", rates["row"], rates["enqueue"], "requests/s", goal=0.9)
    report.paired("… with Idempotency-Key / without", rates["once"], rates["enqueue"], "requests/s", goal=0.9)
    report.paired("… with all three / with none", rates["all"], rates["nameless"], "requests/s", goal=0.8)
    report.paired("… with unique_key / without", rates["unique"], rates["enqueue"], "requests/s", goal=0.9)
    report.figure(f"POST /queue/add-batch, {BATCH} each", rate["batch"] * BATCH, "tasks/s")
    report.ratio("GET /queue/{task_id}", rate["read"], rate["bare"], "requests/s")
    report.note(f"answers that were no 2xx: {', '.join(f'{name} {count}' for name, count in failures.items())}")


def measure_waiters(stack: Stack, report: Report, port: int) -> None:
    """Compare the latency of enqueueing with no waiters and with as many as two processes hold."""
    request = request_bytes("POST", "/queue/add", KEY, BODY)
    before = run_load(port, request, connections=4, seconds=WAITERS_S)
    task_id = enqueue_one(port)
    count = 2 * settings.RUNQY_MAX_WAITERS
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(wait_for, port, task_id, seconds=int(WAITERS_S) + 4) for _ in range(count)]
        time.sleep(1.5)  # let them all arrive
        during = run_load(port, request, connections=4, seconds=WAITERS_S)
        statuses = [answer.result() for answer in answers]
    stack.empty()
    report.section("Waiters")
    report.note(f"{statuses.count(202)} waited to the end, {statuses.count(503)} were turned away")
    what = "POST /queue/add, p50, all waiting places taken / none"
    report.ratio(what, during.percentile_ms(50), before.percentile_ms(50), "ms", goal=1.5, is_lower_better=True)


def enqueue_one(port: int) -> str:
    """Queue one task and return its id."""
    request = Request(f"http://127.0.0.1:{port}/queue/add", data=BODY, headers={"Authorization": f"Bearer {KEY}"})
    with urlopen(request, timeout=10) as answer:  # noqa: S310
        task_id: str = json.load(answer)["info"]["id"]
        return task_id


def wait_for(port: int, task_id: str, *, seconds: int) -> int:
    """Wait for a task over HTTP and return the status of the answer."""
    request = Request(
        f"http://127.0.0.1:{port}/queue/{task_id}?wait={seconds}", headers={"Authorization": f"Bearer {KEY}"}
    )
    try:
        with urlopen(request, timeout=seconds + 30) as answer:  # noqa: S310
            status: int = answer.status
            return status
    except HTTPError as error:
        error.close()
        return error.code
