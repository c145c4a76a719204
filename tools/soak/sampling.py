"""Sample the stack under load: lag of the history, waiting tasks, memory, SQLite's write lock."""

import contextlib
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import redis as redis_py

from runqy.broker.keys import QueueKeys
from tools.soak import processes
from tools.soak.stack import Stack
from tools.soak.threads import BackgroundThreads

SAMPLE_S = 0.5
LOCK_SAMPLE_S = 0.25
LOCK_POLL_S = 0.001
LOCK_GIVEN_UP_S = 5.0


class Sampler(BackgroundThreads):
    """Threads that sample a stack at intervals."""

    def __init__(self, stack: Stack, queues: Sequence[str]) -> None:
        super().__init__(patience_s=30)
        # The age of the oldest attempt that is not in the database yet.
        self.lags_s: list[float] = []
        # How long another process had to wait for SQLite's write lock.
        self.lock_waits_s: list[float] = []
        self.most_waiting = 0
        self.longest_stream = 0
        self.redis_mb: list[float] = []
        # By kind of process.
        self.memory_mb: dict[str, list[float]] = defaultdict(list)
        self.archived = 0
        self._stack = stack
        self._queues = list(queues)
        self.add_thread(self._repeat, SAMPLE_S, self._sample)
        if stack.database is None:
            self.add_thread(self._probe_lock)

    def _repeat(self, interval_s: float, look: Callable[[redis_py.Redis], None]) -> None:
        with self._stack.redis_client() as redis:
            while self.waits(interval_s):
                with contextlib.suppress(redis_py.RedisError):
                    look(redis)

    def _sample(self, redis: redis_py.Redis) -> None:
        keys = [QueueKeys(queue) for queue in self._queues]
        pipeline = redis.pipeline(transaction=False)
        for queue in keys:
            pipeline.llen(queue.pending)
            pipeline.zcard(queue.archived)
            pipeline.xlen(queue.runs)
            pipeline.xrange(queue.runs, count=1)
        pipeline.info("memory")
        pipeline.time()
        *replies, memory, (seconds, microseconds) = pipeline.execute()
        now_s = seconds + microseconds / 1e6
        oldest_s = [float(entries[0][0].partition(b"-")[0]) / 1000 for entries in replies[3::4] if entries]
        self.lags_s.append(max(now_s - min(oldest_s), 0) if oldest_s else 0.0)
        self.most_waiting = max(self.most_waiting, sum(replies[::4]))
        self.archived = sum(replies[1::4])
        self.longest_stream = max(self.longest_stream, *replies[2::4])
        self.redis_mb.append(memory["used_memory"] / 1e6)
        for kind, pids in pids_by_kind(self._stack).items():
            self.memory_mb[kind].append(sum(map(processes.resident_mb, pids)))

    def _probe_lock(self) -> None:
        """Take and release SQLite's write lock, and record how long that took."""
        path = self._stack.folder / "home" / "db.sqlite3"
        with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
            while self.waits(LOCK_SAMPLE_S):
                began_s = time.monotonic()
                while time.monotonic() - began_s < LOCK_GIVEN_UP_S:
                    try:
                        database.execute("BEGIN IMMEDIATE")
                    except sqlite3.OperationalError:
                        time.sleep(LOCK_POLL_S)
                    else:
                        database.execute("ROLLBACK")
                        break
                self.lock_waits_s.append(time.monotonic() - began_s)


class CpuMeter:
    """Measures how many cores a stack uses from its creation on, and how many the rest of the machine uses."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._began_s = time.monotonic()
        self._own = {pid: processes.cpu_s(pid) for pids in pids_by_kind(stack).values() for pid in pids}
        self._soak_s, self._machine_s = time.process_time(), processes.machine_cpu_s()

    def used_s(self) -> dict[str, float]:
        """Return the CPU time since the beginning by kind of process, without processes that have ended."""
        return {
            kind: sum(processes.cpu_s(pid) - self._own.get(pid, 0.0) for pid in pids)
            for kind, pids in pids_by_kind(self._stack).items()
        }

    def describe(self) -> str:
        """Format the cores in use by kind of process. Processes that have ended count as others."""
        took_s = time.monotonic() - self._began_s
        used_s = self.used_s()
        used_s["clients"] = time.process_time() - self._soak_s
        used_s["others"] = max(processes.machine_cpu_s() - self._machine_s - sum(used_s.values()), 0.0)
        shares = ", ".join(f"{kind} {spent_s / took_s:.2f}" for kind, spent_s in used_s.items())
        return f"{shares} of {os.cpu_count()}"


def pids_by_kind(stack: Stack) -> dict[str, list[int]]:
    """Return the processes of a stack by their kind."""
    workers = [worker for worker in stack.workers.values() if worker.is_alive()]
    found = {
        "web": stack.web_processes(),
        "maintenance": stack.maintenance_processes() + [other.pid for other in stack.others if other.is_alive()],
        "workers": [worker.pid for worker in workers],
        "children": [pid for worker in workers for pid in stack.child_processes(worker)],
    }
    if stack.redis is not None and stack.redis.process is not None:
        found["Redis"] = [stack.redis.process.pid]
    return found
