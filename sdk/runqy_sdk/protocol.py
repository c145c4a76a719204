"""The protocol between the worker and this process: one JSON object a line, on standard input and output."""

from __future__ import annotations

import collections
import itertools
import json
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

_READ_BYTES = 1 << 16
_encode = json.JSONEncoder().encode  # `json.dumps` looks at its options for each task


def take_input() -> int:
    """Return a descriptor of standard input, which is empty from then on: programs of a task must not read tasks."""
    descriptor = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return descriptor


class Input:
    """The lines from the worker.

    One thread at a time reads them: the one that runs tasks, between two of them, without the cost of a second thread;
    and a watching one while a task runs, to notice that it is cancelled.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: collections.deque[bytes] = collections.deque()
        self._pieces: list[bytes] = []
        self._has_ended = False
        self._lock = threading.Lock()
        self._is_watching = False
        self._wake_reader, self._wake_writer = os.pipe()

    def next_line(self) -> bytes | None:
        """Return the next line. Blocks; None at the end."""
        with self._lock:
            while not self._lines:
                if self._has_ended:
                    return None
                self._read()
            return self._lines.popleft()

    def watch(self, is_wanted: Callable[[], bool], on_line: Callable[[bytes], bool]) -> None:
        """Pass each line that arrives to `on_line`, which returns whether it used it, until `end_watch`."""
        with self._lock:
            # The order matters: `end_watch` is called after `is_wanted` became false, and looks at the first.
            self._is_watching = True
            # The task's cancellation may have arrived with it.
            self._lines = collections.deque(line for line in self._lines if not on_line(line))
            while is_wanted() and not self._has_ended:
                ready, _, _ = select.select([self._descriptor, self._wake_reader], [], [])
                if self._wake_reader in ready:
                    os.read(self._wake_reader, 100)
                    continue
                known = len(self._lines)
                self._read()
                unused = [line for line in itertools.islice(self._lines, known, None) if not on_line(line)]
                while len(self._lines) > known:
                    self._lines.pop()
                self._lines.extend(unused)
            self._is_watching = False

    def end_watch(self) -> None:
        """Wake the watching thread, if there is one."""
        if self._is_watching:
            os.write(self._wake_writer, b"1")

    def _read(self) -> None:
        data = os.read(self._descriptor, _READ_BYTES)
        if not data:
            self._has_ended = True
            return
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._pieces, lines[0]])
            self._pieces.clear()
            self._lines.extend(lines)
        if rest:
            self._pieces.append(rest)


class Output:
    """The protocol's end of standard output. What the program prints goes to standard error from then on."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        # The descriptor too, not only sys.stdout: libraries in C print as well.
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._lock = threading.Lock()

    def send(self, line: str) -> None:
        data = line.encode() + b"\n"
        try:
            with self._lock:  # a progress report of a thread must not come into the middle of a response
                written = os.write(self._descriptor, data)
                while written < len(data):
                    written += os.write(self._descriptor, memoryview(data)[written:])
        except BrokenPipeError:
            os._exit(1)  # the worker has gone, and nobody reads what a clean exit would say


def is_version_2() -> bool:
    """Return whether the worker understands version 2 of the protocol. Others would take its lines for responses."""
    return os.environ.get("RUNQY_CHILD_PROTOCOL") == "2"


def ready_line(*, concurrency: int, batch: dict[str, int] | None) -> str:
    """Return the line that tells the worker what this program can do."""
    if not is_version_2():
        return json.dumps({"status": "ready", "accepts": ["cancel"]})
    accepts = ["cancel", *["concurrent"] * (concurrency > 1), "stream", *["batch"] * (batch is not None)]
    line: dict[str, Any] = {"status": "ready", "accepts": accepts, "concurrency": concurrency}
    return json.dumps(line if batch is None else line | {"batch": batch})


def success(task_id: str, result: str) -> str:
    """Return the response of a task that succeeded, with its encoded result."""
    return f'{{"task_id":{_encode(task_id)},"result":{result},"error":null,"retry":false}}'


def failure(
    task_id: str, error: str, *, retry: bool = False, delay: float | None = None, exception: type | None = None
) -> str:
    """Return the response of a task that failed. `delay` is in seconds."""
    response: dict[str, Any] = {"task_id": task_id, "result": None, "error": error or "no reason was given"}
    response["retry"] = retry
    if delay is not None:
        response["retry_delay_s"] = delay
    if exception is not None:
        response["error_class"] = class_path(exception)
    return json.dumps(response)


def protocol_error(error: str) -> str:
    """Return the line for a task, or tasks, whose line could not be read. Which it was is unknown."""
    if not is_version_2():
        return failure("unknown", error)
    return json.dumps({"protocol_error": error})


def class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
