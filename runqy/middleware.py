"""Keeps cookies, sessions and host checks to the admin, and believes proxies only where the settings name them."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponseBase
from django.middleware.common import CommonMiddleware

ADMIN_PATH = "/admin/"

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class OnlyInAdmin:
    """Mixed into a middleware: other paths pass it by.

    The API knows its callers by their keys, so that none of these could tell it anything. Those that cost a request
    next to nothing stand in the settings as they are.
    """

    def __call__(self, request: HttpRequest) -> Any:
        """Let the middleware work in the admin, and go on elsewhere."""
        if request.path_info.startswith(ADMIN_PATH):
            return super().__call__(request)  # type: ignore[misc]
        return self.get_response(request)  # type: ignore[attr-defined]


class AdminSessions(OnlyInAdmin, SessionMiddleware):
    """Sessions."""


class AdminCommon(OnlyInAdmin, CommonMiddleware):
    """Host check and slashes."""


class AdminUsers(OnlyInAdmin, AuthenticationMiddleware):
    """Users."""


class AdminMessages(OnlyInAdmin, MessageMiddleware):
    """Messages."""


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
