"""Who may read /metrics."""

from typing import Any, cast

from django.conf import settings
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request

from runqy.api.permissions import find_queue_limit, find_refusal
from runqy.api.requests import AuthenticatedRequest
from runqy.core.api_keys import Role
from runqy.errors import KeyInsufficient


class MayReadMetrics(IsAuthenticated):
    """Allow keys with the role `metrics`, and administrators of all queues, because the page shows every queue.

    The address of a client allows nothing: behind a proxy on this machine every client looks local.
    """

    code = KeyInsufficient.code

    def has_permission(self, request: Request, view: Any) -> bool:
        if settings.RUNQY_METRICS_PUBLIC:
            return True
        if not super().has_permission(request, view):
            return False
        identity, roles = cast(AuthenticatedRequest, request).auth, frozenset({Role.METRICS})
        refusal = find_refusal(identity, roles=roles, allows_queue_scoped_keys=False)
        self.message = refusal or find_queue_limit(identity)
        return not self.message
