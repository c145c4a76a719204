"""Speaks the worker's side of the protocol with one child process of an example."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


class Child:
    """A child of an example, ready for tasks; its stderr is kept for assertions."""

    def __init__(self, example: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "main.py"],
            cwd=EXAMPLES / example,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.progress: list[dict[str, Any]] = []
        """What its tasks have reported."""
        assert self._read()["status"] == "ready"

    def run(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Send one task and return the response."""
        assert self._process.stdin is not None
        task = {"task_id": "t1", "type": "q", "payload": payload, "retry_count": 0, "max_retry": 3, "queue": "q"}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        response = self._read()
        while "progress" in response:
            self.progress.append(response["progress"])
            response = self._read()
        assert response["task_id"] == "t1"
        return response

    def close(self) -> int:
        """Close its input and return its exit code."""
        self._process.communicate(timeout=30)
        return self._process.returncode

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        response: dict[str, Any] = json.loads(self._process.stdout.readline())
        return response
