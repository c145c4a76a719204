"""The id of the current request. Responses, log lines, tasks and audit records contain it."""

import re
import secrets
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from runqy.core.telemetry.tracing import current_traceparent

REQUEST_ID, TRACEPARENT = "x-request-id", "traceparent"
"""The headers of a task's message for the id of the request that created the task, and for its trace."""

_GIVEN = re.compile(r"[!-~]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The header of W3C Trace Context. All zeros are invalid there, and so is the version ff."""

_current: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id(given: str = "") -> str:
    """Return the X-Request-ID of a client or proxy if it is valid, else a random id."""
    return given if _GIVEN.fullmatch(given) else secrets.token_hex(8)


@contextmanager
def request_id_context(given: str = "") -> Iterator[str]:
    """Yield the id of a request, as `new_request_id` returns it, which the `with` block has."""
    request_id = new_request_id(given)
    token = _current.set(request_id)
    try:
        yield request_id
    finally:
        _current.reset(token)


def current_request_id() -> str:
    """Return the id of the current request, or a new id outside of requests."""
    return _current.get() or new_request_id()


def set_request_id(request_id: str) -> None:
    """Set the id of the current request for the rest of this asyncio task."""
    _current.set(request_id)


def add_request_id(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the id of the current request to a log line, as a structlog processor."""
    if request_id := _current.get():
        event.setdefault("request_id", request_id)
    return event


def trace_headers(traceparent: str = "") -> dict[str, str]:
    """Return the headers of tasks that the current request enqueues: its id, and a trace context.

    The trace context is that of the current span. Without tracing it is the client's, if it is valid.
    """
    headers = {REQUEST_ID: current_request_id()}
    traceparent = current_traceparent() or traceparent
    if _TRACEPARENT.fullmatch(traceparent):
        headers[TRACEPARENT] = traceparent
    return headers
