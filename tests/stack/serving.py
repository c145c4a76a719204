"""Run `runqy serve` and workers for tests, on the tests' Redis."""

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.environment import ADMIN_KEY, WORKER_KEY
from tests.support.processes import get_children, get_command_line, make_shadowing_modules
from tests.support.servers import free_port
from tests.support.waiting import wait_until


class Serve:
    """A `runqy serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str, **variables: str) -> None:
        self.port = free_port()
        self.home = folder / "home"
        self._output = folder / "output"
        self.folder = make_shadowing_modules(folder / "working-directory")
        ours = {"RUNQY_HOME": str(self.home), "PORT": str(self.port), "WEB_CONCURRENCY": "1"}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runqy.cli", "serve", "--host", "127.0.0.1", *options],
                env={name: value for name, value in {**os.environ, **ours, **variables}.items() if value},
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """Return its output so far."""
        return self._output.read_text()

    def until_ready(self) -> "Serve":
        """Wait until it is listening."""
        wait_until(lambda: "runqy is listening" in self.output or self.process.poll() is not None, timeout_s=90)
        assert self.process.poll() is None, self.output
        return self

    def pid_of(self, name: str) -> int:
        """Return the process id of its process whose command line has this word. It may begin after the others."""
        pids: list[int] = []

        def is_found() -> bool:
            pids[:] = [pid for pid in get_children(self.process.pid) if name in get_command_line(pid)]
            return bool(pids)

        wait_until(is_found, timeout_s=90)
        return pids[0]

    def is_up(self) -> bool:
        """Return whether the web server's own process runs and responds."""
        return any("gunicorn" in get_command_line(pid) for pid in get_children(self.process.pid)) and self.responds()

    def request(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Send a request; return status and body. Raise OSError or HTTPException without a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def responds(self) -> bool:
        """Return whether it responds."""
        try:
            return self.request("GET", "/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def end(self) -> int:
        """End it; return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=60)


class Worker:
    """A worker that registers with a server, and can be killed."""

    def __init__(self, server: Serve, queues: str, folder: Path, **variables: str) -> None:
        self._log = folder / "worker.log"
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "RUNQY_SERVER_URL": f"http://127.0.0.1:{server.port}",
            "RUNQY_API_KEY": WORKER_KEY,
            "RUNQY_QUEUES": queues,
            "RUNQY_DEPLOYMENT_DIR": str(folder / "deployments"),
            "RUNQY_CONCURRENCY": "4",
            **variables,
        }
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "workers.runtime.main"], env=self._env, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it and start another one."""
        self.kill()
        self._process = self._start()

    def stop(self) -> int:
        """Stop it and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)
