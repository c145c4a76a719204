"""The hot routes on the event loop, with the same operations, parsers and serializers as the viewsets.

Roles and throttles are those of the route's view; authentication, parsing and rendering use the functions that it
calls.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import unquote

from django.conf import settings
from django.urls import resolve

from batches.api.events import open_batch_stream
from batches.waiting import wait_for_batch
from queues.queries import get_catalog
from runqy.accounts.identities import accept_key, may_be_new
from runqy.api.authentication import PublicResultAuthentication, authenticate_key, presented_key, public_identity
from runqy.api.exceptions import log_unavailable
from runqy.api.parsers import check_encoding, check_size, parse_idempotency_key
from runqy.api.permissions import find_refusal_of_view
from runqy.api.renderers import encode_json
from runqy.api.throttling import ApiKeyThrottle, failure_limiter, key_limiter
from runqy.api.viewsets import ApiViewSet
from runqy.api_keys import Identity
from runqy.broker.async_broker import AsyncBroker
from runqy.dataplane.application import Handler, PassToDjango
from runqy.dataplane.background_tasks import BackgroundTasks
from runqy.dataplane.bodies import find_length
from runqy.dataplane.request import ParsedRequest
from runqy.dataplane.responses import (
    Headers,
    Response,
    StreamingResponse,
    empty_response,
    encode_headers,
    json_response,
    problem_response,
    shared_headers,
)
from runqy.errors import (
    ClientDisconnected,
    ConfigurationUnavailable,
    KeyInsufficient,
    KeyRequired,
    QueueNotFound,
    RunqyError,
)
from runqy.http.middleware import forwarded_client
from runqy.http.request_ids import trace_headers
from runqy.metrics.http_requests import observe_request
from runqy.telemetry.tracing import enqueue_span, get_tracer
from tasks.api.chunk_streams import open_chunk_stream
from tasks.api.enqueue_bodies import parse_add_batch, parse_enqueue, parse_enqueue_key
from tasks.api.events import EVENT_HEADERS, EVENT_TYPE, is_end_known, open_event_stream
from tasks.api.logs import END_ID, LogQuerySerializer, find_position, open_output_stream
from tasks.api.serializers import add_batch_response, enqueue_response, parse_wants_payload, task_response
from tasks.api.waits import enqueue_head, parse_wait, task_head, waiting_client
from tasks.enqueue_many import enqueue_tasks
from tasks.operations import enqueue_task
from tasks.queries import get_task, read_task_output
from tasks.waiting import ResultWaiters

if TYPE_CHECKING:
    from runqy.telemetry.otel import Tracer

T = TypeVar("T")

_PARAMETERS = {
    "task_id": r"(?P<task_id>(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%2[Ff])+)",
    "batch_id": r"(?P<batch_id>[0-9a-f-]+)",
    "queue": r"(?P<queue>[A-Za-z0-9._-]+)",
}
"""The patterns of what a template names."""


@dataclass(slots=True)
class Call:
    """A request in progress, and the headers about its rate limit."""

    request: ParsedRequest
    address: str
    rate_limit_headers: dict[str, str]


Respond: TypeAlias = Callable[..., Awaitable[Response | StreamingResponse]]
"""Called with the Call, the Identity and the path's parameters."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """A route on the event loop, and the view that serves it in Django, whose authentication, roles and throttles
    apply.
    """

    method: str
    template: str
    handle: Callable[..., Awaitable[Response | StreamingResponse]]
    """Called with the route, the path's parameters and the request."""
    view: ApiViewSet
    pattern: re.Pattern[str]

    @classmethod
    def find(cls, method: str, template: str, handle: Respond) -> "HotRoute":
        """Return the route with the view that Django's routes have for it."""
        found: Any = resolve(template).func
        view = found.cls(**found.initkwargs, action=found.actions[method.lower()])
        return cls(method, template, handle, view, re.compile(template.format_map(_PARAMETERS)))

    def find_refusal(self, identity: Identity) -> str:
        return find_refusal_of_view(identity, self.view, self.method)


class TaskEndpoints:
    def __init__(self, broker: AsyncBroker, background: BackgroundTasks, waiters: ResultWaiters) -> None:
        self._broker = broker
        self._background = background
        self._waiters = waiters
        self.routes = (
            HotRoute.find("POST", "/queue/add", partial(self._observe, self._enqueue)),
            HotRoute.find("POST", "/queue/add-batch", partial(self._observe, self._enqueue_batch)),
            HotRoute.find("GET", "/queue/{task_id}", partial(self._observe, self._get_task)),
            HotRoute.find("GET", "/queue/{task_id}/events", partial(self._observe, self._stream_events)),
            HotRoute.find("GET", "/queue/{task_id}/stream", partial(self._observe, self._stream_chunks)),
            HotRoute.find("GET", "/batches/{batch_id}", self._wait_for_batch),
            HotRoute.find("GET", "/batches/{batch_id}/events", partial(self._observe, self._stream_batch_events)),
            HotRoute.find("GET", "/api/cli/queues/{queue}/tasks/{task_id}/logs", self._follow),
        )
        # The number of requests in progress.
        self.in_flight = 0

    def find_handler(self, method: str, path: str) -> Handler | None:
        """Return the handler of a method and path. None: Django serves the request, as it does most percent-encoded
        paths.
        """
        for route in self.routes:
            if found := route.pattern.fullmatch(path):
                parameters = {name: unquote(value) for name, value in found.groupdict().items()}
                return partial(route.handle, route, parameters) if method == route.method else None
        return None

    async def _follow(
        self, route: HotRoute, parameters: dict[str, str], request: ParsedRequest
    ) -> Response | StreamingResponse:
        """Stream the output of a task. Django serves requests without `follow`, and those for queues it may have to
        look up.
        """
        try:
            resolved = get_catalog().find(parameters["queue"])
        except ConfigurationUnavailable:
            raise PassToDjango from None
        if resolved is None or (request.query_param("follow") or "").lower() != "true":
            raise PassToDjango
        return await self._observe(self._stream_output, route, parameters, request)

    async def _wait_for_batch(self, route: HotRoute, parameters: dict[str, str], request: ParsedRequest) -> Response:
        """Wait for a batch where that costs no thread. Django responds, also to a client that must not wait."""
        try:
            wait = parse_wait(request.query_param("wait"), request.headers)
            identity = accept_key(presented_key(request.headers)) if wait.seconds else None
            if identity is None or route.find_refusal(identity):
                raise PassToDjango
            self.in_flight += 1
            try:
                client = waiting_client(request.headers, identity)
                waiting = wait_for_batch(self._waiters, **parameters, client=client, timeout_s=wait.seconds)
                await request.until_disconnect(waiting)
                request.has_waited = True
            finally:
                self.in_flight -= 1
        except RunqyError as error:
            raise PassToDjango from error
        raise PassToDjango

    async def _observe(
        self, respond: Respond, route: HotRoute, parameters: dict[str, str], request: ParsedRequest
    ) -> Response | StreamingResponse:
        self.in_flight += 1
        tracer = get_tracer()
        try:
            serving = self._serve(request, route, partial(respond, **parameters))
            response = await (serving if tracer is None else _trace(tracer, request, route, serving))
        except ClientDisconnected as error:
            _record(request, route.template, error.status)
            raise
        finally:
            self.in_flight -= 1
        _record(request, route.template, response.status)
        return response

    async def _serve(self, request: ParsedRequest, route: HotRoute, respond: Respond) -> Response | StreamingResponse:
        """Authenticate, authorise and throttle a request as DRF does for the route's view, then respond."""
        address, scheme = forwarded_client(
            request.peer_address,
            request.scope["scheme"],
            forwarded_for=request.headers.get("X-Forwarded-For", ""),
            forwarded_proto=request.headers.get("X-Forwarded-Proto", ""),
        )
        # Django's middleware responds to both: it redirects to https, and refuses NUL.
        if (settings.SECURE_SSL_REDIRECT and scheme != "https") or b"%00" in request.scope["query_string"]:
            raise PassToDjango
        call = Call(request, address, {})
        try:
            identity = await self._authenticate(call, route.view)
            if refusal := route.find_refusal(identity):
                raise KeyInsufficient(refusal)
            await self._throttle(call, identity, route.view)
            response = await respond(call, identity)
        except RunqyError as error:
            log_unavailable(error)
            response = problem_response(error)
        allow: Headers = [(b"allow", b"GET, HEAD" if request.method == "GET" else b"POST")]
        response.headers += [*allow, *encode_headers(call.rate_limit_headers)]
        response.headers += shared_headers(scheme, request.headers.get("Origin", ""))
        return response

    async def _authenticate(self, call: Call, view: ApiViewSet) -> Identity:
        """Return the identity of a request's key. Raise KeyRequired, TooManyFailures, ConfigurationUnavailable."""
        key = presented_key(call.request.headers)
        if not key:
            if settings.RUNQY_PUBLIC_RESULTS and PublicResultAuthentication in view.authentication_classes:
                return public_identity(call.address)
            raise KeyRequired
        if identity := accept_key(key):
            return identity
        if may_be_new(key):
            await self._background.refresh_for_unknown()
        limiter = failure_limiter(call.address)
        try:
            identity = await authenticate_key(self._broker, key, limiter)
        finally:
            call.rate_limit_headers = limiter.headers
        if identity is None:
            raise KeyRequired
        return identity

    async def _throttle(self, call: Call, identity: Identity, view: ApiViewSet) -> None:
        if ApiKeyThrottle not in view.throttle_classes:
            return
        limiter = key_limiter(identity)
        if limiter.rate is None:
            return
        try:
            await limiter.count(self._broker)
        finally:
            call.rate_limit_headers = limiter.headers or call.rate_limit_headers

    async def _enqueue(self, call: Call, identity: Identity) -> Response:
        request = call.request
        body = await self._read_body(request)
        task = parse_enqueue(body)
        wait = parse_wait(request.query_param("wait"), request.headers)
        key = parse_enqueue_key(request.headers.get("Idempotency-Key"), identity=identity, body=body, task=task)
        traceparent = request.headers.get("traceparent", "")
        with enqueue_span(task.queue, traceparent):
            headers = trace_headers(traceparent)
            enqueued = await self._run(
                lambda: enqueue_task(
                    self._broker,
                    task,
                    is_awaited=wait.seconds > 0,
                    allowed_queues=identity.queues,
                    headers=headers,
                    idempotency_key=key,
                )
            )
        awaited = None
        if wait.seconds:
            waiting = self._waiters.wait_for_queued(
                enqueued.record.id,
                queue=enqueued.record.queue,
                client=waiting_client(request.headers, identity),
                timeout_s=wait.seconds,
            )
            awaited = await request.until_disconnect(waiting)
        status, head = enqueue_head(enqueued, awaited, wait)
        return json_response(encode_json(enqueue_response(enqueued, task, awaited)), status, headers=head)

    async def _enqueue_batch(self, call: Call, identity: Identity) -> Response:
        request = call.request
        body = await self._read_body(request)
        spec = replace(parse_add_batch(body), owner=identity.owner)
        key = parse_idempotency_key(request.headers.get("Idempotency-Key"), identity=identity, kind="batch", body=body)
        traceparent = request.headers.get("traceparent", "")
        with enqueue_span(spec.queue, traceparent):
            headers = trace_headers(traceparent)
            enqueued = await self._run(
                lambda: enqueue_tasks(
                    self._broker, spec=spec, allowed_queues=identity.queues, headers=headers, idempotency_key=key
                )
            )
        replayed = {"Idempotent-Replayed": "true"} if enqueued.is_replayed else None
        return json_response(encode_json(add_batch_response(enqueued)), headers=replayed)

    async def _get_task(self, call: Call, identity: Identity, *, task_id: str) -> Response:
        request = call.request
        wait = parse_wait(request.query_param("wait"), request.headers)
        wants_payload = parse_wants_payload(request.query_param("payload"))
        record = await self._run(
            lambda: get_task(self._broker, task_id, allowed_queues=identity.queues, wants_payload=wants_payload)
        )
        if wait.seconds and not record.state.is_final:
            client = waiting_client(request.headers, identity, wants_payload=wants_payload)
            waiting = self._waiters.wait_for_end(task_id, queue=record.queue, client=client, timeout_s=wait.seconds)
            del record  # thousands may wait, and its payload may be large
            record = await request.until_disconnect(waiting)
        body = encode_json(task_response(record))
        status, head = task_head(record, body, wait, request.headers)
        return empty_response(status, head) if status == 304 else json_response(body, status, headers=head)

    async def _stream_events(self, call: Call, identity: Identity, *, task_id: str) -> Response | StreamingResponse:
        headers = call.request.headers
        last_event_id = headers.get("Last-Event-ID", "")
        record = await self._run(lambda: get_task(self._broker, task_id, allowed_queues=identity.queues))
        if is_end_known(record, last_event_id):
            return empty_response(204, EVENT_HEADERS)
        stream = await open_event_stream(
            self._waiters,
            record,
            client=waiting_client(headers, identity),
            last_event_id=last_event_id,
        )
        head = {"Content-Type": EVENT_TYPE} | EVENT_HEADERS
        return StreamingResponse(200, [*encode_headers(head)], stream)

    async def _stream_chunks(self, call: Call, identity: Identity, *, task_id: str) -> StreamingResponse:
        headers = call.request.headers
        record = await self._run(lambda: get_task(self._broker, task_id, allowed_queues=identity.queues))
        stream, content_type = await call.request.until_disconnect(
            open_chunk_stream(
                self._waiters,
                record,
                client=waiting_client(headers, identity),
                accept=headers.get("Accept", ""),
            )
        )
        head = {"Content-Type": content_type} | EVENT_HEADERS
        return StreamingResponse(200, [*encode_headers(head)], stream)

    async def _stream_output(
        self, call: Call, identity: Identity, *, queue: str, task_id: str
    ) -> Response | StreamingResponse:
        request = call.request
        last_event_id = request.headers.get("Last-Event-ID", "")
        attempt = request.query_param("attempt")
        query = LogQuerySerializer.validated({} if attempt is None else {"attempt": attempt})
        position = find_position(query["attempt"], last_event_id)
        resolved = get_catalog().resolve(queue, allowed_queues=identity.queues)
        location = resolved.redis_queue, task_id
        if last_event_id == END_ID:
            await read_task_output(self._broker, location)
            return empty_response(204, EVENT_HEADERS)
        stream = await open_output_stream(
            self._waiters,
            location,
            position,
            client=waiting_client(request.headers, identity),
        )
        head = {"Content-Type": EVENT_TYPE} | EVENT_HEADERS
        return StreamingResponse(200, [*encode_headers(head)], stream)

    async def _stream_batch_events(
        self, call: Call, identity: Identity, *, batch_id: str
    ) -> Response | StreamingResponse:
        headers = call.request.headers
        stream = await open_batch_stream(
            self._waiters,
            batch_id,
            client=waiting_client(headers, identity),
            last_event_id=headers.get("Last-Event-ID", ""),
        )
        if stream is None:
            return empty_response(204, EVENT_HEADERS)
        head = {"Content-Type": EVENT_TYPE} | EVENT_HEADERS
        return StreamingResponse(200, [*encode_headers(head)], stream)

    async def _run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation. Repeat it if it did not find its queue and the snapshot was outdated."""
        try:
            return await operation()
        except QueueNotFound:
            if not await self._background.refresh_for_unknown():
                raise
        return await operation()

    @staticmethod
    async def _read_body(request: ParsedRequest) -> bytes:
        check_encoding(request.headers.get("Content-Encoding", ""))
        check_size(find_length(request.scope) or 0)
        return await request.read_body(is_authenticated=True)


async def _trace(
    tracer: "Tracer", request: ParsedRequest, route: HotRoute, serving: Awaitable[Response | StreamingResponse]
) -> Response | StreamingResponse:
    with tracer.request(request.method, request.headers.get("traceparent", "")) as span:
        response = await serving
        span.set_response(route.template, response.status)
    return response


def _record(request: ParsedRequest, route: str, status: int) -> None:
    observe_request(
        route,
        request.method,
        status,
        began_s=request.began_s,
        query=request.scope["query_string"],
        prefer=request.headers.get("Prefer", ""),
    )
