"""A web server that a benchmark started, and requests to it that are not measured."""

import json
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.soak.processes import resident_mb

if TYPE_CHECKING:
    from tools.benchmarks.stack import Stack

KEY = "key-of-the-benchmark-that-cannot-be-guessed"
_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """gunicorn with its web processes, on a port of 127.0.0.1."""

    stack: "Stack"
    port: int
    pid: int
    """The id of gunicorn's master."""

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request over a connection of its own; return the JSON of the response."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Host": "localhost", "Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {content.decode()}")
        return json.loads(content)

    def enqueue_one(self) -> str:
        """Enqueue one task that no worker runs; return its id."""
        task_id: str = self.send("POST", "/queue/add", {"queue": "unserved", "data": {}})["info"]["id"]
        return task_id

    def enqueue_many(self, queue: str, count: int) -> None:
        for start in range(0, count, _BATCH):
            jobs: list[Any] = [{}] * min(_BATCH, count - start)
            self.send("POST", "/queue/add-batch", {"queue": queue, "jobs": jobs})

    def memory_mb(self) -> float:
        """Return the resident memory of the largest web process. Linux only."""
        return max(resident_mb(pid) for pid in self.web_pids())

    def web_pids(self) -> list[int]:
        """Return the ids of the web processes. Linux only."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
