"""Spans of requests, enqueues, waits and runs, if OTEL_EXPORTER_OTLP_ENDPOINT is set (docs/monitoring.md).

Otherwise OpenTelemetry is not imported, and every function here returns at once.
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
    """The span of a run, and its trace context for the child process."""

    traceparent: str

    def end(self, outcome: str, *, is_error: bool, now_ns: int) -> None:
        """End the span, with how the run ended; never with the text of an error, which may hold data of a task."""


class Tracer(Protocol):
    """What creates spans; `runqy.telemetry.otel` has the only one."""

    def request(self, method: str, traceparent: str) -> AbstractContextManager[RequestSpan]:
        """Return the span of a request, a child of the client's."""

    def enqueue(self, queue: str, traceparent: str) -> AbstractContextManager[None]:
        """Return the span of enqueueing, a child of the request's, or of the client's outside of one."""

    def current_traceparent(self) -> str:
        """Return the trace context of the current span; empty without one."""

    def start_run(self, task_id: str, queue: str, traceparent: str, *, pending_since_ns: int, now_ns: int) -> RunSpan:
        """Record how long a task waited, and return the span of its run; both are children of the enqueue's."""


_tracer: Tracer | None = None
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def start_tracing(service: str) -> None:
    """Export spans from now on, if the environment says where to. Called once by a process, after it was forked."""
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
    """Return what creates spans; None if nothing is traced."""
    return _tracer


def enqueue_span(queue: str, traceparent: str) -> AbstractContextManager[None]:
    """Trace the `with` block that enqueues tasks; `traceparent` is the client's."""
    return _NO_SPAN if _tracer is None else _tracer.enqueue(queue, traceparent)


def current_traceparent() -> str:
    """Return the trace context of the current span; empty without one, or if nothing is traced."""
    return "" if _tracer is None else _tracer.current_traceparent()
