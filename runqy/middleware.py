"""Middleware: request ids, body size, trusted proxies, content security policy, current configuration.

For the admin also: host check, audit actor, warning of what is not published.
"""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import BadRequest, MiddlewareNotUsed, RequestDataTooBig
from django.http import HttpRequest, HttpResponsePermanentRedirect
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware

from runqy import clock
from runqy.addresses import parse_address
from runqy.audit.actors import SERVER, Actor, ActorKind, actor_context
from runqy.publication import polling
from runqy.publication.operations import NOT_PUBLISHED, publication_result
from runqy.request_ids import current_request_id, new_request_id, request_id_context

_SHARED_POLICY = "base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
ADMIN_POLICY = f"default-src 'self'; script-src 'self' 'unsafe-eval'; img-src 'self' data:; {_SHARED_POLICY}"
"""For the admin, whose theme evaluates attributes."""
PAGE_POLICY = f"default-src 'self'; img-src 'self' data:; {_SHARED_POLICY}"
"""For the other pages: Swagger."""
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For responses that are not pages."""

_SESSION_SEEN = "seen_at"
_SESSION_RENEWAL_S = 300
"""A session expires SESSION_COOKIE_AGE after its last write; a write with each page would be too many."""

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class RequestIdMiddleware:
    """Give each request an id, and return it in X-Request-ID."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request_id = new_request_id(request.headers.get("X-Request-ID", ""))
        with request_id_context(request_id):
            response = self.get_response(request)
        response["X-Request-ID"] = request_id
        return response


class BodySizeMiddleware:
    """Refuse a form beyond RUNQY_MAX_BODY_SIZE before Django parses it: its own limit does not count files.

    Other bodies are only read by the API's parsers, which have the same limit. A body in chunks has no length, and
    Django reads none of it.
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
    """Refuse NUL in queries and cookies: nothing that is looked up has it, and PostgreSQL fails at a text that does."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if "%00" in request.META.get("QUERY_STRING", ""):
            names = [name for name, values in request.GET.lists() if "\0" in "".join([name, *values])]
            raise BadRequest(f"{names[0][:64] if names else 'query'}: must not contain NUL (%00).")
        if "\\000" in request.META.get("HTTP_COOKIE", "") and "\0" in "".join(request.COOKIES.values()):
            raise BadRequest("Cookie: must not contain NUL.")
        return self.get_response(request)


class ProxyHeadersMiddleware:
    """Take the client's address and scheme from X-Forwarded-For and -Proto of a trusted proxy."""

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
    """Return the client's address and scheme: those of the connection, or what a trusted proxy says about it."""
    if not settings.RUNQY_TRUSTED_PROXIES or not _is_trusted(address):
        return address, scheme
    return _client_ip(forwarded_for, address), forwarded_proto if forwarded_proto in ("http", "https") else scheme


def _client_ip(forwarded_for: str, nearest: str) -> str:
    """Return the nearest address that is not a trusted proxy's; clients can forge what is left of it."""
    for text in reversed(forwarded_for.split(",")):
        try:
            nearest = str(parse_address(text.strip()))
        except ValueError:
            break
        if not _is_trusted(nearest):
            break
    return nearest


def _is_trusted(text: str) -> bool:
    """Return whether an address is a trusted proxy's; a Unix socket has none."""
    try:
        address = parse_address(text)
    except ValueError:
        return False
    proxies: Sequence[IPv4Network | IPv6Network] = settings.RUNQY_TRUSTED_PROXIES
    return any(address in network for network in proxies)


class ContentSecurityPolicyMiddleware:
    """Allow browsers to load and run files of this server only."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response["Content-Security-Policy"] = content_security_policy(
            request.path_info, response.headers.get("Content-Type", "")
        )
        return response


def content_security_policy(path: str, content_type: str) -> str:
    """Return the policy of a response."""
    if _is_admin(path):
        return ADMIN_POLICY
    is_page = content_type.startswith("text/") and content_type != "text/event-stream"
    return PAGE_POLICY if is_page or path.startswith("/static/") else DATA_POLICY


class AdminHostMiddleware(CommonMiddleware):
    """Check the Host header and append slashes in the admin only.

    API clients authenticate by key, and reach the server by any name; a path that is not theirs is 404.
    """

    def process_request(self, request: HttpRequest) -> HttpResponsePermanentRedirect | None:
        return super().process_request(request) if _is_admin(request.path_info) else None

    def should_redirect_with_slash(self, request: HttpRequest) -> bool:
        return _is_admin(request.path_info) and super().should_redirect_with_slash(request)


class AuditActorMiddleware:
    """Name the user to the audit, and renew the user's session. Requests of the API start as the server's own."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with actor_context(_staff_actor(request) if _is_admin(request.path_info) else SERVER):
            return self.get_response(request)


def _staff_actor(request: HttpRequest) -> Actor:
    """Return the user of the admin as an actor; without a login, the server."""
    user = request.user
    if not user.is_authenticated:
        return SERVER
    if (now_s := clock.now_ns() // 1_000_000_000) - request.session.get(_SESSION_SEEN, 0) > _SESSION_RENEWAL_S:
        request.session[_SESSION_SEEN] = now_s
    return Actor(
        kind=ActorKind.USER,
        name=user.get_username(),
        id=str(user.pk),
        address=request.META.get("REMOTE_ADDR", ""),
        request_id=current_request_id(),
    )


class ConfigurationPollingMiddleware:
    """Have a process that serves requests take what is newer from the database."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        polling.ensure_started()
        return self.get_response(request)


class PublicationWarningMiddleware:
    """Warn users of the admin of a change that is saved but not published. The API has `published` in its responses."""

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
