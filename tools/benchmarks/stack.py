"""Start what is measured: Redis, web servers and workers, all in a temporary folder and on loopback."""

import base64
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from redis import Redis

from runqy.broker.broker import Broker
from runqy.core.environment.connection_urls import RedisTarget
from tests.support.servers import ValkeyServer, free_port
from tests.support.waiting import wait_until
from tools.benchmarks.server import KEY, Server

ROOT = Path(__file__).parents[2]
_START_S = 60

CHILD = """import json, sys
print('{"status":"ready"}', flush=True)
for line in sys.stdin:
    task_id = json.loads(line)["task_id"]
    print('{"task_id":"%s","result":null,"error":null,"retry":false}' % task_id, flush=True)
"""

STREAMING_CHILD = """import json, os, select, sys, time
os.write(1, b'{"status":"ready","accepts":["concurrent","stream"],"concurrency":20}\\n')
os.set_blocking(0, False)
running, unread = {}, b""
while True:
    if select.select([0], [], [], 0.001 if running else None)[0]:
        data = os.read(0, 1 << 20)
        if not data:
            break
        *lines, unread = (unread + data).split(b"\\n")
        for task in map(json.loads, lines):
            if "payload" in task:
                running[task["task_id"]] = [0, time.time(), task["payload"]]
    written = []
    for task_id, (number, began_s, payload) in [*running.items()]:
        now_s = time.time()
        due = min(int((now_s - began_s) * payload["chunks_a_second"]), payload["chunks"])
        written += ['{"task_id":"%s","chunk":[%d,%.6f]}\\n' % (task_id, n, now_s) for n in range(number, due)]
        running[task_id][0] = due
        if due == payload["chunks"]:
            del running[task_id]
            written.append('{"task_id":"%s","result":true}\\n' % task_id)
    sys.stdout.write("".join(written))
    sys.stdout.flush()
"""

MANY_CHILD = """import asyncio, json, os, sys, time
kind, size = sys.argv[1], int(sys.argv[2])

def respond(members):
    responses = [{"task_id": task["task_id"], "result": None} for task in members]
    os.write(1, json.dumps({"batch": responses} if kind == "batch" else responses[0]).encode() + b"\\n")

async def sleep(task):
    await asyncio.sleep(0.1)
    respond([task])

async def read():
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        line = json.loads(line)
        if kind == "sleep":
            tasks.add(task := loop.create_task(sleep(line)))
            task.add_done_callback(tasks.discard)
        else:
            members = line.get("batch", [line])
            time.sleep(0.005 + 0.0001 * len(members))
            respond(members)

ready = {"status": "ready", "accepts": ["concurrent"] if kind == "sleep" else ["batch"] if kind == "batch" else []}
ready |= {"concurrency": size} if kind == "sleep" else {"batch": {"max_size": size, "max_wait_ms": 5}}
print(json.dumps(ready), flush=True)
asyncio.run(read())
"""

QUEUE_FILE = """queues:
  sleep1: {{priority: 1, mode: long_running, deployment: {sleep1}}}
  sleep32: {{priority: 1, mode: long_running, deployment: {sleep32}}}
  model: {{priority: 1, mode: long_running, deployment: {model}}}
  batched: {{priority: 1, mode: long_running, deployment: {batched}}}
  bench: {{priority: 1, mode: long_running, deployment: {deployment}}}
  once: {{priority: 1, mode: one_shot, deployment: {deployment}}}
  streams: {{priority: 1, mode: long_running, deployment: {streaming}}}
  unserved: {{priority: 1, mode: long_running, deployment: {deployment}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTree:
    """A checkout, the Python that runs it, and its web application."""

    root: Path
    python: Path
    application: str


CURRENT = SourceTree(root=ROOT, python=Path(sys.executable), application="runqy.asgi:application")


class Stack:
    """A Valkey, a database with queues, and the environment of the processes of a source tree."""

    def __init__(self, folder: Path, source: SourceTree) -> None:
        self.folder = folder
        self.source = source
        self.redis = ValkeyServer().start()
        self.client = self.redis.client()
        # A client's key that is a row of the database; `KEY` is in the environment.
        self.row_key = ""
        self.broker = Broker(RedisTarget(addresses=(("127.0.0.1", self.redis.port),)))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RUNQY_", "DATABASE_"))},
            "RUNQY_HOME": str(folder / "home"),
            "RUNQY_SECRET_KEY": base64.b64encode(os.urandom(48)).decode(),
            "RUNQY_API_KEY": KEY,
            "RUNQY_VAULT_MASTER_KEY": base64.b64encode(os.urandom(32)).decode(),
            "REDIS_URL": self.redis.url,
            "BENCH_REDIS_PORT": str(self.redis.port),
            "QUEUE_WORKERS_DIR": str(folder / "queues"),
            "DJANGO_SETTINGS_MODULE": "runqy.settings",
        }

    def prepare(self) -> None:
        """Create the repository that workers deploy, and load the queues."""
        (self.folder / "home").mkdir(mode=0o700)
        repository = self.folder / "noop"
        repository.mkdir()
        (repository / "main.py").write_text(CHILD)
        (repository / "streams.py").write_text(STREAMING_CHILD)
        (repository / "many.py").write_text(MANY_CHILD)
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-qm", "A task that does nothing")):
            subprocess.run(["git", *identity, *words], cwd=repository, check=True)
        (self.folder / "queues").mkdir()
        commands = {
            "deployment": "main.py",
            "streaming": "streams.py",
            "sleep1": "many.py sleep 1",
            "sleep32": "many.py sleep 32",
            "model": "many.py model 1",
            "batched": "many.py batch 64",
        }
        deployments = {
            name: f'{{git_url: "file://{repository}", branch: main, startup_cmd: python {command}}}'
            for name, command in commands.items()
        }
        text = QUEUE_FILE.format(**deployments)
        (self.folder / "queues" / "bench.yaml").write_text(text)
        self.manage("migrate", "-v0")
        self.manage("load_queues")
        self.row_key = self.manage("create_api_key", "bench", "--role", "client").split()[-1]

    def manage(self, *words: str) -> str:
        command = [str(self.source.python), "manage.py", *words]
        return subprocess.run(
            command, cwd=self.source.root, env=self.env, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def empty(self) -> None:
        """Delete all tasks, but not the published configuration."""
        client = self.redis.client()
        for pattern in ("asynq:*", "bench:*", "runqy:q:*"):
            keys = list(client.scan_iter(pattern, count=10_000))
            for start in range(0, len(keys), 10_000):
                client.unlink(*keys[start : start + 10_000])
        wait_until(lambda: not _has_background_work(client), timeout_s=60)
        client.close()

    @contextmanager
    def web(
        self,
        *,
        application: str = "",
        options: Sequence[str] = (),
        processes: int = 2,
        env: dict[str, str] | None = None,
    ) -> Iterator[Server]:
        """Serve an application, by default that of the source tree. `options` are Gunicorn's."""
        port = free_port()
        words = ("-m", "gunicorn", application or self.source.application, "-c", "python:runqy.gunicorn_conf")
        address = ("-b", f"127.0.0.1:{port}", "--log-level", "error")
        with self.process((*words, *address, *options), {"WEB_CONCURRENCY": str(processes), **(env or {})}) as pid:
            _wait_for_response(port)
            yield Server(stack=self, port=port, pid=pid)

    @contextmanager
    def worker(self, queue: str, server: Server, *, concurrency: int | None) -> Iterator[int]:
        """Run one worker with up to `concurrency` tasks; None: as many as its children announce. Yields its pid."""
        settings = {
            "RUNQY_SERVER_URL": f"http://127.0.0.1:{server.port}",
            "RUNQY_QUEUES": queue,
            "RUNQY_CONCURRENCY": "" if concurrency is None else str(concurrency),
            "RUNQY_DEPLOYMENT_DIR": str(self.folder / "deployments"),
        }
        with self.process(("-m", "workers.runtime.main"), settings) as pid:
            yield pid

    @contextmanager
    def process(self, words: Sequence[str], env: dict[str, str] | None = None) -> Iterator[int]:
        """Run a Python process, and end it and its children. Yields its process id."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [self.source.python, *words],
                cwd=self.source.root,
                env={**self.env, **(env or {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def running_stack(source: SourceTree = CURRENT) -> Iterator[Stack]:
    """Prepare a stack, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="runqy-bench-") as folder:
        stack = Stack(Path(folder), source)
        try:
            stack.prepare()
            yield stack
        finally:
            stack.broker.close()
            stack.client.close()
            stack.redis.stop()


def _has_background_work(client: Redis) -> bool:
    """Return whether Redis frees deleted keys or rewrites its log, which would slow the next load."""
    memory, persistence = client.info("memory"), client.info("persistence")
    return bool(memory["lazyfree_pending_objects"] or persistence["aof_rewrite_in_progress"])


def _wait_for_response(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=_START_S)
        try:
            connection.request("GET", "/livez")
            connection.getresponse()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
