"""Large results over a slow link to Redis: each is recorded once; heartbeats and leases do not wait for them."""

import time
from typing import Any

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tests.support.bad_network import FaultMode
from tools.soak.api import Client
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.processes import ManagedProcess, cpu_s, resident_mb, wait_for
from tools.soak.report import Report, spread
from tools.soak.runs import read_runs
from tools.soak.stack import LEASE_S, Stack, running_stack
from tools.soak.threads import BackgroundThreads

PART = "results"
QUEUE = "steady_high"
COUNT, BYTES, BYTES_PER_S = 8, 20_000_000, 8_000_000
PATIENCE_S = 180.0
HEARTBEAT_AGE_S = 6.0
"""A worker sends a heartbeat every five seconds, and its age is in whole seconds."""
LATER_S = 30.0


def run(options: Options, report: Report) -> None:
    """Let tasks return results at the same time, through one worker, that keep the link busy for many seconds."""
    with running_stack(report, options.rng(PART)) as stack, stack.redis_client() as redis:
        report.section(f"{COUNT} results of {BYTES // 1_000_000} MB over {BYTES_PER_S // 1_000_000} MB/s")
        processes = {"RUNQY_CONCURRENCY": str(COUNT), "RUNQY_PROCESSES": str(COUNT)}
        worker = stack.add_worker("worker-a", queues="steady", **processes)
        stack.wait_until_ready(1)
        client = stack.client(timeout_s=60)
        assert stack.worker_network is not None  # noqa: S101 (the stack has networks)
        stack.worker_network.bytes_per_s = BYTES_PER_S
        stack.worker_network.mode = FaultMode.NARROW
        began_s, before_cpu_s = time.monotonic(), cpu_s(worker.pid)
        with _Observer(stack, worker, redis) as observer:
            payload = {"do": "result", "bytes": BYTES}
            ids = [client.post("/queue/add", {"queue": QUEUE, "data": payload})["info"]["id"] for _ in range(COUNT)]
            wait_for(lambda: redis.zcard(QueueKeys(QUEUE).completed) == COUNT, PATIENCE_S, "all results are recorded")
        took_s = time.monotonic() - began_s
        report.figure(PART, "recorded after", f"{took_s:.1f} s; the link needs {COUNT * BYTES / BYTES_PER_S:.0f} s")
        report.figure(PART, "CPU time of the worker", f"{cpu_s(worker.pid) - before_cpu_s:.1f} s")
        report.figure(PART, "memory of the worker, at most", f"{observer.most_mb:.0f} MB")
        report.require(PART, "age of a heartbeat, at most", max(observer.ages_s), at_most=HEARTBEAT_AGE_S)
        left_s = min(observer.left_s)
        report.figure(PART, "left of a lease, at least", f"{left_s:.1f} s of {LEASE_S} s", passed=left_s > 0)
        if states := observer.states - {"ready"}:
            report.fail(PART, f"the worker was shown as {', '.join(sorted(states))}")
        _check_results(stack, redis, client, ids, report)
        _check_later_tasks(stack, options, client, report)
        client.close()


class _Observer(BackgroundThreads):
    """Observes heartbeats, leases and memory of the worker."""

    def __init__(self, stack: Stack, worker: ManagedProcess, redis: redis_py.Redis) -> None:
        super().__init__(patience_s=30)
        self.ages_s: list[float] = []
        self.left_s: list[float] = [LEASE_S]
        self.states: set[str] = set()
        self.most_mb = 0.0
        self._stack, self._worker, self._redis = stack, worker, redis
        self.add_thread(self._look)

    def _look(self) -> None:
        client = self._stack.client(timeout_s=30)
        while self.waits(0.5):
            (record,) = client.get("/api/cli/workers")["workers"]
            now_s = time.time()
            self.ages_s.append(now_s - record["last_beat"])
            self.states.add("stale" if record["is_stale"] else record["state"])
            leases: Any = self._redis.zrange(QueueKeys(QUEUE).lease, 0, 0, withscores=True)
            self.left_s += [ends_s - now_s for _, ends_s in leases]
            self.most_mb = max(self.most_mb, resident_mb(self._worker.pid))
        client.close()


def _check_results(stack: Stack, redis: redis_py.Redis, client: Client, ids: list[str], report: Report) -> None:
    """Check that each task ran once, and that the whole result of that run is stored."""
    runs = read_runs(stack.journal)
    for task_id in ids:
        info: dict[str, Any] = client.get(f"/queue/{task_id}")["info"]
        result = info["result"]
        if len(runs[task_id]) != 1 or info["state"] != "completed" or result["run"] != runs[task_id][0].run_id:
            report.fail(PART, f"{task_id}: {info['state']} after {len(runs[task_id])} runs")
        elif len(result["text"]) != BYTES:
            report.fail(PART, f"{task_id}: {len(result['text'])} bytes are stored")
    counts = [int(redis.get(key) or 0) for key in (QueueKeys(QUEUE).processed, QueueKeys(QUEUE).failed)]
    report.figure(PART, "processed and failed", f"{counts[0]} and {counts[1]}", passed=counts == [len(ids), 0])


def _check_later_tasks(stack: Stack, options: Options, client: Client, report: Report) -> None:
    """Check that the worker continues over the same link."""
    load = Load(stack, options.rng(PART), producers=0)
    times_s = []
    for _ in range(COUNT):
        began_s = time.monotonic()
        (task_id,) = load.create(client, "ok", queue=QUEUE)
        state = client.get(f"/queue/{task_id}?wait={LATER_S:.0f}")["info"]["state"]
        times_s.append(time.monotonic() - began_s)
        if state != "completed":
            report.fail(PART, f"a task afterwards is {state}")
    report.figure(PART, "tasks afterwards", spread(times_s))
