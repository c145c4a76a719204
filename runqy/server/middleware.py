"""Middleware: request durations and ids, body size, trusted proxies, security headers, current configuration.

In the admin also: host check, audit actor, warning about unpublished changes.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from time import perf_counter

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import BadRequest, MiddlewareNotUsed, RequestDataTooBig
from django.http import HttpRequest, HttpResponsePermanentRedirect
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware

from runqy.audit.actors import SERVER, Actor, ActorKind, actor_context
from runqy.configuration import snapshot
from runqy.configuration.operations import NOT_PUBLISHED, publication_result
from runqy.core.api_keys import Identity
from runqy.core.environment.connection_urls import parse_address
from runqy.core.telemetry.tracing import current_request_id, get_tracer, request_id_context
from runqy.server.metrics.http_requests import OTHER, observe_request, requests_in_flight, route_template
from runqy.server.security_headers import ADMIN_POLICY, DATA_POLICY, PAGE_POLICY, security_headers

_FORWARDED = re.compile(r"\[(?P<ipv6>[^]]*)\](?::\d+)?|(?P<ipv4>[^:]+):\d+")
"""An address with a port, or in brackets, as some proxies send it: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

QUEUED_AT = "runqy.queued_at"
"""A server-defined variable of the WSGI environment (PEP 3333): `perf_counter()` when the request queued for a thread.

The data plane sets it; other servers do not. Clients cannot: variables from headers begin with `HTTP_`.
"""

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class RequestIdMiddleware:
    """Give each request an id, and return it in X-Request-ID."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with request_id_context(request.headers.get("X-Request-ID", "")) as request_id:
            response = self.get_response(request)
        response["X-Request-ID"] = request_id
        return response


class RequestDurationMiddleware:
    """Measure requests for /metrics. The time includes the wait for a thread, if the environment has `QUEUED_AT`."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._in_flight = requests_in_flight.labels("control")

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        began_s = request.META.get(QUEUED_AT, perf_counter())
        with self._in_flight.track_inprogress():
            response = self.get_response(request)
        observe_request(
            _route(request),
            request.method or "",
            response.status_code,
            began_s=began_s,
            query=request.META.get("QUERY_STRING", ""),
            prefer=request.META.get("HTTP_PREFER", ""),
        )
        return response


class TracingMiddleware:
    """Record a span of each request, if OTEL_EXPORTER_OTLP_ENDPOINT is set."""

    def __init__(self, get_response: GetResponse) -> None:
        tracer = get_tracer()
        if tracer is None:
            raise MiddlewareNotUsed
        self.get_response = get_response
        self._tracer = tracer

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with self._tracer.request(request.method or "", request.META.get("HTTP_TRACEPARENT", "")) as span:
            response = self.get_response(request)
            span.set_response(_route(request), response.status_code)
        return response


def _route(request: HttpRequest) -> str:
    match = request.resolver_match
    return OTHER if match is None else route_template(match.route)


class BodySizeMiddleware:
    """Refuse a form larger than RUNQY_MAX_BODY_SIZE before Django parses it. Django's own limit does not count files.

    Other bodies are read by the API's parsers only, which have the same limit. A chunked body has no length, and Django
    does not read it.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        length = request.META.get("CONTENT_LENGTH") or "0"
        limit: int = settings.RUNQY_MAX_BODY_SIZE
        if request.content_type in _FORMS and length.isdecimal() and int(length) > limit:
            raise RequestDataTooBig(f"The body has {length} bytes, the limit is {limit} (RUNQY_MAX_BODY_SIZE).")
        return self.get_response(request)


class NulMiddleware:
    """Refuse NUL in queries and cookies. No stored value contains it, and PostgreSQL raises an error for it."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if "%00" in request.META.get("QUERY_STRING", ""):
            names = [name for name, values in request.GET.lists() if "\0" in "".join([name, *values])]
            raise BadRequest(f"{names[0][:64] if names else 'query'}: Must not contain NUL (%00).")
        if "\\000" in request.META.get("HTTP_COOKIE", "") and "\0" in "".join(request.COOKIES.values()):
            raise BadRequest("Cookie: Must not contain NUL.")
        return self.get_response(request)


class ProxyHeadersMiddleware:
    """Set the client's address and scheme from the X-Forwarded-For and X-Forwarded-Proto of a trusted proxy."""

    def __init__(self, get_response: GetResponse) -> None:
        if not settings.RUNQY_TRUSTED_PROXIES:
            raise MiddlewareNotUsed
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        meta = request.META
        address, scheme = forwarded_client(
            meta.get("REMOTE_ADDR", ""),
            meta["wsgi.url_scheme"],
            forwarded_for=meta.get("HTTP_X_FORWARDED_FOR", ""),
            forwarded_proto=meta.get("HTTP_X_FORWARDED_PROTO", ""),
        )
        meta["REMOTE_ADDR"], meta["wsgi.url_scheme"] = address, scheme
        return self.get_response(request)


def forwarded_client(address: str, scheme: str, *, forwarded_for: str, forwarded_proto: str) -> tuple[str, str]:
    """Return the client's address and scheme: those that a trusted proxy forwards, or those of the connection."""
    if not settings.RUNQY_TRUSTED_PROXIES or not _is_trusted(address):
        return address, scheme
    return _client_ip(forwarded_for, address), forwarded_proto if forwarded_proto in ("http", "https") else scheme


def _client_ip(forwarded_for: str, nearest: str) -> str:
    # The rightmost address that is not a trusted proxy. Clients can forge the addresses left of it.
    for text in reversed(forwarded_for.split(",")):
        try:
            nearest = str(parse_address(_without_port(text.strip())))
        except ValueError:
            break
        if not _is_trusted(nearest):
            break
    return nearest


def _without_port(text: str) -> str:
    found = _FORWARDED.fullmatch(text)
    return text if found is None else found["ipv6"] or found["ipv4"] or ""


def _is_trusted(text: str) -> bool:
    try:
        address = parse_address(text)
    except ValueError:  # empty for a Unix socket
        return False
    proxies: Sequence[IPv4Network | IPv6Network] = settings.RUNQY_TRUSTED_PROXIES
    return any(address in network for network in proxies)


class SecurityHeadersMiddleware:
    """Add the headers about security. Their policy allows browsers to load and run files of this server only.

    Neither it nor Django's own middleware, of which only the redirect to https is left, changes one that a view set.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        policy = _content_security_policy(request.path_info, response.headers.get("Content-Type", ""))
        for name, value in security_headers(request.scheme or "", policy).items():
            response.headers.setdefault(name, value)
        return response


def _content_security_policy(path: str, content_type: str) -> str:
    if _is_admin(path):
        return ADMIN_POLICY
    is_page = content_type.startswith("text/html")
    return PAGE_POLICY if is_page or path.startswith("/static/") else DATA_POLICY


class AdminHostMiddleware(CommonMiddleware):
    """Check the Host header and append slashes, in the admin only.

    API clients authenticate by key and may use any host name. Paths without a route are 404.
    """

    def process_request(self, request: HttpRequest) -> HttpResponsePermanentRedirect | None:
        return super().process_request(request) if _is_admin(request.path_info) else None

    def should_redirect_with_slash(self, request: HttpRequest) -> bool:
        return _is_admin(request.path_info) and super().should_redirect_with_slash(request)


class AuditActorMiddleware:
    """Make the request's API key, or in the admin its user, the audit's actor."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Not before it is needed: DRF authenticates in the view.
        with actor_context(partial(_get_actor, request)):
            return self.get_response(request)


def _get_actor(request: HttpRequest) -> Actor:
    """Return the actor of a request; the server before its authentication."""
    identity: Identity | None = getattr(request, "auth", None)  # DRF sets it
    if identity is not None:
        kind, name, actor_id = ActorKind.KEY, identity.name, identity.key_id
    elif _is_admin(request.path_info) and request.user.is_authenticated:
        kind, name, actor_id = ActorKind.USER, request.user.get_username(), str(request.user.pk)
    else:
        return SERVER
    address = request.META.get("REMOTE_ADDR", "")
    return Actor(kind=kind, name=name, id=actor_id, address=address, request_id=current_request_id())


class ConfigurationPollingMiddleware:
    """Start polling the database for newer configuration in processes that serve requests."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        snapshot.start_polling()
        return self.get_response(request)


class PublicationWarningMiddleware:
    """Warn users of the admin about a change that is saved but not published. The API returns `published` instead."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not _is_admin(request.path_info):
            return self.get_response(request)
        with publication_result() as result:
            response = self.get_response(request)
        if not result.is_published:
            messages.warning(request, NOT_PUBLISHED)
        return response


def _is_admin(path: str) -> bool:
    return path.startswith("/admin/")
