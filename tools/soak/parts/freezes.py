"""A worker, a server or a database is frozen for 90 s while queues and vaults change. Then everything runs again."""

import random
import threading
import time
from collections.abc import Callable, Mapping

from tools.soak.checker import ENDED, Fault, Incident, check
from tools.soak.draining import collect, drain
from tools.soak.load import Load
from tools.soak.options import Options
from tools.soak.processes import descendants_of, frozen
from tools.soak.report import Report, spread
from tools.soak.stack import Stack, StackParts, running_stack

PART = "freezes"
FROZEN_S, RECOVERED_S = 90.0, 60.0
NEAR_S = 2.0
"""The longest time between the start of a change and the start of a freeze, in either order."""
TASK_EVERY_S = 3.0
PATIENCE_S = 30.0
WORKERS = {"worker-a": "steady", "worker-b": "canary"}
"""One worker for each queue: a second one would hide that the first is stuck."""
REDIS_QUEUES = ("steady_high", "steady_low", "canary")
SUB_QUEUE = "steady.low"
"""The one that a change removes."""
HIGH, LOW = "{{name: high, priority: 6}}", "{{name: low, priority: 2}}"
QUEUE_FILE = """queues:
  steady: {{sub_queues: [SUB_QUEUES], deployment: {deployment}}}
  canary: {{priority: 10, deployment: {deployment}}}
"""
VAULT = "/api/vaults/soak"


def run(options: Options, report: Report) -> None:
    """Freeze each target in turn, at random moments of random changes."""
    rng = options.rng(PART)
    with running_stack(report, rng, StackParts(has_postgresql=True, has_networks=False)) as stack:
        targets = ["worker", "server", *(["database"] if stack.database else [])]
        report.section(f"{', '.join(targets)}: each frozen for {FROZEN_S:g} s at {options.moments} moments of changes")
        if stack.database is None:
            report.skip(PART, "PostgreSQL's programs are not installed: no database is frozen")
        _Freezes(stack, rng, report).run(targets, options.moments)


class _Freezes:
    """The moments, and the tasks that were accepted around them."""

    def __init__(self, stack: Stack, rng: random.Random, report: Report) -> None:
        self._stack, self._rng, self._report = stack, rng, report
        self._load = Load(stack, rng, producers=0)  # its threads are not started
        self._incidents: list[Incident] = []
        self._value = 0
        self._in_sub_queue: set[str] = set()
        self._deleted = 0
        self._changes: Mapping[str, Callable[[], None]] = {
            "sub-queue removed": lambda: self._write_queues(HIGH),
            "sub-queue added": lambda: self._write_queues(f"{HIGH}, {LOW}"),
            "variable changed": lambda: self._write_queues(f"{HIGH}, {LOW}", with_value=True),
            "vault value changed": self._set_value,
            "vault deleted": lambda: self._send("DELETE", VAULT),
        }

    def run(self, targets: list[str], moments: int) -> None:
        self._restore()
        for name, queue in WORKERS.items():
            self._stack.add_worker(name, queues=queue)
        self._stack.wait_until_ready(len(WORKERS))
        recovered_s: dict[str, list[float]] = {target: [] for target in targets}
        for number in range(moments * len(targets)):
            target = targets[number % len(targets)]
            recovered_s[target].append(self._freeze(target, self._rng.choice([*self._changes])))
        for target, times_s in recovered_s.items():
            text = f"{len(times_s)} times; everything ran again: {spread(times_s)} (at most {RECOVERED_S:g})"
            self._report.figure(PART, f"{target} frozen", text, passed=max(times_s) <= RECOVERED_S)
        with self._stack.redis_client() as redis:
            drained_s = drain(self._stack, [redis], REDIS_QUEUES)
            self._report.figure(PART, "drained", "no" if drained_s is None else f"after {drained_s:.1f} s")
            evidence = collect(self._stack, self._load, [redis], incidents=self._incidents, queues=REDIS_QUEUES)
        self._report.figure(PART, "accepted tasks", str(len(self._load.accepted) + self._deleted))
        self._report.figure(PART, "deleted with their sub-queue, after a client saw their end", str(self._deleted))
        self._report.add_result(PART, check(evidence))

    def _freeze(self, target: str, change: str) -> float:
        """Freeze a target around a change; return how long afterwards everything ran, even if that took too long."""
        self._enqueue("steady.high", "canary")  # not on steady.low: a sub-queue with tasks cannot be removed
        changing = threading.Thread(target=self._changes[change])
        changes_first, apart_s = self._rng.random() < 0.5, self._rng.uniform(0, NEAR_S)
        worker = self._rng.choice([*WORKERS])
        pids = self._pids(target, worker)
        began_at, name = time.time(), worker if target == "worker" else ""
        if changes_first:
            changing.start()
            time.sleep(apart_s)
        with frozen(*pids):
            if not changes_first:
                time.sleep(apart_s)
                changing.start()
            deadline = time.monotonic() + FROZEN_S
            while time.monotonic() < deadline:
                if target != "server":
                    self._enqueue("steady.high", "canary")
                time.sleep(TASK_EVERY_S)
        if target == "worker":
            incident = Incident(fault=Fault.CUT_OFF, worker=name, began_at=began_at, ended_at=time.time())
            self._incidents.append(incident)
        thawed_s = time.monotonic()
        changing.join(2 * PATIENCE_S)
        self._changes[change]()  # again: it may have got no response
        if change == "sub-queue removed":
            self._forget_deleted()
        self._restore_vault()
        self._enqueue("steady.high", SUB_QUEUE, "canary")
        took_s = self._wait_for_ends(thawed_s)
        self._restore()  # not earlier: restoring a sub-queue would free a worker that its removal had blocked
        self._report.note(f"{name or target} frozen, {change}: everything ran after {took_s:.1f} s")
        return took_s

    def _forget_deleted(self) -> None:
        """Expect no more the tasks that had ended in the sub-queue: they are deleted with it."""
        deleted = self._in_sub_queue & self._load.first_ends.keys()
        for task_id in deleted:
            del self._load.accepted[task_id]
        self._in_sub_queue -= deleted
        self._deleted += len(deleted)

    def _pids(self, target: str, worker: str) -> list[int]:
        if target == "worker":
            return [self._stack.workers[worker].pid]
        root = self._stack.server.pid if target == "server" else self._stack.database.pid  # type: ignore[union-attr]
        return [root, *descendants_of(root)]

    def _wait_for_ends(self, since_s: float) -> float:
        """Return how long after a time all accepted tasks have ended. Give up after 2 * RECOVERED_S."""
        client = self._stack.client()
        for task_id in self._load.accepted.keys() - self._load.first_ends.keys():
            while time.monotonic() - since_s < 2 * RECOVERED_S:
                info = client.send("GET", f"/queue/{task_id}?wait=5").content.get("info", {})
                if info.get("state") in ENDED:
                    self._load.first_ends[task_id] = info["state"], info["result"]["run"] if info.get("result") else ""
                    break
        client.close()
        return time.monotonic() - since_s

    def _restore_vault(self) -> None:
        """Create a vault again that was deleted: without it no worker can register."""
        self._send("POST", "/api/vaults", {"name": "soak"})
        self._set_value()

    def _restore(self) -> None:
        """Undo the changes."""
        self._restore_vault()
        self._write_queues(f"{HIGH}, {LOW}")

    def _set_value(self) -> None:
        self._value += 1
        self._send("POST", f"{VAULT}/entries", {"key": "SOAK_VALUE", "value": f"value {self._value}"})

    def _write_queues(self, sub_queues: str, *, with_value: bool = False) -> None:
        self._value += with_value
        text = QUEUE_FILE.replace("SUB_QUEUES", sub_queues)
        self._stack.write_queue_file(text, vaults="[soak]", SOAK_VERSION=str(self._value))
        self._send("POST", "/api/cli/configs/reload")

    def _send(self, method: str, path: str, body: object = None) -> None:
        client = self._stack.client(timeout_s=10)
        client.send_until_clear(method, path, body, timeout_s=PATIENCE_S)
        client.close()

    def _enqueue(self, *queues: str) -> None:
        """Enqueue a task on each of these queues that accepts it now."""
        client = self._stack.client(timeout_s=5)
        for queue in queues:
            kind = self._rng.choice(("ok", "ok", "slow"))
            created = self._load.create(client, kind, queue=queue, patience_s=5)
            self._in_sub_queue.update(created if queue == SUB_QUEUE else ())
        client.close()
