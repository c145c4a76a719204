"""Wait until all tasks have ended, and collect the evidence for the checker."""

import time
from collections.abc import Mapping, Sequence

import redis as redis_py

from tools.soak import processes
from tools.soak.checker import Evidence, Incident, Process
from tools.soak.evidence import count_500, count_orphan_lookups, count_unended, read_state, reported_sizes
from tools.soak.load import Load
from tools.soak.processes import wait_for
from tools.soak.runs import read_runs
from tools.soak.stack import GRACE_S, LEASE_S, RECOVERY_INTERVAL_S, REDIS_QUEUES, Stack

DRAIN_S = 180.0
"""Longer than a lost task takes: lease, grace, the interval of the recoverer, and its retries."""
RECOVERY_S = 2.0 * LEASE_S + GRACE_S + RECOVERY_INTERVAL_S
"""How long a task of a lost worker may take to start again, as the fault tests promise."""
SWEEP_S = 60.0
DESCRIPTORS_SLACK = 25


def descriptors(stack: Stack) -> dict[str, int]:
    """Return the number of open descriptors of each process of the product."""
    found = {f"web {pid}": pid for pid in stack.web_processes()}
    found |= {f"maintenance {pid}": pid for pid in stack.maintenance_processes()}
    found |= {f"{name} {worker.pid}": worker.pid for name, worker in stack.workers.items() if worker.is_alive()}
    return {name: processes.count_descriptors(pid) for name, pid in found.items()}


def drain(stack: Stack, nodes: Sequence[redis_py.Redis], queues: Sequence[str] = REDIS_QUEUES) -> float | None:
    """Wait until no task waits or runs and the lookups are swept; return how long it took, None if tasks did not
    end.
    """
    began_s = time.monotonic()
    try:
        took_s = wait_for(lambda: not count_unended(queues, nodes), DRAIN_S, "tasks end")
    except TimeoutError:
        return None
    left_s = max(SWEEP_S - (time.monotonic() - began_s), 10)
    try:
        wait_for(lambda: not count_orphan_lookups(queues, nodes), left_s, "lookups are swept")
    except TimeoutError:
        return took_s
    return took_s


def collect(
    stack: Stack,
    load: Load,
    nodes: Sequence[redis_py.Redis],
    *,
    incidents: Sequence[Incident] = (),
    before: Mapping[str, int] | None = None,
    queues: Sequence[str] = REDIS_QUEUES,
) -> Evidence:
    """Read what is left in the product while it still runs."""
    client = stack.client()
    reported = reported_sizes(client.get("/api/cli/queues")["queues"])
    alerts = client.get("/api/alerts?state=all")["alerts"]
    client.close()
    stored = read_state(queues, nodes, reported)
    kinds = _by_kind(before or {})
    now = descriptors(stack) if before else {}
    return Evidence(
        accepted=load.accepted,
        canceled=frozenset(load.canceled),
        denied=frozenset(load.denied),
        tasks=stored.tasks,
        runs=read_runs(stack.journal),
        incidents=incidents,
        counts=stored.counts,
        first_ends=load.first_ends,
        dangling_ids=stored.dangling_ids,
        locks=stored.locks,
        orphan_lookups=stored.orphan_lookups,
        leftovers=_orphans(stack),
        processes=[
            Process(name=name, descriptors=count, allowed=kinds[_kind(name)] + DESCRIPTORS_SLACK)
            for name, count in now.items()
            if _kind(name) in kinds
        ],
        checkouts=_count_checkouts(stack),
        errors_500=count_500(stack.statuses),
        stuck_workers=[alert["message"] for alert in alerts if alert["kind"] == "worker_not_consuming"],
    )


def _orphans(stack: Stack) -> dict[int, str]:
    """Return the processes that use the stack's folder but belong neither to its server nor to a running worker."""
    roots = [stack.server.pid, *(worker.pid for worker in stack.workers.values())]
    known = {pid for root in roots for pid in (root, *processes.descendants_of(root))}
    found = {pid: command for pid, command in processes.processes_in(stack.folder).items() if pid not in known}
    return {pid: command for pid, command in found.items() if not _is_store(command)}


def _count_checkouts(stack: Stack) -> dict[str, int]:
    folders = (stack.folder / "workers").glob("*/deployments/*/checkouts")
    return {
        str(folder.relative_to(stack.folder)): sum(path.is_dir() for path in folder.iterdir()) for folder in folders
    }


def _is_store(command: str) -> bool:
    return any(name in command for name in ("valkey", "postgres"))


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]


def _by_kind(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the largest count of each kind of process. By kind, because restarted processes have new ids."""
    kinds: dict[str, int] = {}
    for name, count in counts.items():
        kinds[_kind(name)] = max(count, kinds.get(_kind(name), 0))
    return kinds
