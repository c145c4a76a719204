"""Measure what a task costs web processes, Redis and maintenance, with more web processes and workers, and a cluster.

CPU times hold on a busy machine too. Rates are those of this machine, which all processes share.
"""

import asyncio
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import uvloop
from redis.crc import key_slot

from runqy.broker.broker import Broker
from runqy.broker.health import is_maintenance_running
from runqy.broker.tasks.enqueue import NewTask, new_task_id
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.core.environment.connection_urls import RedisTarget
from tests.support.servers import ValkeyServer, start_cluster
from tests.support.waiting import wait_until
from tools.benchmarks.load import Traffic, request_bytes, run_loads
from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import BATCH, Sampling
from tools.benchmarks.server import KEY, Server
from tools.benchmarks.simulated_workers import start_workers
from tools.benchmarks.stack import Stack
from tools.soak.processes import cpu_s

MASTERS = 3
QUEUES_OF_MASTER = 4
PROCESSES = (1, 2, 3, 4)
WORKERS = (1, 10, 50, 200)
CONCURRENCY = 8
"""Of workers that are compared with those that run one task at a time."""
CONNECTIONS_OF_QUEUE = 3
TASKS = 6_000
IDLE_S = 5.0
_WARM_UP_S = 3.0
_PAYLOAD = {"prompt": "Hello world", "width": 1024}


@dataclass(frozen=True, slots=True)
class Store:
    """Redis alone, or a cluster."""

    name: str
    servers: Sequence[ValkeyServer]

    @property
    def target(self) -> RedisTarget:
        addresses = tuple(("127.0.0.1", server.port) for server in self.servers)
        return RedisTarget(mode="cluster" if len(addresses) > 1 else "single", addresses=addresses)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def cpu_us(self) -> list[float]:
        """Return the CPU time that each server has used. /proc would round it to 10 ms."""
        used = []
        for server in self.servers:
            with server.client() as client:
                info = client.info("cpu")
            used.append(float(info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6)
        return used

    def empty(self) -> None:
        """Delete everything. Servers read the configuration from the database again."""
        for server in self.servers:
            with server.client() as client:
                client.execute_command("FLUSHALL", "SYNC")  # else a thread frees the tasks during the next load


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a load took; times are CPU time of a task."""

    rate: float
    """Tasks a second."""
    clients_us: float
    """Of the processes that send requests to Redis."""
    redis_us: float
    """Of all servers of Redis together."""
    largest_share: float
    """Of the busiest server."""
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLoad:
    """Requests that enqueue to all queues alike, one task each or a batch."""

    server: Server
    store: Store
    queues: Sequence[str]
    tasks: int = 1

    def run(self, seconds: float) -> Cost:
        self.store.empty()
        path, content = ("/queue/add", {"data": _PAYLOAD}) if self.tasks == 1 else ("/queue/add-batch", self._batch())
        requests = [
            request_bytes("POST", path, KEY, json.dumps({"queue": queue} | content).encode()) for queue in self.queues
        ]
        connections = CONNECTIONS_OF_QUEUE if self.tasks == 1 else 1
        before, web_s = self.store.cpu_us(), self._web_s()
        loads = run_loads(self.server.port, [Traffic(each, connections) for each in requests], seconds=seconds)
        count = sum(load.responses for load in loads) * self.tasks
        redis_us = [after - used for used, after in zip(before, self.store.cpu_us(), strict=True)]
        return Cost(
            rate=count / loads[0].seconds,
            clients_us=(self._web_s() - web_s) * 1e6 / count,
            redis_us=sum(redis_us) / count,
            largest_share=max(redis_us) / sum(redis_us),
            failures=sum(load.failures for load in loads),
        )

    def _batch(self) -> dict[str, object]:
        return {"jobs": [_PAYLOAD] * self.tasks}

    def _web_s(self) -> float:
        return sum(map(cpu_s, self.server.web_pids()))


def measure_scale(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Print the costs of enqueueing over HTTP, of workers, and of maintenance."""
    queues = _define_queues(stack)
    masters = start_cluster(MASTERS)
    alone, cluster = Store("Redis alone", [stack.redis]), Store(f"a cluster of {MASTERS}", masters)
    try:
        _measure_web(stack, (alone, cluster), queues, report, sampling)
        for store in (alone, cluster):
            _measure_workers(store, queues, report)
        _measure_maintenance(stack, alone, queues, report)
    finally:
        for master in masters:
            master.stop()
    report.note(f"load average of the machine, which other work may share: {os.getloadavg()[0]:.1f}")


def _define_queues(stack: Stack) -> list[str]:
    """Define as many queues on each master of the cluster, and return their names, those of the masters in turn."""
    of_master: list[list[str]] = [[] for _ in range(MASTERS)]
    number = 0
    while min(map(len, of_master)) < QUEUES_OF_MASTER:
        name, number = f"scale{number}", number + 1
        names = of_master[key_slot(name.encode()) * MASTERS // 16384]
        if len(names) < QUEUES_OF_MASTER:
            names.append(name)
    queues = [name for row in zip(*of_master, strict=True) for name in row]
    deployment = {"git_url": "https://git.example.com/scale.git", "branch": "main", "startup_cmd": "python main.py"}
    content = {name: {"priority": 1, "mode": "long_running", "deployment": deployment} for name in queues}
    (stack.folder / "queues" / "scale.yaml").write_text(json.dumps({"queues": content}))
    stack.manage("load_queues")
    return queues


def _measure_web(
    stack: Stack, stores: tuple[Store, Store], queues: Sequence[str], report: Report, sampling: Sampling
) -> None:
    alone, cluster = stores
    with ExitStack() as running:
        servers = [running.enter_context(stack.web(processes=count)) for count in PROCESSES]
        of_cluster = running.enter_context(stack.web(processes=PROCESSES[-1], env={"REDIS_URL": cluster.url}))
        last, most = servers[-1], f"{PROCESSES[-1]} processes"
        loads = {
            f"{count} process(es)": HttpLoad(server=server, store=alone, queues=queues)
            for count, server in zip(PROCESSES, servers, strict=True)
        }
        loads |= {
            f"{most}, {cluster.name}": HttpLoad(server=of_cluster, store=cluster, queues=queues),
            f"{most}, batches of {BATCH}": HttpLoad(server=last, store=alone, queues=queues, tasks=BATCH),
            f"{most}, batches of {BATCH}, {cluster.name}": HttpLoad(
                server=of_cluster, store=cluster, queues=queues, tasks=BATCH
            ),
        }
        for load in loads.values():
            load.run(_WARM_UP_S)
        costs: dict[str, list[Cost]] = {name: [] for name in loads}
        for _ in range(sampling.rounds):
            for name, load in loads.items():
                costs[name].append(load.run(sampling.seconds))
    report.section(f"Enqueueing over HTTP to {len(queues)} queues")
    _report_costs(report, costs, clients="web processes")


def _measure_workers(store: Store, queues: Sequence[str], report: Report) -> None:
    """Print the costs of no-op tasks by numbers of workers, and what a worker costs Redis while it has none."""
    report.section(f"Workers that run no-op tasks one at a time: {store.name}")
    costs, idle = {}, {}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for count, concurrency in [*((count, 1) for count in WORKERS), (WORKERS[-2], CONCURRENCY)]:
            name = f"{count} worker(s)" if concurrency == 1 else f"{count} workers, {concurrency} tasks at a time"
            cost, idle[name] = runner.run(run_workers(store, queues, count, concurrency))
            costs[name] = [cost]
    _report_costs(report, costs, clients="workers without children")
    for name, idle_us in idle.items():
        report.figure(f"{name}, idle: CPU of Redis for each", idle_us, "µs/s")


async def run_workers(store: Store, queues: Sequence[str], count: int, concurrency: int) -> tuple[Cost, float]:
    """Return the cost of tasks, and the CPU time of Redis for a worker without tasks in a second."""
    store.empty()
    await asyncio.sleep(1)  # it has freed its memory
    without_us = await _redis_us(store)
    workers = await start_workers(store.target, queues, count, concurrency=concurrency)
    await asyncio.sleep(1)  # their first dequeues are over
    idle_us = (await _redis_us(store) - without_us) / count
    for worker in workers:
        worker.pause()
    tasks = await asyncio.to_thread(_enqueue, store.target, queues[:count])
    used, cpu, start = store.cpu_us(), time.process_time(), time.perf_counter()
    for worker in workers:
        worker.resume()
    while sum(worker.ended for worker in workers) < tasks:
        await asyncio.sleep(0.005)
    for worker in workers:
        await worker.wait_until_recorded()
    redis_us = [after - before for before, after in zip(used, store.cpu_us(), strict=True)]
    cost = Cost(
        rate=tasks / (time.perf_counter() - start),
        clients_us=(time.process_time() - cpu) * 1e6 / tasks,
        redis_us=sum(redis_us) / tasks,
        largest_share=max(redis_us) / sum(redis_us),
    )
    for worker in workers:
        await worker.stop()
    return cost, idle_us


async def _redis_us(store: Store) -> float:
    """Return the CPU time that Redis uses in a second."""
    before, start = sum(store.cpu_us()), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    return (sum(store.cpu_us()) - before) / (time.perf_counter() - start)


def _enqueue(target: RedisTarget, queues: Sequence[str]) -> int:
    """Enqueue as many tasks to each queue, and return their number."""
    broker = Broker(target)
    payload = json.dumps(_PAYLOAD).encode()
    batches = TASKS // len(queues) // BATCH
    for _ in range(batches):
        for queue in queues:
            tasks = [NewTask(id=new_task_id(), queue=queue, payload=payload) for _ in range(BATCH)]
            broker.run(enqueue_many(broker, tasks))
    broker.close()
    return batches * len(queues) * BATCH


def _measure_maintenance(stack: Stack, store: Store, queues: Sequence[str], report: Report) -> None:
    """Print the CPU time of maintenance for a task, which stores its run in the database."""
    store.empty()
    with stack.process(("-m", "django", "run_maintenance")) as pid, asyncio.Runner() as runner:
        wait_until(lambda: stack.broker.run(is_maintenance_running()), timeout_s=60)
        time.sleep(IDLE_S)  # each duty has run for the first time
        before, start = cpu_s(pid), time.perf_counter()
        time.sleep(IDLE_S)
        idle = (cpu_s(pid) - before) / (time.perf_counter() - start)
        before, start = cpu_s(pid), time.perf_counter()
        runner.run(run_workers(store, queues, len(queues), 1))
        time.sleep(IDLE_S)  # the last runs are stored
        used_s = cpu_s(pid) - before - idle * (time.perf_counter() - start)
    report.section("Maintenance, with the history of runs in SQLite")
    report.figure("without tasks", 100 * idle, "% core")
    report.figure("CPU of a task", used_s * 1e6 / TASKS, "µs")


def _report_costs(report: Report, costs: Mapping[str, Sequence[Cost]], *, clients: str) -> None:
    """Print each rate with its ratio to the first one, and the CPU time of a task."""
    first = next(iter(costs.values()))
    for name, rounds in costs.items():
        report.paired(name, [cost.rate for cost in rounds], [cost.rate for cost in first], "tasks/s")
        report.figure(f"  CPU of {clients}", statistics.median(cost.clients_us for cost in rounds), "µs/task")
        report.figure("  CPU of Redis", statistics.median(cost.redis_us for cost in rounds), "µs/task")
        share = statistics.median(cost.largest_share for cost in rounds)
        if share < 1:
            report.figure("  of which the busiest master", 100 * share, "%")
    report.failures({name: sum(cost.failures for cost in rounds) for name, rounds in costs.items()})
