"""Spans of requests, enqueues, waits and runs, if OTEL_EXPORTER_OTLP_ENDPOINT is set (docs/monitoring.md).

Otherwise OpenTelemetry is not imported, and the functions here do nothing.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import structlog

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

log = structlog.get_logger(__name__)


class RequestSpan(Protocol):
    """The span of an HTTP request."""

    def set_response(self, route: str, status: int) -> None:
        """Set the route's template and the status of the response."""


class RunSpan(Protocol):
    """The span of a run. Its child process gets the `traceparent`."""

    traceparent: str

    def end(self, outcome: str, *, is_error: bool, now_ns: int) -> None:
        """End the span with the run's outcome, but without the error's text, which may contain data of the task."""


class Tracer(Protocol):
    """Creates spans. The only implementation is in `runqy.telemetry.otel`."""

    def request(self, method: str, traceparent: str) -> AbstractContextManager[RequestSpan]:
        """Return the span of a request, a child of the client's span."""

    def enqueue(self, queue: str, traceparent: str) -> AbstractContextManager[None]:
        """Return the span of enqueueing, a child of the request's span, or of the client's outside of requests."""

    def current_traceparent(self) -> str:
        """Return the trace context of the current span; empty if there is none."""

    def start_run(self, task_id: str, queue: str, traceparent: str, *, pending_since_ns: int, now_ns: int) -> RunSpan:
        """Record how long a task waited, and return the span of its run. Both are children of the enqueue's span."""


_tracer: Tracer | None = None
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def start_tracing(service: str) -> None:
    """Export spans from now on, if the environment says where to. Call it once in a process, after its fork."""
    global _tracer  # noqa: PLW0603 (a process starts once)
    if _tracer is not None or not any(os.environ.get(name) for name in _VARIABLES):
        return
    try:
        from runqy.telemetry.otel import OtelTracer  # noqa: PLC0415 (an optional dependency)
    except ImportError:
        log.warning("tracing_unavailable", reason="OpenTelemetry is not installed: pip install runqy[otel]")
    else:
        _tracer = OtelTracer(service)


def get_tracer() -> Tracer | None:
    """Return the tracer; None if tracing is off."""
    return _tracer


def enqueue_span(queue: str, traceparent: str) -> AbstractContextManager[None]:
    """Trace the `with` block that enqueues tasks. `traceparent` is the client's."""
    return _NO_SPAN if _tracer is None else _tracer.enqueue(queue, traceparent)


def current_traceparent() -> str:
    """Return the trace context of the current span; empty if there is none, or if tracing is off."""
    return "" if _tracer is None else _tracer.current_traceparent()
