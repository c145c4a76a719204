"""Start the real worker program for tests, and wait for its actions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import runqy_python

from runqy.broker.broker import Broker
from runqy.broker.tasks.enqueue import NewTask, enqueue, new_task_id
from runqy.broker.tasks.reader import find_task
from runqy.broker.tasks.record import TaskRecord
from runqy.broker.workers.heartbeats import list_worker_records
from runqy.broker.workers.records import WorkerRecord
from runqy.core.environment.connection_urls import RedisTarget
from tests.support.servers import ValkeyServer
from tests.support.waiting import PATIENCE_S, eventually
from tests.workers.fake_server import API_KEY, FakeServer

SDK_FILES = {f"runqy_python/{path.name}": path.read_bytes() for path in Path(runqy_python.__file__).parent.glob("*.py")}
"""The published SDK, for repositories of tests, so that deploying them needs no package index."""


def worker_environment(server: FakeServer, folder: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a worker for the queue `mail`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "RUNQY_SERVER_URL": server.url,
        "RUNQY_API_KEY": API_KEY,
        "RUNQY_QUEUES": "mail",
        "RUNQY_DEPLOYMENT_DIR": str(folder / "deployments"),
        "RUNQY_RECOVERY_INITIAL_DELAY": "50ms",
        "RUNQY_BOOTSTRAP_RETRY_DELAY": "50ms",
        **settings,
    }


class WorkerProcess:
    """A running `runqy-worker`."""

    def __init__(
        self, server: FakeServer, folder: Path, *, python: str | Path = sys.executable, **settings: str
    ) -> None:
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        env = worker_environment(server, folder, **settings)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", "workers.runtime.main"], env=env, stderr=log, stdout=log, start_new_session=True
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's entries of one kind."""
        whole = self.log.read_text().rpartition("\n")[0]  # without a line that is being written
        entries = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> dict[str, Any]:
        """Wait until the log has so many entries of a kind; returns the last."""
        return eventually(lambda: len(found := self.events(name)) >= count and found[-1], what=self.log.read_text)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def end(self) -> None:
        """End it whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def add_task(broker: Broker, payload: object = None, *, queue: str = "mail", **options: Any) -> str:
    """Enqueue a task and return its id."""
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    task = NewTask(id=new_task_id(), queue=queue, payload=content, **options)
    broker.run(enqueue(task, now_ns=broker.now_ns()))
    return task.id


def wait_for_state(broker: Broker, task_id: str, *states: str, within_s: float = PATIENCE_S) -> TaskRecord:
    """Wait until a task is in one of some states and return it."""

    def look() -> TaskRecord | None:
        record = broker.run(find_task(broker, task_id))
        return record if record.state in states else None

    return eventually(look, within_s=within_s, what=lambda: broker.run(find_task(broker, task_id)))


def wait_for_record(broker: Broker, state: str) -> WorkerRecord:
    """Wait until a worker is in a state and return what it reports."""

    def look() -> WorkerRecord | None:
        return next((record for record in list_worker_records(broker) if record.state == state), None)

    return eventually(look, what=lambda: list_worker_records(broker))


def wait_task(folder: Path, name: str = "task") -> dict[str, str]:
    """Return the payload of a task that reports when it starts, and ends on request."""
    return {"do": "wait", "started": str(folder / f"{name}.started"), "until": str(folder / f"{name}.until")}


def broker_on(server: ValkeyServer, password: str = "") -> Broker:
    """Return a broker on a server of a test's own."""
    return Broker(RedisTarget(addresses=(("127.0.0.1", server.port),), password=password))
