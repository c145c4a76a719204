"""Who may read /metrics."""

from typing import Any, cast

from django.conf import settings
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request

from runqy.api.permissions import check_role, require_all_queues
from runqy.api.requests import AuthenticatedRequest
from runqy.api_keys import Role


class MayReadMetrics(IsAuthenticated):
    """Allow keys with the role `metrics`, and administrators of all queues: the page shows every queue.

    The address of a client opens nothing: a proxy on this machine may look like a local program.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if settings.RUNQY_METRICS_PUBLIC:
            return True
        if not super().has_permission(request, view):
            return False
        identity = cast(AuthenticatedRequest, request).auth
        check_role(identity, roles=frozenset({Role.METRICS}), allows_queue_scoped_keys=False)
        require_all_queues(identity)
        return True
