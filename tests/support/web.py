"""Start the server's web process as in production, with few threads and few waiters."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.support.environment import ADMIN_KEY
from tests.support.processes import get_children, is_alive
from tests.support.waiting import wait_until

ASGI = ("tests.support.patient_asgi:application", "-c", "python:runqy.gunicorn_conf")
WSGI = ("tests.support.patient_wsgi:application", "-k", "gthread", "--threads", "16")
"""Gunicorn's arguments for the server as in production, and for Django alone on threads."""
WAITERS = 6
"""How many requests with the same key may wait."""
_LIMITS = {
    "RUNQY_MAX_WAITERS": str(2 * WAITERS),
    "RUNQY_DJANGO_THREADS": str(WAITERS + 2),
}


@dataclass(frozen=True, slots=True)
class Worker:
    """A process in which gunicorn serves requests."""

    pid: int

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def is_alive(self) -> bool:
        return is_alive(self.pid)


class WebProcess:
    """A server with few processes, threads and waiters."""

    def __init__(
        self,
        folder: Path,
        gunicorn: Sequence[str] = ASGI,
        *,
        processes: int = 1,
        started: str = "/health",
        port: int = 0,
        **changes: str,
    ) -> None:
        """Start it, and wait until the path `started` responds with 200; do not wait if that is empty."""
        self._started = started or "/health"
        self._log = folder / f"log-{port}"
        with self._log.open("ab") as log, socket.socket() as listener:
            if port:
                self.port, address = port, f"127.0.0.1:{port}"
            else:
                # The server inherits the socket: another program could take a port that was only picked.
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                self.port, address = listener.getsockname()[1], f"fd://{listener.fileno()}"
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *gunicorn, "-w", str(processes), "-b", address],
                pass_fds=[listener.fileno()],
                env=os.environ | _LIMITS | changes,
                stdout=log,
                stderr=log,
            )
        try:
            if started:
                wait_until(self.responds, timeout_s=60)
        except AssertionError:
            print(self._log.read_text()[-5000:])
            self.kill()  # the caller gets no object to call it on
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def responds(self) -> bool:
        try:
            return self.send(self._started)[0] == 200
        except (OSError, HTTPException):
            return False

    def send(self, path: str, body: bytes | None = None, *, key: str = ADMIN_KEY) -> tuple[int, dict[str, Any]]:
        """Send a request and return the status and the JSON of the response."""
        headers = {"Authorization": f"Bearer {key}"}
        request = Request(f"{self.url}{path}", data=body, headers=headers)
        try:
            with urlopen(request, timeout=150) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            if error.code == 500:
                print(self._log.read_text()[-5000:])  # a test that fails shows the traceback
            with error:
                return error.code, json.load(error)

    def connect(self, head: str) -> socket.socket:
        """Open a connection and send the beginning of a request."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(head.encode())
        return connection

    @contextmanager
    def stream(self, path: str, *, key: str = ADMIN_KEY, **headers: str) -> Iterator[HTTPResponse]:
        """Open a streamed response, and close its connection at the end of the block."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}", **headers})
            yield connection.getresponse()
        finally:
            connection.close()

    def workers(self) -> list[Worker]:
        return [Worker(pid) for pid in get_children(self.process.pid) if is_alive(pid)]

    def kill(self) -> None:
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        for worker in workers:
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGKILL)
