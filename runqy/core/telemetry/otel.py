"""OpenTelemetry spans, exported over HTTP. Imported only if configured: OpenTelemetry is an optional dependency."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

MAX_NAME_LENGTH = 128
"""The limit of a queue's name in a span. Clients can send any name."""

_propagator = TraceContextTextMapPropagator()


class RequestSpan:
    """The span of an HTTP request."""

    def __init__(self, span: Span, method: str) -> None:
        self._span, self._method = span, method

    def set_response(self, route: str, status: int) -> None:
        """Set the route's template and the status of the response."""
        self._span.update_name(f"{self._method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


class RunSpan:
    """The span of a run. Its child process gets the `traceparent`."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = _format(span)

    def end(self, outcome: str, *, is_error: bool, now_ns: int) -> None:
        """End the span with the run's outcome, but without the error's text, which may contain data of the task."""
        self._span.set_attribute("runqy.outcome", outcome)
        if is_error:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(now_ns)


class Tracer:
    """Creates spans. A thread exports them in batches, the last ones when the process exits."""

    def __init__(self, service: str) -> None:
        """`service` is the name of the service, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES sets another."""
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer("runqy")

    @contextmanager
    def request(self, method: str, traceparent: str) -> Iterator[RequestSpan]:
        """Trace a request, as a child of the client's span."""
        attributes = {"http.request.method": method}
        with self._tracer.start_as_current_span(
            method, _parent(traceparent), kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            yield RequestSpan(span, method)

    @contextmanager
    def enqueue(self, queue: str, traceparent: str) -> Iterator[None]:
        """Trace enqueueing, as a child of the request's span, or of the client's outside of requests."""
        parent = None if trace.get_current_span().get_span_context().is_valid else _parent(traceparent)
        with self._tracer.start_as_current_span(
            f"enqueue {queue[:MAX_NAME_LENGTH]}", parent, kind=SpanKind.PRODUCER, attributes=_messaging(queue)
        ):
            yield

    def current_traceparent(self) -> str:
        """Return the trace context of the current span; empty if there is none."""
        return _format(trace.get_current_span())

    def start_run(self, task_id: str, queue: str, traceparent: str, *, pending_since_ns: int, now_ns: int) -> RunSpan:
        """Record how long a task waited, and return the span of its run. Both are children of the enqueue's span."""
        parent = _parent(traceparent)
        attributes = _messaging(queue) | {"messaging.message.id": task_id}
        if 0 < pending_since_ns < now_ns:
            waited = self._tracer.start_span(
                f"wait {queue}", parent, attributes=attributes, start_time=pending_since_ns
            )
            waited.end(now_ns)
        run = self._tracer.start_span(
            f"run {queue}", parent, kind=SpanKind.CONSUMER, attributes=attributes, start_time=now_ns
        )
        return RunSpan(run)


def _messaging(queue: str) -> dict[str, str]:
    return {"messaging.system": "runqy", "messaging.destination.name": queue[:MAX_NAME_LENGTH]}


def _parent(traceparent: str) -> Context:
    """Return the context of a `traceparent`. If it is missing or invalid, the context is empty, and begins a trace."""
    return _propagator.extract({"traceparent": traceparent} if traceparent else {}, Context())


def _format(span: Span) -> str:
    """Return the `traceparent` of a span; empty if the span is not valid."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")
