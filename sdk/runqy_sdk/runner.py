"""Run the tasks that the worker sends, in this warm process."""

from __future__ import annotations

import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from runqy_sdk.calls import Call, Line, call_maker, respond
from runqy_sdk.context import TaskLogHandler
from runqy_sdk.errors import PayloadInvalid
from runqy_sdk.handlers import Handler, Loader, get_handler, get_loader
from runqy_sdk.protocol import Input, Output, failure, is_version_2, protocol_error, ready_line, take_input

MAX_CONCURRENCY = 256

_WATCH_AFTER_S = 0.1
"""How long a task runs before cancellations are read. Starting to read costs more than a short task."""


def _parse_int(digits: str) -> Any:
    try:
        return int(digits)
    except ValueError:
        return _UNREAD


def _has_unread(value: Any) -> bool:
    items: Any = value
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).values()
    return value is _UNREAD or (isinstance(value, (dict, list)) and any(map(_has_unread, items)))


_UNREAD = object()

# `json.loads` guesses the encoding of each line, and `decode` looks for white space around it: twice the time.
_decode = json.JSONDecoder().raw_decode
_instead: list[Callable[[Handler, Loader | None], None]] = []


def run(*, concurrency: int = 1) -> None:
    """Run tasks until the worker ends this process. Call it once, at the end of the program.

    `concurrency` is how many run at a time, at most 256: coroutines on one event loop, functions in threads. A worker
    that does not know of it sends one after another.

    The worker is told that the process is ready when `@load` has returned. After a first SIGTERM or SIGINT the current
    tasks are completed, a second one exits at once.
    """
    if type(concurrency) is not int or not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ValueError(f"concurrency: {concurrency!r} is not a whole number from 1 to {MAX_CONCURRENCY}")
    handler, loader = get_handler(), get_loader()
    if _instead:
        _instead[0](handler, loader)
        return
    descriptor, output = take_input(), Output()
    is_streaming = is_version_2()
    program = Program(handler, loader, output, concurrency if is_streaming else 1, is_streaming)
    os.register_at_fork(after_in_child=_reset_signals)
    _set_up_logging(output)
    if handler.is_async or program.concurrency > 1:
        # Importing asyncio takes longer than all the rest.
        from runqy_sdk.async_runner import AsyncRunner  # noqa: PLC0415

        AsyncRunner(program, descriptor).run()
    else:
        Runner(program, descriptor).run()


def _reset_signals() -> None:
    """Let a fork of this process, such as one of multiprocessing, end on a signal as usual."""
    signal.set_wakeup_fd(-1)  # an event loop's: it is shared with this process, which would end instead
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _set_up_logging(output: Output) -> None:
    """Have the records of tasks sent to the worker, also by a program that logs to its output (`basicConfig`)."""
    root = logging.getLogger()
    send = output.send if is_version_2() else None
    if not root.handlers:
        root.addHandler(TaskLogHandler(send))
    handlers: list[Any] = [*root.handlers] if send else []
    for handler in handlers:
        if handler.__class__ is logging.StreamHandler and handler.stream in (sys.__stdout__, sys.__stderr__):
            root.removeHandler(handler)
            root.addHandler(TaskLogHandler(send, instead_of=handler))


def call_instead(function: Callable[[Handler, Loader | None], None]) -> None:
    """Have `run()` call this function, for programs that run without a worker."""
    _instead.append(function)


@dataclass(frozen=True)
class Program:
    """What is run, and how many calls of it at a time."""

    handler: Handler
    loader: Loader | None
    output: Output
    concurrency: int
    is_streaming: bool

    def send_ready(self) -> None:
        self.output.send(ready_line(concurrency=self.concurrency, batch=self.handler.batch))

    def send_load_failure(self) -> None:
        """Say why the process cannot start, in an `except` block."""
        self.output.send(json.dumps({"status": "error", "error": f"@load failed: {traceback.format_exc()}"}))

    def read_line(self, data: bytes) -> Line | None:
        """Return a line of the worker; None if it is empty or invalid, which is answered."""
        try:
            text = data.decode().strip()
            if not text:
                return None
            line, end = _decode(text)
            if end < len(text):
                raise ValueError(f"Extra data: char {end}")
        except ValueError as error:
            line = self._fail_unreadable(data, error)
        if not isinstance(line, dict) or not (
            "task_id" in line or ("batch" in line and self.handler.batch is not None)
        ):
            return None
        return line  # pyright: ignore[reportUnknownVariableType] (a cast would cost each task)

    def _fail_unreadable(self, data: bytes, error: ValueError) -> Line | None:
        """Respond for the tasks of a line that cannot be read. Return the line with the others, if there are any.

        What Python does not read although the worker does are integers of thousands of digits.
        """
        try:
            line = json.loads(data, parse_int=_parse_int)
            tasks = line.get("batch", [line])
            failed = [task for task in tasks if _has_unread(task)]
            for task in failed:
                self.output.send(failure(task["task_id"], f"payload_invalid: {error}", exception=PayloadInvalid))
        except Exception:  # noqa: BLE001 (the line may be anything)
            self.output.send(protocol_error(f"The line is not JSON: {error}"))
            return None
        left = [task for task in tasks if task not in failed]
        return {"batch": left} if left else None

    def call_maker(self, loaded: Any) -> Callable[[Line], Call]:
        return call_maker(self.handler, loaded=loaded, send=self.output.send, is_streaming=self.is_streaming)

    def cancel(self, call: Call, task_id: str) -> None:
        if response := call.cancel(task_id):
            self.output.send(response)


class Runner:
    """Runs one call of a function after another in the main thread. Another thread notices cancellations.

    Functions may need the main thread, which an event loop could then not use to read; and for short tasks a second
    thread costs more than the task.
    """

    def __init__(self, program: Program, descriptor: int) -> None:
        self._program = program
        self._input = Input(descriptor)
        self._call: Call | None = None
        self._has_task = threading.Event()
        self._is_waiting = False
        self._is_ending = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        try:
            make_call = self._program.call_maker(load_value(self._program.loader))
        except Exception:  # noqa: BLE001 (whatever the program raises)
            self._program.send_load_failure()
            sys.exit(1)
        read_line, send = self._program.read_line, self._program.output.send
        self._program.send_ready()
        threading.Thread(target=self._watch, name="runqy-watch", daemon=True).start()
        while not self._is_ending:
            self._is_waiting = True
            data = self._input.next_line()
            self._is_waiting = False
            if data is None:
                return
            line = read_line(data)
            if line is None or "control" in line:  # for a task that has ended
                continue
            self._call = call = make_call(line)
            if not self._has_task.is_set():
                self._has_task.set()
            responses = respond(call)
            self._call = None
            self._input.end_watch()
            send(responses)

    def _watch(self) -> None:
        """Read what the worker sends while a task runs for more than a moment."""
        while self._has_task.wait():
            call = self._call
            time.sleep(_WATCH_AFTER_S)
            if call is not None and self._call is call:
                self._input.watch(lambda: self._call is call, partial(self._cancel, call))  # noqa: B023
            elif self._call is None:
                self._has_task.clear()
                # A task may have begun since, and have found the event set.
                if self._call is not None:
                    self._has_task.set()

    def _cancel(self, call: Call, data: bytes) -> bool:
        """Cancel a task of the current call if a line says so. Return whether the line is not for another call."""
        if b'"control"' not in data:
            return False
        line = self._program.read_line(data)
        if line is None or "control" not in line:
            return False
        self._program.cancel(call, line["task_id"])
        return True

    def _end(self, number: int, _frame: Any) -> None:
        if self._is_ending:
            os._exit(128 + number)
        elif self._is_waiting:
            sys.exit(0)
        self._is_ending = True


def load_value(loader: Loader | None) -> Any:
    """Return what `@load` returns, for a handler that is no coroutine. Raise what it raises."""
    loaded = loader() if loader else None
    if not inspect.iscoroutine(loaded):
        return loaded
    import asyncio  # noqa: PLC0415 (slow, and rarely needed)

    return asyncio.run(loaded)
