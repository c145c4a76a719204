"""What a handler can know and do about its task."""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from runqy_sdk.cancellation import Cancellation
from runqy_sdk.errors import ResultInvalid, TaskCancelled
from runqy_sdk.results import encode_result

Send = Callable[[str], None]
"""Sends a line to the worker."""

MAX_CHUNK_BYTES = 64 << 10
"""The longest chunk that the worker takes, as JSON."""

_MESSAGE_MAX = 500  # the worker takes no longer one
_current: ContextVar[Context | None] = ContextVar("runqy_task", default=None)


class Context:
    """The task that a handler runs."""

    task_id: str
    cancelled: Cancellation
    """True once the task was cancelled or has timed out. A handler that ends soon then keeps its process warm.

    A coroutine can await it.
    """
    loaded: Any
    """What the function marked with `@load` returned."""

    def __init__(self, line: Mapping[str, Any], loaded: Any, send: Send, is_streaming: bool) -> None:
        self.task_id = str(line["task_id"])
        self.loaded = loaded
        self.cancelled = Cancellation()
        self.unsent_chunks: list[Any] = []
        self._line = line
        self._send = send
        self._is_streaming = is_streaming

    # Properties, because few handlers of short tasks look at them.

    @property
    def queue(self) -> str:
        return str(self._line.get("queue") or "")

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return int(self._line.get("attempt") or int(self._line.get("retry_count") or 0) + 1)

    @property
    def max_retry(self) -> int:
        """How often the task may be retried; it has at most one attempt more."""
        return int(self._line.get("max_retry") or 0)

    @property
    def deadline(self) -> float | None:
        """The Unix time in seconds at which the worker ends the attempt; None if the worker does not say."""
        return self._line.get("deadline")

    @property
    def request_id(self) -> str:
        """The id of the request that created the task; empty if there was none."""
        return str(self._line.get("request_id") or "")

    @property
    def traceparent(self) -> str:
        """The trace context of the attempt (W3C); empty without one."""
        return str(self._line.get("traceparent") or "")

    @functools.cached_property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry `task_id` and `queue`."""
        return logging.LoggerAdapter(_logger, {"task_id": self.task_id, "queue": self.queue})

    @property
    def remaining(self) -> float | None:
        """The seconds until the deadline, at least 0; None if the worker does not say."""
        return None if self.deadline is None else max(0.0, self.deadline - time.time())

    def check(self) -> None:
        """Raise TaskCancelled if the task was cancelled or has timed out."""
        if self.cancelled:
            raise TaskCancelled("the task was cancelled")

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Report how far the task is. `current` and `total` are at least 0. A message is cut after 500 characters."""
        report: dict[str, Any] = {"current": _amount("current", current)}
        if total is not None:
            report["total"] = _amount("total", total)
        if message is not None:
            report["message"] = message[:_MESSAGE_MAX]
        self._send(json.dumps({"task_id": self.task_id, "progress": report}))

    def chunk(self, value: Any) -> None:
        """Send a part of the result, a text or a JSON value of at most 64 KiB, to those who follow the task.

        If the handler returns None, the parts are the result: texts joined, other values as a list.
        """
        if not self._is_streaming:
            self.unsent_chunks.append(value)
            return
        chunk = encode_result(value, "chunk")
        if len(chunk) > MAX_CHUNK_BYTES:
            raise ResultInvalid(
                f"chunk: it has {len(chunk):,} bytes as JSON, and a chunk at most {MAX_CHUNK_BYTES:,}; "
                "send several smaller ones"
            )
        self._send(f'{{"task_id":{json.dumps(self.task_id)},"chunk":{chunk}}}')


def join_chunks(chunks: list[Any]) -> Any:
    """Return the result of a task that returned nothing else: its texts joined, or the list; None without chunks."""
    if all(isinstance(chunk, str) for chunk in chunks):
        return "".join(chunks) if chunks else None
    return chunks


def current_context() -> Context | None:
    """Return the context of the task that this thread or coroutine runs; None for several at once."""
    return _current.get()


set_current_context = _current.set


class TaskLogHandler(logging.StreamHandler):  # type: ignore[type-arg] # generic only in stubs
    """Sends the records of tasks to the worker, and writes all others to standard error.

    A worker that has no way for a task's records gets them on standard error too, as the output of its task. Each
    record gets `task_id` and `queue`. `run()` installs it if the program has not configured logging, or logs to its
    output only.
    """

    def __init__(self, send: Send | None = None, *, instead_of: logging.Handler | None = None) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] (generic only in stubs)
        self._send = send
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.addFilter(_add_task)
        if instead_of is not None:
            self.setLevel(instead_of.level)
            self.setFormatter(instead_of.formatter)
            self.filters += instead_of.filters

    def emit(self, record: logging.LogRecord) -> None:
        task_id = getattr(record, "task_id", "")
        if self._send is None or not task_id:
            super().emit(record)
            return
        try:
            self._send(json.dumps({"task_id": task_id, "log": self.format(record)}))
        except Exception:  # noqa: BLE001 (as logging's own handlers: a wrong record must not fail the task)
            self.handleError(record)


def _add_task(record: logging.LogRecord) -> bool:
    context = current_context()
    if not hasattr(record, "task_id"):
        record.task_id = context.task_id if context else ""
        record.queue = context.queue if context else ""
    return True


def _amount(name: str, value: Any) -> float:
    value = getattr(value, "item", lambda: value)()  # a numpy scalar
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: {value!r} is not a number from 0")
    return value


_logger = logging.getLogger("runqy_sdk.task")
_logger.setLevel(logging.INFO)
