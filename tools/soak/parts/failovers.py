"""Several Redis servers under load: a cluster that moves a slot and loses each master, and a master behind Sentinel."""

import time
from collections.abc import Sequence
from dataclasses import replace

import redis as redis_py
from redis.crc import key_slot

from runqy.broker.keys import QueueKeys
from tests.support.servers import start_cluster, start_sentinel
from tools.soak.checker import Evidence, Fault, Incident, check
from tools.soak.draining import RECOVERY_S, collect, drain
from tools.soak.load import KINDS, Load
from tools.soak.measuring import measure_recovery
from tools.soak.options import Options
from tools.soak.processes import wait_for
from tools.soak.report import Report
from tools.soak.stack import DURABLE, LEASE_S, Stack, StackParts, running_stack

CLUSTER, SENTINEL = "cluster", "sentinel"
HERD = 10
LOADED_S = 6.0
"""How long clients work before each fault."""
PAUSE_S = 0.5
UNREPEATED = 60
"""The share of the clients' requests beside a cluster that are sent once, so that each answer must be true."""
DOWN_S = 3.0
UNREPLICATED_S = 1.0
"""Tasks that were accepted this shortly before the master died may not have reached the replica."""
QUEUE = "steady_high"
SLOT = key_slot(QueueKeys(QUEUE).pending.encode())


def run_cluster(options: Options, report: Report) -> None:
    """Move a slot there and back, then kill each master in turn and start it again."""
    report.section("A cluster of three masters: a slot moves, each master dies")
    rng = options.rng(CLUSTER)
    servers = start_cluster(options=DURABLE)
    nodes = [server.client() for server in servers]
    try:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        with running_stack(report, rng, StackParts(redis_url=url)) as stack:
            for name in ("worker-a", "worker-b"):
                stack.add_worker(name)
            stack.wait_until_ready(6)
            incidents: list[Incident] = []
            with Load(stack, rng, kinds=KINDS | {"unrepeated": UNREPEATED}, pause_s=PAUSE_S) as load:
                home = next(node for node in nodes if _owns_slot(node))
                other = next(node for node in nodes if node is not home)
                for source, target in ((home, other), (other, home)):
                    time.sleep(LOADED_S)
                    moved = _move_slot(source, target)
                    _measure(CLUSTER, f"slot moved with {moved} keys", stack, load, report)
                for node, server in zip(nodes, servers, strict=True):
                    time.sleep(LOADED_S)
                    began_at = time.time()
                    server.kill()
                    time.sleep(DOWN_S)
                    server.start()
                    which = "master of the queue" if node is home else "other master"
                    _measure(CLUSTER, f"{which} killed, started after {DOWN_S:g} s", stack, load, report)
                    incidents.append(Incident(fault=Fault.CUT_OFF, began_at=began_at, ended_at=time.time()))
                time.sleep(3)
            long = [i for i in incidents if i.ended_at - i.began_at > LEASE_S]
            _judge(CLUSTER, stack, load, nodes, report, incidents=long)
    finally:
        for node, server in zip(nodes, servers, strict=True):
            node.close()
            server.stop()


def run_sentinel(options: Options, report: Report) -> None:
    """Kill the master of many workers, and let all of them reconnect at once."""
    report.section(f"A master behind Sentinel dies, with {HERD} workers")
    rng = options.rng(SENTINEL)
    servers = start_sentinel()
    try:
        url = f"redis+sentinel://127.0.0.1:{servers.sentinel.port}/0?master=runqy"
        with running_stack(report, rng, StackParts(redis_url=url)) as stack:
            for number in range(HERD):
                stack.add_worker(f"worker-{number}", RUNQY_PROCESSES="1")
            stack.wait_until_ready(3 * HERD, timeout_s=180)
            with Load(stack, rng, pause_s=PAUSE_S) as load:
                time.sleep(LOADED_S)
                began_at = time.time()
                servers.master.kill()
                _measure(SENTINEL, "master killed", stack, load, report)
                promoted_at = time.time()
                _report_herd(stack, report, "after the failover")
                with servers.replica.client() as node:
                    _kill_connections(stack, node, report)
                time.sleep(3)
            incident = Incident(fault=Fault.REDIS_FAILED_OVER, began_at=began_at - UNREPLICATED_S, ended_at=promoted_at)
            _allow_losses(load, incident)
            with servers.replica.client() as node:
                _judge(SENTINEL, stack, load, [node], report, incidents=[incident])
    finally:
        servers.stop()


def _measure(part: str, what: str, stack: Stack, load: Load, report: Report) -> None:
    accepted_s, done_s = measure_recovery(stack, load, queue=QUEUE)
    report.figure(part, what, f"accepted after {accepted_s:.1f} s, done after {done_s:.1f} s")
    report.require(part, f"{what}: until done", done_s, at_most=RECOVERY_S)


def _report_herd(stack: Stack, report: Report, when: str) -> None:
    """Wait until all workers have reported over new connections."""
    since_s = int(time.time()) + 1
    client = stack.client()

    def have_reported() -> bool:
        workers = client.send("GET", "/api/cli/workers").content.get("workers", [])
        return len([w for w in workers if w["state"] == "ready" and w["last_beat"] >= since_s]) == 3 * HERD

    took_s = wait_for(have_reported, 120, "the herd is back")
    report.figure(SENTINEL, f"all {HERD} workers report and serve {when}", f"after {took_s:.1f} s")
    client.close()


def _kill_connections(stack: Stack, node: redis_py.Redis, report: Report) -> None:
    """Cut all connections at once, and count how many are opened again."""
    before = node.info("stats")["total_connections_received"]
    for kind in ("normal", "pubsub"):
        node.execute_command("CLIENT", "KILL", "TYPE", kind)
    time.sleep(5)
    opened = node.info("stats")["total_connections_received"] - before
    report.figure(SENTINEL, "connections opened in the 5 s after all were cut", str(opened))
    _report_herd(stack, report, "after all connections were cut")


def _allow_losses(load: Load, incident: Incident) -> None:
    """Mark the tasks that a failover may lose, and forget the ends that it may undo."""
    for task_id, at in load.accepted_at.items():
        if incident.began_at <= at <= incident.ended_at:
            load.accepted[task_id] = replace(load.accepted[task_id], may_be_lost=True)
    for task_id, at in load.seen_at.items():
        if incident.began_at <= at <= incident.ended_at:
            load.first_ends.pop(task_id, None)


def _judge(
    part: str,
    stack: Stack,
    load: Load,
    nodes: Sequence[redis_py.Redis],
    report: Report,
    *,
    incidents: Sequence[Incident],
) -> None:
    drained_s = drain(stack, nodes)
    report.figure(part, "drained", "no" if drained_s is None else f"after {drained_s:.1f} s")
    evidence: Evidence = collect(stack, load, nodes, incidents=incidents)
    report.figure(part, "accepted tasks", str(len(load.accepted)))
    report.figure(part, "tasks that were refused, by clients that ask once", str(len(load.denied)))
    report.add_result(part, check(evidence))


def _owns_slot(node: redis_py.Redis) -> bool:
    """Return whether a node serves the slot of the queue under load."""
    my_id = node.execute_command("CLUSTER", "MYID")
    shards = node.execute_command("CLUSTER", "SLOTS")
    return any(bool(first <= SLOT <= last and master[2] == my_id) for first, last, master, *_ in shards)


def _move_slot(source: redis_py.Redis, target: redis_py.Redis) -> int:
    """Move the slot key by key while it is in use; return the number of keys."""
    port = target.connection_pool.connection_kwargs["port"]
    source_id, target_id = (node.execute_command("CLUSTER", "MYID").decode() for node in (source, target))
    target.execute_command("CLUSTER", "SETSLOT", SLOT, "IMPORTING", source_id)
    source.execute_command("CLUSTER", "SETSLOT", SLOT, "MIGRATING", target_id)
    moved = 0
    while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", SLOT, 20):
        source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        moved += len(keys)
    for node in (target, source):
        node.execute_command("CLUSTER", "SETSLOT", SLOT, "NODE", target_id)
    return moved
