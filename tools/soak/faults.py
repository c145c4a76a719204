"""The faults of the nemesis. Each is a context manager that begins it and ends it."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import redis as redis_py

from tests.support.bad_network import BadNetwork, FaultMode
from tools.soak import processes
from tools.soak.checker import Fault, Incident
from tools.soak.processes import ManagedProcess, frozen, wait_for
from tools.soak.stack import GRACE_S, LEASE_S, SHUTDOWN_S, Stack

LONG_S = LEASE_S * 2 / 3 + GRACE_S - 1
"""An outage of this length may end a lease. A worker extends its leases after a third of their time."""
SLOW_LATENCY_S = 0.25
FaultContext = Callable[[], AbstractContextManager[None]]


@dataclass(slots=True)
class Nemesis:
    """Injects faults into a stack, chosen by a seeded random generator, and records which workers they hit."""

    stack: Stack
    rng: random.Random
    incidents: list[Incident] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What went wrong apart from the invariants, such as a worker that did not stop when signalled."""

    def actions(self) -> dict[str, FaultContext]:
        faults: dict[str, FaultContext] = {
            "worker kill -9": lambda: self.kill_worker(self._worker()),
            "worker SIGTERM": self._stop_worker,
            "worker frozen": self._freeze_worker,
            "child kill -9": self._kill_child,
            "worker without descriptors": self._exhaust_worker,
            "web process kill -9": partial(self._kill_of, self.stack.web_processes),
            "web processes frozen": partial(self._freeze_of, self.stack.web_processes),
            "gunicorn master kill -9": partial(self._kill_of, self.stack.web_masters),
            "maintenance kill -9": partial(self._kill_of, self.stack.maintenance_processes),
            "maintenance frozen": partial(self._freeze_of, self.stack.maintenance_processes),
            "Redis restarted": partial(self._restart_redis, signal.SIGTERM),
            "Redis kill -9": partial(self._restart_redis, signal.SIGKILL),
            "Redis frozen": self._freeze_redis,
            "SCRIPT FLUSH": partial(self._command, "SCRIPT", "FLUSH"),
            "CLIENT KILL": self._kill_clients,
            "queue paused": self._pause_queue,
            "configuration changed": self._change_configuration,
            "new code deployed": self._deploy,
        }
        for owner, network in (("server's", self.stack.server_network), ("workers'", self.stack.worker_network)):
            if network is not None:
                for words, mode in (
                    ("slow", FaultMode.SLOW), ("silent", FaultMode.SILENT), ("sliced", FaultMode.IN_PIECES),
                    ("losing replies", FaultMode.LOSES_RESPONSES), ("closing slowly", FaultMode.CLOSES_SLOWLY),
                    ("cut", FaultMode.CUT),
                ):  # fmt: skip
                    faults[f"{owner} network {words}"] = partial(self._disturb, network, mode)
        if self.stack.database is not None:
            faults["database stopped"] = self._stop_database
            faults["database silent"] = self._silence_database
        return faults

    @contextmanager
    def noting(self, fault: Fault, worker: str = "", *, from_s: float = 0.0) -> Iterator[None]:
        """Record a fault that lasts as long as the block, if that is at least `from_s`."""
        began_at = time.time()
        try:
            yield
        finally:
            if time.time() - began_at >= from_s:
                self.incidents.append(Incident(fault=fault, worker=worker, began_at=began_at, ended_at=time.time()))

    def _worker(self) -> ManagedProcess:
        return self.rng.choice(list(self.stack.workers.values()))

    @contextmanager
    def kill_worker(self, worker: ManagedProcess) -> Iterator[None]:
        with self.noting(Fault.WORKER_KILLED, worker.name):
            left = processes.descendants_of(worker.pid)
            worker.kill()
            try:
                wait_for(lambda: not any(map(processes.command_of, left)), 15, f"children of {worker.name}")
            except TimeoutError:
                self.problems.append(f"{worker.name} was killed and its children live")
            yield
            worker.start()

    @contextmanager
    def _stop_worker(self) -> Iterator[None]:
        worker = self._worker()
        with self.noting(Fault.WORKER_STOPPED, worker.name):
            began_s = time.monotonic()
            status = worker.end(timeout_s=SHUTDOWN_S + 30)
            took_s = time.monotonic() - began_s
            if status is None:
                self.problems.append(f"{worker.name} did not end within {took_s:.0f} s of SIGTERM")
            yield
            worker.start()

    @contextmanager
    def _freeze_worker(self) -> Iterator[None]:
        worker = self._worker()
        with self.noting(Fault.CUT_OFF, worker.name, from_s=LONG_S):
            pids = [worker.pid, *processes.descendants_of(worker.pid)] if self.rng.random() < 0.5 else [worker.pid]
            with frozen(*pids):
                yield
                time.sleep(self.rng.choice((0, LONG_S)))

    @contextmanager
    def _exhaust_worker(self) -> Iterator[None]:
        """Let a worker open nothing more, and kill its children, so that it has to start others."""
        worker = self._worker()
        with self.noting(Fault.CUT_OFF, worker.name, from_s=LONG_S), processes.without_descriptors(worker.pid):
            with self.noting(Fault.CHILD_KILLED, worker.name):
                for pid in self.stack.child_processes(worker):
                    processes.send_signal(pid, signal.SIGKILL)
            yield

    @contextmanager
    def _kill_child(self) -> Iterator[None]:
        worker = self._worker()
        with self.noting(Fault.CHILD_KILLED, worker.name):
            for pid in self.stack.child_processes(worker):
                processes.send_signal(pid, signal.SIGKILL)
        yield

    @contextmanager
    def _kill_of(self, find: Callable[[], list[int]]) -> Iterator[None]:
        if pids := find():
            processes.send_signal(self.rng.choice(pids), signal.SIGKILL)
        yield

    @contextmanager
    def _freeze_of(self, find: Callable[[], list[int]]) -> Iterator[None]:
        with frozen(*find()):
            yield

    @contextmanager
    def _restart_redis(self, number: signal.Signals) -> Iterator[None]:
        redis = self.stack.redis
        if redis is None or redis.process is None:
            yield
            return
        with self.noting(Fault.CUT_OFF, from_s=LONG_S):
            redis.process.send_signal(number)
            redis.process.wait()
            yield
            redis.start()

    @contextmanager
    def _freeze_redis(self) -> Iterator[None]:
        if self.stack.redis is None or self.stack.redis.process is None:
            yield
            return
        with self.noting(Fault.CUT_OFF, from_s=LONG_S), frozen(self.stack.redis.process.pid):
            yield

    @contextmanager
    def _command(self, *words: str) -> Iterator[None]:
        self._try(*words)
        yield

    @contextmanager
    def _kill_clients(self) -> Iterator[None]:
        for kind in ("normal", "pubsub"):
            self._try("CLIENT", "KILL", "TYPE", kind)
        yield

    def _try(self, *words: str) -> None:
        """Send Redis a command. Errors are ignored: another fault may have stopped Redis."""
        with self.stack.redis_client() as client:
            try:
                client.execute_command(*words)
            except redis_py.RedisError:
                return

    @contextmanager
    def _disturb(self, network: BadNetwork, mode: FaultMode) -> Iterator[None]:
        network.latency_s = SLOW_LATENCY_S
        with self.noting(Fault.CUT_OFF, from_s=LONG_S):
            network.mode = mode
            if mode is FaultMode.CUT:
                network.reset()
            try:
                yield
            finally:
                network.mode = FaultMode.FINE
                if self.rng.random() < 0.3:
                    network.reset()

    @contextmanager
    def _stop_database(self) -> Iterator[None]:
        if self.stack.database is None:
            raise RuntimeError("there is no PostgreSQL")
        self.stack.database.interrupt()
        try:
            yield
        finally:
            self.stack.database.resume()

    @contextmanager
    def _silence_database(self) -> Iterator[None]:
        if self.stack.database_network is None:
            raise RuntimeError("there is no PostgreSQL")
        self.stack.database_network.mode = FaultMode.SILENT
        try:
            yield
        finally:
            self.stack.database_network.mode = FaultMode.FINE

    @contextmanager
    def _pause_queue(self) -> Iterator[None]:
        queue = self.rng.choice(("steady_high", "steady_low", "once"))
        client = self.stack.client()
        client.send_until_clear("POST", f"/api/cli/queues/{queue}/pause", timeout_s=5)
        client.close()
        yield

    def resume_queues(self) -> None:
        """Resume all queues. Called when the other faults of a wave are over, one of which may prevent it."""
        client = self.stack.client()
        for queue in ("steady_high", "steady_low", "once"):
            reply = client.send_until_clear("POST", f"/api/cli/queues/{queue}/unpause", timeout_s=60)
            if reply.status != 200:
                self.problems.append(f"{queue} could not be resumed: {reply.status} {reply.content}")
        client.close()

    @contextmanager
    def _change_configuration(self) -> Iterator[None]:
        self.stack.version += 1
        self.stack.write_queue_file(SOAK_VERSION=str(self.stack.version))
        client = self.stack.client()
        client.send_until_clear("POST", "/api/cli/configs/reload", timeout_s=5)
        client.close()
        yield

    @contextmanager
    def _deploy(self) -> Iterator[None]:
        self.stack.version += 1
        self.stack.commit({"version": str(self.stack.version)})
        client = self.stack.client()
        client.send_until_clear("POST", "/api/cli/queues/steady/redeploy", timeout_s=5)
        client.close()
        yield
