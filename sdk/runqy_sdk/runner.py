"""Run the tasks that the worker sends, one after another, in this warm process."""

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
from functools import partial
from typing import Any

from runqy_sdk.context import Context, TaskLogHandler, set_current_context
from runqy_sdk.errors import Fail, PayloadInvalid, Retry, TaskCancelled
from runqy_sdk.handlers import Handler, Loader, get_handler, get_loader
from runqy_sdk.protocol import Input, Output, failure, ready_line, response_line, take_input
from runqy_sdk.results import ResultInvalid, encode_result

Line = dict[str, Any]

_WATCH_AFTER_S = 0.1
"""How long a task runs before cancellations are read. Starting to read costs more than a short task."""

_CANCELLED = "the task was cancelled"
_instead: list[Callable[[Handler, Loader | None], None]] = []


def run() -> None:
    """Run tasks until the worker ends this process. Call it once, at the end of the program.

    The worker is told that the process is ready when `@load` has returned. After a first SIGTERM or SIGINT the current
    task is completed, a second one exits at once.
    """
    handler, loader = get_handler(), get_loader()
    if _instead:
        _instead[0](handler, loader)
        return
    descriptor, output = take_input(), Output()
    os.register_at_fork(after_in_child=_reset_signals)
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(TaskLogHandler())
    if handler.is_async:
        # Importing asyncio takes longer than all the rest, and only coroutines need it.
        from runqy_sdk.async_runner import AsyncRunner  # noqa: PLC0415

        AsyncRunner(handler, loader, descriptor, output).run()
    else:
        Runner(handler, loader, descriptor, output).run()


def _reset_signals() -> None:
    """Let a fork of this process, such as one of multiprocessing, end on a signal as usual."""
    signal.set_wakeup_fd(-1)  # an event loop's: it is shared with this process, which would end instead
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def call_instead(function: Callable[[Handler, Loader | None], None]) -> None:
    """Have `run()` call this function, for programs that run without a worker."""
    _instead.append(function)


class Runner:
    """Runs a function in the main thread. Another thread notices cancellations."""

    def __init__(self, handler: Handler, loader: Loader | None, descriptor: int, output: Output) -> None:
        self._handler = handler
        self._loader = loader
        self._input = Input(descriptor)
        self._output = output
        self._context: Context | None = None
        self._has_task = threading.Event()
        self._is_waiting = False
        self._is_ending = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        try:
            loaded = load_value(self._loader)
        except Exception:  # noqa: BLE001 (whatever the program raises)
            self._output.send(load_failure())
            sys.exit(1)
        self._output.send(ready_line())
        threading.Thread(target=self._watch, name="runqy-watch", daemon=True).start()
        while not self._is_ending:
            self._is_waiting = True
            data = self._input.next_line()
            self._is_waiting = False
            if data is None:
                return
            line = read_line(data, self._output)
            if line is not None and "control" not in line:  # else it is for a task that has ended
                self._run_task(line, Context(line, loaded=loaded, send=self._output.send))

    def _run_task(self, line: Line, context: Context) -> None:
        self._context = context
        if not self._has_task.is_set():
            self._has_task.set()
        response = respond(context, self._handler, line.get("payload"))
        self._context = None
        self._input.end_watch()
        self._output.send_line(response)

    def _watch(self) -> None:
        """Read what the worker sends while a task runs for more than a moment."""
        while self._has_task.wait():
            context = self._context
            time.sleep(_WATCH_AFTER_S)
            if context is not None and self._context is context:
                self._input.watch(lambda: self._context is context, partial(self._cancel, context))  # noqa: B023
            elif self._context is None:
                self._has_task.clear()
                # A task may have begun since, and have found the event set.
                if self._context is not None:
                    self._has_task.set()

    def _cancel(self, context: Context, data: bytes) -> bool:
        """Cancel the current task if a line says so. Return whether the line is not for another task."""
        if b'"control"' not in data:
            return False
        line = read_line(data, self._output)
        if line is None or "control" not in line:
            return False
        context.cancelled = context.cancelled or line["task_id"] == context.task_id
        return True

    def _end(self, number: int, _frame: Any) -> None:
        if self._is_ending:
            os._exit(128 + number)
        elif self._is_waiting:
            sys.exit(0)
        self._is_ending = True


def read_line(data: bytes, output: Output) -> Line | None:
    """Return a line of the worker; None if it is empty or invalid, which is answered."""
    try:
        line = json.loads(data) if data.strip() else None
    except ValueError as error:
        output.send(failure("unknown", f"The line is not JSON: {error}"))
        return None
    return line if isinstance(line, dict) and "task_id" in line else None


def load_value(loader: Loader | None) -> Any:
    """Return what `@load` returns, for a handler that is no coroutine. Raise what it raises."""
    loaded = loader() if loader else None
    if not inspect.iscoroutine(loaded):
        return loaded
    import asyncio  # noqa: PLC0415 (slow, and rarely needed)

    return asyncio.run(loaded)


def load_failure() -> Line:
    """Return the line that says why the process cannot start, in an `except` block."""
    return {"status": "error", "error": f"@load failed: {traceback.format_exc()}"}


def respond(context: Context, handler: Handler, payload: Any) -> str:
    """Run a task and return its response, whatever the handler raises."""
    set_current_context(context)
    try:
        value = handler.call(payload, context)
        return success(context, _consume(value, context) if inspect.isgenerator(value) else value)
    except Exception as error:  # noqa: BLE001 (whatever the handler raises is the task's error)
        return json.dumps(describe_failure(context, handler, error))
    finally:
        set_current_context(None)


def success(context: Context, result: Any) -> str:
    """Return the response of a task whose handler returned. Raise ResultInvalid."""
    if result is None and context.chunks:
        are_texts = all(isinstance(chunk, str) for chunk in context.chunks)
        result = "".join(context.chunks) if are_texts else context.chunks
    return response_line(context.task_id, encode_result(result))


def describe_failure(context: Context, handler: Handler, error: BaseException) -> Line:
    """Return the response of a task whose handler raised."""
    if isinstance(error, Retry):
        return failure(context.task_id, str(error), retry=True, delay=error.delay)
    if isinstance(error, (Fail, TaskCancelled)):
        return failure(context.task_id, str(error))
    if isinstance(error, (PayloadInvalid, ResultInvalid)):
        kind = "payload_invalid" if isinstance(error, PayloadInvalid) else "result_invalid"
        return failure(context.task_id, f"{kind}: {error}")
    return failure(context.task_id, _format_traceback(error), retry=isinstance(error, handler.retry_on))


def cancellation(context: Context) -> Line:
    return failure(context.task_id, _CANCELLED)


def _consume(values: Any, context: Context) -> Any:
    """Collect what a generator yields, and return what it returns. Raise TaskCancelled."""
    while True:
        try:
            context.chunk(next(values))
        except StopIteration as end:
            return end.value
        if context.cancelled:
            values.close()
            raise TaskCancelled(_CANCELLED)


def _format_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this package, which say nothing about the handler's mistake."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("runqy_sdk."):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
