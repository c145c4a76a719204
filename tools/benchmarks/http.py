"""Compare the hot routes with another commit's: enqueue one task, enqueue a batch, read a task."""

import statistics
from contextlib import ExitStack

from tools.benchmarks import baseline
from tools.benchmarks.load import UNIQUE, Load, Traffic, run_load, run_loads
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import (
    BATCH,
    CONNECTIONS,
    ENQUEUE,
    ENQUEUE_BATCH,
    Sampling,
    Scenario,
    enqueue_with,
    get_task,
    run_rounds,
    warm_up,
)
from tools.benchmarks.server import Server
from tools.benchmarks.stack import Stack, running_stack

BATCH_CONNECTIONS = 4
NO_SLOWER = 0.97
"""The goal against another commit than the baseline: what two runs of one commit differ by."""
_THREADS = ("-k", "gthread", "--threads", "4")
_REQUEST_ID = {"X_Request_ID": "benchmark-0123456789"}
_IDEMPOTENCY_KEY = {"Idempotency_Key": UNIQUE.decode()}


def measure_http(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Compare rates, then latencies beside batches."""
    with running_stack(baseline.get_baseline(sampling.against)) as base_stack, ExitStack() as servers:
        base = servers.enter_context(base_stack.web())
        current = servers.enter_context(stack.web())
        viewsets = servers.enter_context(stack.web(application="runqy.wsgi:application", options=_THREADS))
        bare = servers.enter_context(stack.web(application="tools.benchmarks.apps.bare_asgi:application"))
        warm_up(base, current, viewsets, bare)
        _measure_rates(_scenarios(base, current, viewsets, bare), report, sampling)
        _measure_beside_batches(base, current, report, sampling)


def _scenarios(base: Server, current: Server, viewsets: Server, bare: Server) -> dict[str, Scenario]:
    """Return the loads of each round. Those that are compared run one after the other."""
    everything = enqueue_with(_REQUEST_ID | _IDEMPOTENCY_KEY, has_row_key=True)
    return {
        "base": Scenario(server=base, request=ENQUEUE),
        "current": Scenario(server=current, request=ENQUEUE),
        "viewsets": Scenario(server=viewsets, request=ENQUEUE),
        "bare": Scenario(server=bare, request=ENQUEUE),
        "base one": Scenario(server=base, request=ENQUEUE, connections=1),
        "current one": Scenario(server=current, request=ENQUEUE, connections=1),
        "base get": Scenario(server=base, request=get_task),
        "current get": Scenario(server=current, request=get_task),
        "viewsets get": Scenario(server=viewsets, request=get_task),
        "base batches": Scenario(server=base, request=ENQUEUE_BATCH, connections=1),
        "current batches": Scenario(server=current, request=ENQUEUE_BATCH, connections=1),
        "base batches 4": Scenario(server=base, request=ENQUEUE_BATCH, connections=BATCH_CONNECTIONS),
        "current batches 4": Scenario(server=current, request=ENQUEUE_BATCH, connections=BATCH_CONNECTIONS),
        "plain": Scenario(server=current, request=enqueue_with({})),
        "request id": Scenario(server=current, request=enqueue_with(_REQUEST_ID)),
        "row key": Scenario(server=current, request=enqueue_with({}, has_row_key=True)),
        "idempotency key": Scenario(server=current, request=enqueue_with(_IDEMPOTENCY_KEY)),
        "everything": Scenario(server=current, request=everything),
    }


def _measure_rates(scenarios: dict[str, Scenario], report: Report, sampling: Sampling) -> None:
    loads = run_rounds(scenarios, sampling)

    def compare(what: str, name: str, against: str, *, goal: float = 0.0, tasks: int = 1) -> None:
        values, others = ([load.rate * tasks for load in loads[key]] for key in (name, against))
        report.paired(what, values, others, "tasks/s" if tasks > 1 else "requests/s", goal=goal)

    def goal(of_baseline: float) -> float:
        return of_baseline if sampling.against == baseline.COMMIT else NO_SLOWER

    report.section(f"HTTP, two processes, against commit {sampling.against[:7]}")
    compare(f"POST /queue/add, {CONNECTIONS} connections", "current", "base", goal=goal(3.5))
    compare("POST /queue/add, 1 connection", "current one", "base one", goal=goal(1))
    compare(f"GET /queue/{{task_id}}, {CONNECTIONS} connections", "current get", "base get", goal=goal(3))
    compare(f"batches of {BATCH}, 1 connection", "current batches", "base batches", goal=goal(1.2), tasks=BATCH)
    what = f"batches of {BATCH}, {BATCH_CONNECTIONS} connections"
    compare(what, "current batches 4", "base batches 4", goal=goal(1.2), tasks=BATCH)
    compare("POST /queue/add by the viewset", "viewsets", "base")
    compare("GET /queue/{task_id} by the viewset", "viewsets get", "base get")
    report.section(f"POST /queue/add, {CONNECTIONS} connections, with / without")
    compare("request id of the client", "request id", "plain", goal=0.8)
    compare("key from a row of the database / the environment", "row key", "plain", goal=0.8)
    compare("idempotency key", "idempotency key", "plain", goal=0.8)
    compare("all three", "everything", "plain", goal=0.8)
    compare("the whole server / a bare ASGI app with one script", "current", "bare")
    report.failures({name: sum(load.failures for load in of_rounds) for name, of_rounds in loads.items()})
    report.note(f"the load generator spent {_cpu_us(loads['current']):.0f} µs of CPU on a request")


def _measure_beside_batches(base: Server, current: Server, report: Report, sampling: Sampling) -> None:
    """Compare the p99 of single tasks beside batches with their p99 alone."""
    alone: dict[Server, list[Load]] = {base: [], current: []}
    beside: dict[Server, list[Load]] = {base: [], current: []}
    singles, batches = Traffic(ENQUEUE, CONNECTIONS), Traffic(ENQUEUE_BATCH, BATCH_CONNECTIONS)
    for _ in range(sampling.rounds):
        for server in (base, current):
            alone[server].append(run_load(server.port, ENQUEUE, connections=CONNECTIONS, seconds=sampling.seconds))
            server.stack.empty()
            beside[server].append(run_loads(server.port, [singles, batches], seconds=sampling.seconds)[0])
            server.stack.empty()
    report.section(f"p99 of POST /queue/add, {CONNECTIONS} connections, beside {BATCH_CONNECTIONS} of batches / alone")
    for what, server, goal in (("this server", current, 3.0), (f"commit {sampling.against[:7]}", base, 0.0)):
        values, others = ([load.p99_ms for load in loads[server]] for loads in (beside, alone))
        report.paired(what, values, others, "ms", goal=goal, is_lower_better=True)


def _cpu_us(loads: list[Load]) -> float:
    return statistics.median(load.cpu_us for load in loads)
