"""The hot routes on the event loop: authenticate, authorise and throttle as DRF does for a route's view, and respond.

What a route does is a coroutine that its view runs too. Roles and throttles are those of the view; authentication uses
the functions that it calls.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from django.conf import settings
from django.urls import resolve

from batches.api.hot_actions import stream_batch_events
from batches.waiting import wait_for_batch
from queues.queries import get_catalog
from runqy.accounts.authentication import PublicResultAuthentication, authenticate_key, presented_key, public_identity
from runqy.accounts.identities import accept_key, may_be_new
from runqy.api.exceptions import log_unavailable
from runqy.api.parsers import check_encoding, check_size
from runqy.api.permissions import find_refusal, get_roles
from runqy.api.renderers import encode_json
from runqy.api.throttling import ApiKeyThrottle, failure_limiter, key_limiter
from runqy.core.api_keys import Identity
from runqy.core.telemetry.tracing import get_tracer
from runqy.errors import (
    ClientDisconnected,
    ConfigurationUnavailable,
    KeyInsufficient,
    KeyRequired,
    QueueNotFound,
    RunqyError,
)
from runqy.server.dataplane.application import Handler, PassToDjango
from runqy.server.dataplane.background_tasks import BackgroundTasks
from runqy.server.dataplane.bodies import find_length
from runqy.server.dataplane.request import ParsedRequest
from runqy.server.dataplane.responses import (
    Headers,
    Response,
    StreamingResponse,
    empty_response,
    encode_headers,
    json_response,
    problem_response,
    shared_headers,
)
from runqy.server.metrics.http_requests import observe_request
from runqy.server.middleware import forwarded_client
from tasks.api import hot_actions
from tasks.api.calls import Call, HotAction, Result, parse_wait, waiting_client
from tasks.api.streaming import StreamBody
from tasks.waiting import ResultWaiters

if TYPE_CHECKING:
    from runqy.core.telemetry.otel import Tracer

_PARAMETERS = {
    "task_id": r"(?P<task_id>(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%2[Ff])+)",
    "batch_id": r"(?P<batch_id>[0-9a-f-]+)",
    "queue": r"(?P<queue>[A-Za-z0-9._-]+)",
}
"""The patterns of what a template names."""


class HotRoute:
    """A route on the event loop, the coroutine that responds, and the view that runs the same coroutine in Django."""

    def __init__(
        self, method: str, template: str, action: HotAction, serves: Callable[..., bool] | None = None
    ) -> None:
        """`serves` is called with the request and the path's parameters: Django responds where it is False."""
        self.method, self.template, self.action, self.serves = method, template, action, serves
        self.pattern = re.compile(template.format_map(_PARAMETERS))
        found: Any = resolve(template).func
        self.view = found.cls(**found.initkwargs, action=found.actions[method.lower()])
        self.allow: Headers = [(b"allow", b"GET, HEAD" if method == "GET" else b"POST")]
        self._roles = get_roles(self.view, method)
        self.is_public = PublicResultAuthentication in self.view.authentication_classes
        self.is_throttled = ApiKeyThrottle in self.view.throttle_classes

    def find_refusal(self, identity: Identity) -> str:
        """Return why a key is refused, as `HasRole` does; empty if it is allowed."""
        scoped = self.view.allows_queue_scoped_keys
        return find_refusal(identity, roles=self._roles, allows_queue_scoped_keys=scoped)


def _follows(request: ParsedRequest, *, queue: str, **_: str) -> bool:
    """Return whether a client follows the logs of a task in a queue that need not be looked up."""
    try:
        return (request.query.get("follow") or "").lower() == "true" and get_catalog().find(queue) is not None
    except ConfigurationUnavailable:
        return False


def make_routes() -> tuple[HotRoute, ...]:
    """Return the hot routes; the first one that matches a path counts."""
    return (
        HotRoute("POST", "/queue/add", hot_actions.enqueue),
        HotRoute("POST", "/queue/add-batch", hot_actions.enqueue_batch),
        HotRoute("GET", "/queue/{task_id}", hot_actions.show_task),
        HotRoute("GET", "/queue/{task_id}/events", hot_actions.stream_events),
        HotRoute("GET", "/queue/{task_id}/stream", hot_actions.stream_chunks),
        HotRoute("GET", "/batches/{batch_id}/events", stream_batch_events),
        HotRoute("GET", "/api/cli/queues/{queue}/tasks/{task_id}/logs", hot_actions.follow_output, _follows),
    )


class HotEndpoints:
    """Finds the hot route of a request, and responds."""

    def __init__(self, background: BackgroundTasks, waiters: ResultWaiters) -> None:
        self._background, self._waiters = background, waiters
        self.routes = make_routes()
        self._batch_route = HotRoute("GET", "/batches/{batch_id}", stream_batch_events)
        # The number of requests in progress.
        self.in_flight = 0

    def find_handler(self, method: str, path: str) -> Handler | None:
        """Return the handler of a method and path. None: Django serves the request, as it does most percent-encoded
        paths.
        """
        for route in self.routes:
            if found := route.pattern.fullmatch(path):
                if method != route.method:
                    return None
                return partial(
                    self._respond, route, {name: unquote(value) for name, value in found.groupdict().items()}
                )
        if method == "GET" and (found := self._batch_route.pattern.fullmatch(path)):
            return partial(self._wait_for_batch, found["batch_id"])
        return None

    async def _wait_for_batch(self, batch_id: str, request: ParsedRequest) -> Response:
        """Wait for a batch where that costs no thread. Django responds, also to a client that must not wait.

        An error of the server is the response itself.
        """
        try:
            wait = parse_wait(request.query.get("wait"), request.headers)
            identity = accept_key(presented_key(request.headers)) if wait.seconds else None
            if identity is None or self._batch_route.find_refusal(identity):
                raise PassToDjango
            self.in_flight += 1
            try:
                client = waiting_client(request.headers, identity)
                waiting = wait_for_batch(self._waiters, batch_id, client=client, timeout_s=wait.seconds)
                await request.until_disconnect(waiting)
                request.has_waited = True
            finally:
                self.in_flight -= 1
        except RunqyError as error:
            if error.status < 500:
                raise PassToDjango from error
            # Django would read the batch again, on a thread of all others.
            log_unavailable(error)
            response = problem_response(error)
            response.headers += self._batch_route.allow
            response.headers += shared_headers(request.scope["scheme"], request.headers.get("Origin", ""))
            _observe(request, self._batch_route.template, response.status)
            return response
        raise PassToDjango

    async def _respond(
        self, route: HotRoute, parameters: Mapping[str, str], request: ParsedRequest
    ) -> Response | StreamingResponse:
        """Return the response to a request, and observe it. Raise PassToDjango, ClientDisconnected."""
        if route.serves is not None and not route.serves(request, **parameters):
            raise PassToDjango
        self.in_flight += 1
        tracer = get_tracer()
        serving = self._serve(route, parameters, request)
        try:
            response = await (serving if tracer is None else _trace(tracer, request, route, serving))
        except ClientDisconnected as error:
            _observe(request, route.template, error.status)
            raise
        finally:
            self.in_flight -= 1
        _observe(request, route.template, response.status)
        return response

    async def _serve(
        self, route: HotRoute, parameters: Mapping[str, str], request: ParsedRequest
    ) -> Response | StreamingResponse:
        headers, scope = request.headers, request.scope
        address, scheme = forwarded_client(
            request.peer_address,
            scope["scheme"],
            forwarded_for=headers.get("X-Forwarded-For", ""),
            forwarded_proto=headers.get("X-Forwarded-Proto", ""),
        )
        # Django's middleware responds to both: it redirects to https, and refuses NUL.
        if (settings.SECURE_SSL_REDIRECT and scheme != "https") or b"%00" in scope["query_string"]:
            raise PassToDjango
        rate_limit: dict[str, str] = {}
        try:
            identity = await self._authenticate(route, request, address, rate_limit)
            if refusal := route.find_refusal(identity):
                raise KeyInsufficient(refusal)
            if route.is_throttled:
                await self._throttle(identity, rate_limit)
            call = Call(
                identity=identity,
                headers=headers,
                body=await _read_body(request) if route.method == "POST" else b"",
                release=request.body.release,
                query=request.query,
                wait=request.until_disconnect,
            )
            response = _render(await self._run(route, call, parameters))
        except RunqyError as error:
            log_unavailable(error)
            response = problem_response(error)
        response.headers += route.allow
        response.headers += encode_headers(rate_limit)
        response.headers += shared_headers(scheme, headers.get("Origin", ""))
        return response

    async def _authenticate(
        self, route: HotRoute, request: ParsedRequest, address: str, rate_limit: dict[str, str]
    ) -> Identity:
        """Return the identity of a request's key. Raise KeyRequired, TooManyFailures, ConfigurationUnavailable.

        The headers about a limit are added to `rate_limit`.
        """
        key = presented_key(request.headers)
        if not key:
            if settings.RUNQY_PUBLIC_RESULTS and route.is_public:
                return public_identity(address)
            raise KeyRequired
        if identity := accept_key(key):
            return identity
        if may_be_new(key):
            await self._background.refresh_for_unknown()
        limiter = failure_limiter(address)
        try:
            identity = await authenticate_key(self._waiters.broker, key, limiter)
        finally:
            rate_limit.update(limiter.headers)
        if identity is None:
            raise KeyRequired
        return identity

    async def _throttle(self, identity: Identity, rate_limit: dict[str, str]) -> None:
        """Count a request. Raise TooManyRequests."""
        limiter = key_limiter(identity)
        if limiter.rate is None:
            return
        try:
            await limiter.count(self._waiters.broker)
        finally:
            rate_limit.update(limiter.headers)

    async def _run(self, route: HotRoute, call: Call, parameters: Mapping[str, str]) -> Result:
        """Run a coroutine. Repeat it if it did not find its queue and the snapshot was outdated."""
        try:
            return await route.action(self._waiters.broker, self._waiters, call, **parameters)
        except QueueNotFound:
            if not await self._background.refresh_for_unknown():
                raise
        return await route.action(self._waiters.broker, self._waiters, call, **parameters)


async def _read_body(request: ParsedRequest) -> bytes:
    check_encoding(request.headers.get("Content-Encoding", ""))
    check_size(find_length(request.scope) or 0)
    return await request.read_body(is_authenticated=True)


def _render(result: Result) -> Response | StreamingResponse:
    value = result.value
    if isinstance(value, StreamBody):
        return StreamingResponse(result.status, [*encode_headers(result.headers)], value)
    if value is None:
        return empty_response(result.status, result.headers)
    return json_response(encode_json(value), result.status, result.headers)


async def _trace(
    tracer: "Tracer", request: ParsedRequest, route: HotRoute, serving: Awaitable[Response | StreamingResponse]
) -> Response | StreamingResponse:
    with tracer.request(request.method, request.headers.get("traceparent", "")) as span:
        response = await serving
        span.set_response(route.template, response.status)
    return response


def _observe(request: ParsedRequest, route: str, status: int) -> None:
    observe_request(
        route,
        request.method,
        status,
        began_s=request.began_s,
        query=request.scope["query_string"],
        prefer=request.headers.get("Prefer", ""),
    )
