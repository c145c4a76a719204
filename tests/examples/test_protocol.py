"""The child in plain Python speaks the protocol as docs/reference/protocol.md describes it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.examples.child import EXAMPLES

Lines = list[dict[str, Any]]


class ProtocolChild:
    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "main.py", *args],
            cwd=EXAMPLES / "protocol",
            env={**os.environ, "RUNQY_CHILD_PROTOCOL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        (self.ready,) = self.read(1)

    def send(self, **line: Any) -> None:
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def read(self, number: int) -> Lines:
        return [json.loads(self.process.stdout.readline()) for _ in range(number)]


@pytest.fixture
def start() -> Iterator[Callable[..., ProtocolChild]]:
    children: list[ProtocolChild] = []

    def start_child(*args: str) -> ProtocolChild:
        children.append(ProtocolChild(*args))
        return children[-1]

    yield start_child
    for child in children:
        child.process.kill()
        child.process.wait()
        for stream in (child.process.stdin, child.process.stdout):
            stream.close()


def test_tasks_run_at_once_stream_log_and_are_cancelled(start):
    child = start()
    child.send(task_id="slow", payload={"log": "began", "sleep_s": 600})
    assert child.read(1) == [{"task_id": "slow", "log": "began"}]

    child.send(task_id="quick", payload={"chunks": ["a", {"b": 1}]})
    lines = child.read(5)
    child.send(control="cancel", task_id="unknown")
    child.send(control="cancel", task_id="slow")
    (cancelled,) = child.read(1)
    child.send(task_id="failed", payload={"error": "away", "retry": True})
    (failed,) = child.read(1)

    assert child.ready["accepts"] == ["cancel", "concurrent", "stream"]
    assert [line["chunk"] for line in lines if "chunk" in line] == ["a", {"b": 1}]
    assert lines[-1] == {"task_id": "quick", "result": None, "error": None, "retry": False}
    assert (cancelled["task_id"], cancelled["error"]) == ("slow", "the task was cancelled")
    assert (failed["error"], failed["retry"]) == ("away", True)
    child.process.stdin.close()
    assert child.process.wait(60) == 0


def test_a_batch_is_answered_by_one_line_or_fails_as_a_whole(start):
    child = start("batch")

    child.send(batch=[{"task_id": "a", "payload": {"result": 1}}, {"task_id": "b", "payload": {"error": "no"}}])
    (mixed,) = child.read(1)
    broken = {"task_id": "a", "payload": {"breaks_batch": True, "result": 2}}
    child.send(batch=[broken, {"task_id": "b", "payload": None}])
    (whole,) = child.read(1)
    child.send(batch=[broken])
    (single,) = child.read(1)

    assert child.ready["batch"] == {"max_size": 16, "max_wait_ms": 20}
    assert [(line["result"], line["error"]) for line in mixed["batch"]] == [(1, None), (None, "no")]
    assert whole == {"batch": [{"task_id": "a"}, {"task_id": "b"}], "error": "the batch is broken"}
    assert [line["result"] for line in single["batch"]] == [2]
