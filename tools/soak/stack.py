"""Start what is tested: Redis, PostgreSQL, `runqy serve` and workers, on networks that can be disturbed."""

import base64
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis as redis_py

from tests.support.bad_network import BadNetwork
from tests.support.postgresql import PostgresqlServer, find_programs
from tests.support.servers import ValkeyServer, free_port
from tools.soak import processes
from tools.soak.api import Client
from tools.soak.processes import ROOT, ManagedProcess, wait_for
from tools.soak.report import Report

LEASE_S = GRACE_S = 10
"""A third of the default, so that a run sees more faults. The grace is as long as the lease."""
RECOVERY_INTERVAL_S = 10
"""That of maintenance."""
SHUTDOWN_S = 3
START_S = 180.0  # a busy machine takes more than a minute
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Redis acknowledges nothing that a kill could lose, so whatever is missing was lost by the product."""

QUEUE_FILE = """queues:
  steady: {{sub_queues: [{{name: high, priority: 6}}, {{name: low, priority: 2}}], deployment: {deployment}}}
  canary: {{priority: 10, mode: long_running, deployment: {deployment}}}
  once: {{priority: 4, mode: one_shot, deployment: {deployment}}}
"""
REDIS_QUEUES = ("steady_high", "steady_low", "canary", "once")
LIMITS = "{max_retry: 4, retry_delay: 1s, retry_max_delay: 4s, active_timeout: 20s}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackParts:
    """The parts of a stack."""

    redis_url: str = ""
    """Empty: the stack starts a Redis of its own."""
    has_postgresql: bool = False
    """Use PostgreSQL if its programs are installed, otherwise SQLite."""
    has_networks: bool = True
    """Connect server, workers and database by networks that can be disturbed."""
    redis_options: Sequence[str] = DURABLE
    env: Mapping[str, str] = field(default_factory=dict)


DEFAULT_PARTS = StackParts()


class Stack:
    """The product on this machine, with all its files in one temporary folder."""

    def __init__(self, folder: Path, rng: random.Random, parts: StackParts) -> None:
        self.folder = folder
        self.key, self.worker_key = secrets.token_hex(24), secrets.token_hex(24)
        self.statuses: Counter[str] = Counter()
        self.workers: dict[str, ManagedProcess] = {}
        # Maintenance processes beside the server's own.
        self.others: list[ManagedProcess] = []
        self.journal = folder / "journal"
        self.repository = folder / "repository"
        self.port = free_port()
        self.version = 0
        self._cleanup = ExitStack()
        self._is_closed = False
        self._left: dict[int, str] = {}
        self.redis: ValkeyServer | None = None
        self.server_network: BadNetwork | None = None
        self.worker_network: BadNetwork | None = None
        self.database: PostgresqlServer | None = None
        self.database_network: BadNetwork | None = None
        if not parts.redis_url:
            self.redis = ValkeyServer(*parts.redis_options).start()
            self._cleanup.callback(self.redis.stop)
            if parts.has_networks:
                self.server_network, self.worker_network = (
                    self._network(self.redis.port, rng),
                    self._network(self.redis.port, rng),
                )
        if parts.has_postgresql and (programs := find_programs()):
            self.database = PostgresqlServer(programs).start()
            self._cleanup.callback(self.database.stop)
            if parts.has_networks:
                self.database_network = self._network(self.database.port, rng)
        self.env = self._environment(parts.redis_url) | dict(parts.env)
        self.server = ManagedProcess(
            "server",
            [str(Path(sys.executable).with_name("runqy")), "serve", "--migrate", "--host", "127.0.0.1"],
            self.env,
            folder / "server.log",
        )

    def client(self, *, timeout_s: float = 8.0, key: str = "") -> Client:
        """Return a client of the API with this key, or an admin key."""
        return Client(self.port, key or self.key, timeout_s=timeout_s, statuses=self.statuses)

    def redis_client(self) -> redis_py.Redis:
        """Return a client of Redis that does not use a network that can be disturbed."""
        if self.redis is None:
            raise RuntimeError("the stack has no single Redis of its own")
        return self.redis.client()

    def prepare(self) -> None:
        """Create the repository and the queue files."""
        (self.folder / "home").mkdir(mode=0o700)
        (self.folder / "queues").mkdir()
        self.repository.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit({"main.py": (ROOT / "tools/soak" / "handler.py").read_text()})
        self.write_queue_file()

    def manage(self, *words: str, **variables: str) -> None:
        command = [sys.executable, "manage.py", *words]
        with (self.folder / "manage.log").open("ab") as log:
            subprocess.run(command, cwd=ROOT, env=self.env | variables, stdout=log, stderr=log, check=True)

    def commit(self, files: Mapping[str, str]) -> str:
        """Commit files to the repository that workers deploy; return the commit."""
        for name, content in files.items():
            (self.repository / name).write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "Change")
        return self.git("rev-parse", "HEAD")

    def git(self, *words: str) -> str:
        """Run git in the repository; return what it prints."""
        identity = ("-c", "user.name=soak", "-c", "user.email=soak@localhost")
        done = subprocess.run(
            ["git", *identity, *words], cwd=self.repository, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip()

    def write_queue_file(
        self,
        text: str = QUEUE_FILE,
        *,
        limits: str = LIMITS,
        rollout: str = "{}",
        vaults: str = "[]",
        **variables: str,
    ) -> None:
        """Write the definitions of the queues. The server loads them later."""
        values = {"SOAK_JOURNAL": str(self.journal), **variables}
        env_vars = ", ".join(f'{name}: "{value}"' for name, value in values.items())
        source = f'git_url: "file://{self.repository}", branch: main, startup_cmd: python main.py'
        how = f"limits: {limits}, rollout: {rollout}, vaults: {vaults}"
        deployment = f"{{{source}, env_vars: {{{env_vars}}}, {how}}}"
        (self.folder / "queues" / "soak.yaml").write_text(text.format(deployment=deployment))

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        self.server.start()
        client = self.client(timeout_s=2)
        try:
            wait_for(lambda: client.send("GET", "/readyz").status == 200, START_S, "the server is ready")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.log_tail()}") from error
        client.close()
        self.statuses.clear()

    def add_worker(
        self, name: str, *, queues: str = "steady,canary,once", program: Sequence[str] = (), **variables: str
    ) -> ManagedProcess:
        """Start a worker whose files are in a folder of its own."""
        folder = self.folder / "workers" / name
        folder.mkdir(parents=True)
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "RUNQY_SERVER_URL": f"http://127.0.0.1:{self.port}",
            "RUNQY_API_KEY": self.worker_key,
            "RUNQY_QUEUES": queues,
            "RUNQY_HOME": str(folder),
            "RUNQY_CONCURRENCY": "4",
            "RUNQY_PROCESSES": "2",
            "RUNQY_SHUTDOWN_TIMEOUT": f"{SHUTDOWN_S}s",
            **variables,
        }
        command = [sys.executable, *(program or ("-m", "workers.runtime.main"))]
        worker = ManagedProcess(name, command, env, self.folder / f"{name}.log")
        self.workers[name] = worker
        worker.start()
        return worker

    def add_maintenance(self, name: str) -> ManagedProcess:
        """Start a maintenance process beside that of the server."""
        command = [sys.executable, "manage.py", "run_maintenance"]
        process = ManagedProcess(name, command, self.env, self.folder / f"{name}.log")
        self.others.append(process)
        process.start()
        return process

    def wait_until_ready(self, count: int, *, queue: str = "", timeout_s: float = START_S) -> float:
        """Wait until `count` registrations (one per worker and queue) are ready; return how long it took."""
        client = self.client()

        def look() -> bool:
            workers = client.send("GET", "/api/cli/workers").content.get("workers", [])
            ready = [w for w in workers if w["state"] == "ready" and not w["is_stale"] and queue in ("", w["queue"])]
            return len(ready) >= count

        try:
            return wait_for(look, timeout_s, f"{count} workers ready")
        finally:
            client.close()

    def web_processes(self) -> list[int]:
        return [child for master in self.web_masters() for child in processes.children_of(master)]

    def web_masters(self) -> list[int]:
        return [pid for pid in processes.children_of(self.server.pid) if "gunicorn" in processes.command_of(pid)]

    def maintenance_processes(self) -> list[int]:
        return [pid for pid in processes.children_of(self.server.pid) if "run_maintenance" in processes.command_of(pid)]

    def child_processes(self, worker: ManagedProcess) -> list[int]:
        found = processes.descendants_of(worker.pid)
        return [pid for pid in found if processes.command_of(pid).endswith("python main.py")]

    def log_tail(self) -> str:
        """Return the end of the server's log, for error messages."""
        log = self.server.log
        return log.read_text(errors="replace")[-1500:] if log.exists() else ""

    def keep_files(self) -> Path:
        """Copy logs and journal to a folder that is kept; return it."""
        kept = Path(tempfile.mkdtemp(prefix="runqy-soak-broken-"))
        for path in (*self.folder.glob("*.log"), self.journal, *(self.folder / "home" / "logs").glob("*.log")):
            if path.exists():
                shutil.copy(path, kept)
        return kept

    def close(self) -> dict[int, str]:
        """End everything. Return the processes that outlived it, which are killed."""
        if self._is_closed:
            return self._left
        self._is_closed = True
        for worker in self.workers.values():
            worker.send_signal(signal.SIGCONT)
            worker.send_signal(signal.SIGTERM)
        for process in (*self.workers.values(), *self.others):
            process.end()
        for pid in processes.descendants_of(self.server.pid) if self.server.is_alive() else ():
            processes.send_signal(pid, signal.SIGCONT)
        self.server.end(timeout_s=60)
        deadline = time.monotonic() + 10
        while (left := processes.processes_in(self.folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        for pid in left:
            processes.send_signal(pid, signal.SIGKILL)
        self._cleanup.close()
        self._left = left
        return left

    def _network(self, port: int, rng: random.Random) -> BadNetwork:
        network = BadNetwork(port, random.Random(rng.random()))
        self._cleanup.callback(network.close)
        return network

    def _environment(self, redis_url: str) -> dict[str, str]:
        names = ("RUNQY_", "DATABASE_", "REDIS_", "QUEUE_WORKERS_", "SOAK_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        env |= {
            "PORT": str(self.port),
            "RUNQY_HOME": str(self.folder / "home"),
            "RUNQY_SECRET_KEY": base64.b64encode(secrets.token_bytes(48)).decode(),
            "RUNQY_API_KEY": self.key,
            "RUNQY_WORKER_API_KEY": self.worker_key,
            "RUNQY_VAULT_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            "RUNQY_LEASE": f"{LEASE_S}s",
            "QUEUE_WORKERS_DIR": str(self.folder / "queues"),
            "WEB_CONCURRENCY": "2",
        }
        if self.server_network and self.worker_network:
            env["REDIS_URL"] = f"redis://127.0.0.1:{self.server_network.port}/0"
            env["RUNQY_WORKER_REDIS_URL"] = f"redis://127.0.0.1:{self.worker_network.port}/0"
        else:
            env["REDIS_URL"] = self.redis.url if self.redis else redis_url
        if self.database:
            port = self.database_network.port if self.database_network else self.database.port
            env["DATABASE_URL"] = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        return env


@contextmanager
def running_stack(report: Report, rng: random.Random, parts: StackParts = DEFAULT_PARTS) -> Iterator[Stack]:
    """Start a stack without workers, and end all of it afterwards. Its logs are kept if something broke."""
    broken_before = len(report.broken)
    with tempfile.TemporaryDirectory(prefix="runqy-soak-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder), rng, parts)
        is_whole = False
        try:
            stack.prepare()
            stack.start()
            yield stack
            is_whole = True
        except SystemExit:
            is_whole = True  # a signal
            raise
        finally:
            for pid, command in stack.close().items():
                report.fail("processes", f"{pid} outlived the stack: {command[:120]}")
            if not is_whole or len(report.broken) > broken_before:
                report.note(f"logs, and what the tasks noted: {stack.keep_files()}")
