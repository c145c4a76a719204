"""Spans of requests, enqueues, waits and runs, if OTEL_EXPORTER_OTLP_ENDPOINT is set (docs/reference/metrics.md).

Otherwise OpenTelemetry is not imported, and the functions here do nothing.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from runqy.core.telemetry.otel import Tracer

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

log = structlog.get_logger(__name__)


_tracer: "Tracer | None" = None
_NO_SPAN: AbstractContextManager[None] = nullcontext()


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
