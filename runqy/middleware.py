"""What requests pass before the views: names, proxies, what pages may load, and in the admin cookies and users."""

from collections.abc import Callable
from functools import cache
from io import BytesIO
from ipaddress import ip_address
from typing import ClassVar

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.core.handlers.exception import response_for_exception
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.middleware.security import SecurityMiddleware
from django.template.response import SimpleTemplateResponse
from django.urls import ResolverMatch, get_resolver
from structlog.contextvars import bind_contextvars, unbind_contextvars

from runqy import clock
from runqy.api.headers import Stored, is_page, set_stored, stored
from runqy.api.request_ids import request_id
from runqy.audit.actors import Actor, ActorKind, acting

LONG_WAY = ("/admin/", "/static/")

_NOWHERE = "base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
ADMIN_POLICY = f"default-src 'self'; script-src 'self' 'unsafe-eval'; img-src 'self' data:; {_NOWHERE}"
"""What a browser may load and run in the admin, whose theme evaluates its attributes."""
PAGE_POLICY = f"default-src 'self'; img-src 'self' data:; {_NOWHERE}"
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""What it may load because of an answer that is no page."""
_OF_PAGES = ("Referrer-Policy", "Cross-Origin-Opener-Policy")
"""Headers about where a page leads and who opened it."""

_SEEN = "seen_at"
_RENEWED_EVERY_S = 300
"""A session expires half a day after its last renewal; renewing it with each page would write with each page."""

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class NamedRequests:
    """Tells each request's id in its answer and in every line that is logged on the way."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Go on under the request's name."""
        name = request_id(request)
        bind_contextvars(request_id=name)
        try:
            response = self.get_response(request)
        finally:
            unbind_contextvars("request_id")  # the thread serves others next
        set_stored(response, {"x-request-id": ("X-Request-ID", name)})
        return response


class HeadAnswers:
    """Leaves the bodies of answers to HEAD away; the server would drop them with a warning in the log for each."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Empty the answer; its Content-Length stays that of GET (RFC 9110, 9.3.2)."""
        response = self.get_response(request)
        if request.method == "HEAD":
            leave_body_away(response)
        return response


def leave_body_away(response: HttpResponseBase) -> None:
    """Empty an answer to HEAD; its Content-Length stays that of GET (RFC 9110, 9.3.2)."""
    if isinstance(response, HttpResponse):
        response.content = b""


class ContentPolicy:
    """Tells browsers to load and run nothing but files of ours, in the admin and its files."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Add the policy to the answer."""
        response = self.get_response(request)
        response["Content-Security-Policy"] = ADMIN_POLICY if request.path_info.startswith("/admin/") else PAGE_POLICY
        return response


class Shortcut:
    """Leads requests that are not the admin's straight to their view.

    The API knows its callers by their keys, so cookies, sessions, users and the check of the host could tell it
    nothing, and all together take longer than the API itself. `ShortcutEnd` stands at the end of the way that is cut.
    What the middleware between says to browsers is known beforehand, and so is the view of a path without parameters.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._security = SecurityMiddleware(get_response)
        self._headers = {scheme: self._learn_headers(scheme) for scheme in ("http", "https")}

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Take the long way in the admin and to its files, else the short one."""
        if request.path_info.startswith(LONG_WAY):
            return self.get_response(request)
        response = self._security.process_request(request) or _view_response(request)
        of_pages, of_data = self._headers[request.META["wsgi.url_scheme"]]
        set_stored(response, of_pages if is_page(response) else of_data)
        if request.method == "HEAD":
            leave_body_away(response)
        return response

    def _learn_headers(self, scheme: str) -> tuple[Stored, Stored]:
        """Return what every page carries, and what every other answer does; Django's own headers included."""
        request = WSGIRequest({"REQUEST_METHOD": "GET", "wsgi.input": BytesIO(), "wsgi.url_scheme": scheme})
        answer = self._security.process_response(request, HttpResponse(headers={"Content-Type": ""}))
        learnt = {name: value for name, value in answer.headers.items() if name != "Content-Type"}
        of_data = {name: value for name, value in learnt.items() if name not in _OF_PAGES}
        return (
            stored({**learnt, "Content-Security-Policy": PAGE_POLICY}),
            stored({**of_data, "Content-Security-Policy": DATA_POLICY}),
        )


def _view_response(request: HttpRequest) -> HttpResponseBase:
    """Return what a view answers, errors included; Django looks for it unless the path has no parameters."""
    match = _fixed_routes().get(request.path_info)
    if match is None:
        return ShortcutEnd.get_view_response(request)
    request.resolver_match = match
    try:
        response: HttpResponseBase = match.func(request, *match.args, **match.kwargs)
        return response.render() if isinstance(response, SimpleTemplateResponse) else response
    except Exception as error:  # noqa: BLE001 (what Django does around every view)
        return response_for_exception(request, error)


@cache
def _fixed_routes() -> dict[str, ResolverMatch]:
    """Return where paths without parameters lead."""
    resolver = get_resolver()
    paths = (f"/{entry.pattern}" for entry in resolver.url_patterns if not entry.pattern.converters)
    return {path: resolver.resolve(path) for path in paths if not path.startswith(LONG_WAY)}


class ShortcutEnd:
    """Where the views begin."""

    get_view_response: ClassVar[GetResponse]

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        type(self).get_view_response = staticmethod(get_response)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Go on."""
        return self.get_response(request)


class StaffActs:
    """Names the user of the admin to the audit, and keeps the session of whoever uses it from expiring."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Go on as the user."""
        user = request.user
        if not user.is_authenticated:
            return self.get_response(request)
        if (now_s := clock.now_ns() // 1_000_000_000) - request.session.get(_SEEN, 0) > _RENEWED_EVERY_S:
            request.session[_SEEN] = now_s
        actor = Actor(
            kind=ActorKind.USER,
            name=user.get_username(),
            id=str(user.pk),
            address=request.META.get("REMOTE_ADDR", ""),
            request_id=request_id(request),
        )
        with acting(actor):
            return self.get_response(request)


class TrustedProxies:
    """Takes the client's address and scheme from X-Forwarded-For and -Proto, if a trusted proxy sent them."""

    def __init__(self, get_response: GetResponse) -> None:
        if not settings.RUNQY_TRUSTED_PROXIES:
            raise MiddlewareNotUsed
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Correct the request's address and scheme."""
        meta = request.META
        if _is_trusted(meta.get("REMOTE_ADDR", "")):
            meta["REMOTE_ADDR"] = _first_stranger(meta.get("HTTP_X_FORWARDED_FOR", ""), meta["REMOTE_ADDR"])
            if meta.get("HTTP_X_FORWARDED_PROTO") in ("http", "https"):
                request.environ["wsgi.url_scheme"] = meta["HTTP_X_FORWARDED_PROTO"]  # type: ignore[attr-defined]
        return self.get_response(request)


def _first_stranger(forwarded: str, nearest: str) -> str:
    """Return the nearest address that is not a trusted proxy's; what stands left of it, anybody may have written."""
    for text in reversed(forwarded.split(",")):
        try:
            nearest = str(ip_address(text.strip()))
        except ValueError:
            break
        if not _is_trusted(nearest):
            break
    return nearest


def _is_trusted(text: str) -> bool:
    """Tell whether an address is a trusted proxy's; that of a Unix socket, which is empty, is not an address."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(address in network for network in settings.RUNQY_TRUSTED_PROXIES)
