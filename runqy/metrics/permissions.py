"""Who may read /metrics."""

from ipaddress import ip_address
from typing import Any, cast

from django.core.exceptions import DisallowedHost
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request

from runqy.api.permissions import check_role, require_all_queues
from runqy.api.requests import AuthenticatedRequest
from runqy.api_keys import Role

_FORWARDED = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP")


class IsDirectFromLoopback(BasePermission):
    """Allow requests that a program on this machine sends itself.

    ProxyHeadersMiddleware has set the address that a trusted proxy forwards. A request with any header of a proxy is
    not direct: a proxy on this machine that is not trusted would otherwise open the page to all its clients. The host
    must be an allowed one, or a web page could read the metrics in a local browser by DNS rebinding.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if any(name in request.META for name in _FORWARDED) or not _is_loopback(request.META.get("REMOTE_ADDR", "")):
            return False
        try:
            request.get_host()
        except DisallowedHost:
            return False
        return True


class MayReadMetrics(IsAuthenticated):
    """Allow keys with the role `metrics`, and administrators of all queues: the page shows every queue."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not super().has_permission(request, view):
            return False
        identity = cast(AuthenticatedRequest, request).auth
        check_role(identity, roles=frozenset({Role.METRICS}), allows_queue_scoped_keys=False)
        require_all_queues(identity)
        return True


def _is_loopback(text: str) -> bool:
    """Return whether an address is this machine's; a Unix socket has none."""
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False
