"""The id of the current request, which responses, log lines, tasks and audit records contain, and spans.

There are spans of requests, enqueues, waits and runs if OTEL_EXPORTER_OTLP_ENDPOINT is set
(docs/reference/metrics.md). Otherwise OpenTelemetry is not imported, and the functions about spans do nothing.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from runqy.core.telemetry.otel import Tracer

import re
import secrets
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


_tracer: "Tracer | None" = None
_NO_SPAN: AbstractContextManager[None] = nullcontext()
REQUEST_ID, TRACEPARENT = "x-request-id", "traceparent"
"""The headers of a task's message for the id of the request that created the task, and for its trace."""

log = structlog.get_logger(__name__)


def start_tracing(service: str) -> None:
    """Export spans from now on, if the environment says where to. Call it once in a process, after its fork."""
    global _tracer  # noqa: PLW0603 (a process starts once)
    if _tracer is not None or not any(os.environ.get(name) for name in _VARIABLES):
        return
    try:
        from runqy.core.telemetry.otel import Tracer  # noqa: PLC0415 (an optional dependency)
    except ImportError:
        log.warning("tracing_unavailable", reason="OpenTelemetry is not installed: pip install runqy[otel]")
    else:
        _tracer = Tracer(service)


def get_tracer() -> "Tracer | None":
    """Return the tracer; None if tracing is off."""
    return _tracer


def enqueue_span(queue: str, traceparent: str) -> AbstractContextManager[None]:
    """Trace the `with` block that enqueues tasks. `traceparent` is the client's."""
    return _NO_SPAN if _tracer is None else _tracer.enqueue(queue, traceparent)


def current_traceparent() -> str:
    """Return the trace context of the current span; empty if there is none, or if tracing is off."""
    return "" if _tracer is None else _tracer.current_traceparent()


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
