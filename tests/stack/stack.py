"""Run `runqy up` for tests, with a queue whose code needs no package, so that it is deployed quickly."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.processes import make_shadowing_modules
from tests.support.servers import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
ECHO = """\
import json, os, sys, time
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    while "until" in task["payload"] and not os.path.exists(task["payload"]["until"]):
        time.sleep(0.01)
    response = {"task_id": task["task_id"], "result": task["payload"], "error": None, "retry": False}
    print(json.dumps(response), flush=True)
"""
QUEUE_FILE = """\
queues:
  echo:
    priority: 1
    deployment:
      git_url: {url}
      startup_cmd: python main.py
      {settings}
"""


def make_queue(folder: Path, *, code: str = ECHO, settings: str = "") -> Path:
    """Create a repository and a folder with its queue file; return the folder."""
    repository, files = folder / "repository", folder / "files"
    repository.mkdir()
    files.mkdir()
    (repository / "main.py").write_text(code)
    git = ("git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.com")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "echo")):
        subprocess.run([*git, *command], check=True)
    (files / "echo.yaml").write_text(QUEUE_FILE.format(url=repository.as_uri(), settings=settings))
    return files


class Stack:
    """A `runqy up` in a process of its own."""

    def __init__(self, folder: Path, *, output: str = "output", **variables: str) -> None:
        self.home = folder / "home"
        self.port = free_port()
        self._output = folder / output
        self.folder = make_shadowing_modules(folder / "working-directory")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RUNQY_", "REDIS_"))},
            "RUNQY_HOME": str(self.home),
            "PORT": str(self.port),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "WEB_CONCURRENCY": "1",  # a second process takes seconds to start
            **variables,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Stack":
        """Start it, and wait for the overview."""
        self.launch()
        wait_until(lambda: "runqy is running" in self.output or self.code is not None, timeout_s=150)
        assert self.code is None, self.output
        return self

    def launch(self) -> None:
        """Start it."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runqy.cli", "up"],
                env=self._environment,
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """Return its output so far."""
        return self._output.read_text()

    @property
    def code(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=90)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.send_signal(number)
        return self.wait()

    def end(self) -> None:
        """Stop or kill it."""
        if self._process is not None and self.code is None:
            self.signal(signal.SIGTERM)

    def enqueue(self, data: dict[str, Any]) -> str:
        """Put a task on the queue; return its id."""
        response = self.ask("/queue/add", json.dumps({"queue": "echo", "data": data}).encode())
        return str(response["info"]["id"])

    def read(self, task_id: str, wait_s: int = 30) -> dict[str, Any]:
        """Return a task once it has ended."""
        info: dict[str, Any] = self.ask(f"/queue/{task_id}?wait={wait_s}")["info"]
        return info

    def processes(self) -> list[str]:
        """Return the command lines of live processes of this stack."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environ = (path.parent / "environ").read_bytes()
            except OSError:
                continue
            if path.parent.name != str(os.getpid()) and (str(self.home) in line or str(self.home).encode() in environ):
                found.append(line)
        return found

    def manage(self, *words: str) -> str:
        """Run a management command in the folder, and return its output."""
        known = {
            name: self._environment[name]
            for name in ("PATH", "RUNQY_HOME", "DATABASE_URL")
            if name in self._environment
        }
        command = [sys.executable, str(ROOT / "manage.py"), *words]
        return subprocess.run(command, env=known, capture_output=True, text=True, check=True).stdout

    def ask(self, path: str, body: bytes | None = None, key: str = "", method: str | None = None) -> dict[str, Any]:
        """Send a request and return the response."""
        key = key or (self.home / "api_key").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers={"Authorization": f"Bearer {key}"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            body: dict[str, Any] = json.load(response)
        return body
