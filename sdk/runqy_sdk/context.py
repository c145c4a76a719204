"""What a handler can know and do about its task."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from runqy_sdk.errors import TaskCancelled

Send = Callable[[dict[str, Any]], None]

_MESSAGE_MAX = 500  # the worker takes no longer one
_current: ContextVar[Context | None] = ContextVar("runqy_task", default=None)


class Context:
    """The task that a handler runs."""

    task_id: str
    queue: str
    attempt: int
    """1 for the first attempt."""
    max_retry: int
    """How often the task may be retried; it has at most one attempt more."""
    deadline: float | None
    """The Unix time in seconds at which the worker ends the attempt; None if the worker does not say."""
    request_id: str
    """The id of the request that created the task; empty if there was none."""
    traceparent: str
    """The trace context of the attempt (W3C); empty without one."""
    cancelled: bool
    """Whether the task was cancelled or has timed out. A handler that ends soon then keeps its process warm."""
    loaded: Any
    """What the function marked with `@load` returned."""

    def __init__(
        self,
        line: Mapping[str, Any],
        *,
        loaded: Any = None,
        send: Send,
        on_chunk: Callable[[Any], None] | None = None,
    ) -> None:
        self.task_id = str(line["task_id"])
        self.queue = str(line.get("queue") or "")
        self.attempt = int(line.get("attempt") or int(line.get("retry_count") or 0) + 1)
        self.max_retry = int(line.get("max_retry") or 0)
        self.deadline = line.get("deadline")
        self.request_id = str(line.get("request_id") or "")
        self.traceparent = str(line.get("traceparent") or "")
        self.loaded = loaded
        self.chunks: list[Any] = []
        self._send = send
        self._on_chunk = on_chunk
        self.cancelled = False

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
        self._send({"task_id": self.task_id, "progress": report})

    def chunk(self, value: Any) -> None:
        """Add a part of the result: a text, or a JSON value.

        If the handler returns None, the parts are the result: texts joined, other values as a list.
        """
        self.chunks.append(value)
        if self._on_chunk:
            self._on_chunk(value)


def current_context() -> Context | None:
    """Return the context of the task that this thread or coroutine runs."""
    return _current.get()


def set_current_context(context: Context | None) -> None:
    _current.set(context)


class TaskLogHandler(logging.StreamHandler):  # type: ignore[type-arg] # generic only in stubs
    """Writes log records to standard error, which is the task's output, and adds `task_id` and `queue` to each.

    `run()` installs it if the program has not configured logging.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.addFilter(_add_task)


def _add_task(record: logging.LogRecord) -> bool:
    context = current_context()
    if not hasattr(record, "task_id"):
        record.task_id = context.task_id if context else ""
        record.queue = context.queue if context else ""
    return True


def _amount(name: str, value: float) -> float:
    value = value.item() if hasattr(value, "item") else value  # a numpy scalar
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: {value!r} is not a number from 0")
    return value


_logger = logging.getLogger("runqy_sdk.task")
_logger.setLevel(logging.INFO)
