"""GET /metrics, and who may read it."""

from typing import Any, ClassVar, cast

from django.conf import settings
from django.http import HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

from runqy.api.permissions import find_queue_limit, find_refusal
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.core.api_keys import Role
from runqy.errors import KeyInsufficient
from runqy.server.metrics.exposition import page

_EXAMPLE = """# HELP asynq_queue_size Number of tasks in a queue.
# TYPE asynq_queue_size gauge
asynq_queue_size{queue="inference"} 12.0
"""


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


@method_decorator(cache_control(no_store=True), name="dispatch")
class MetricsViewSet(ViewSet):
    """The metrics, in Prometheus's text format."""

    tag: ClassVar = "server"
    http_method_names = ("get", "head")
    permission_classes = (MayReadMetrics,)
    throttle_classes = ()

    @operation(
        "get_metrics",
        {(200, "text/plain"): OpenApiResponse(OpenApiTypes.STR, "Prometheus's text format 0.0.4")},
        errors=(403,),
        examples=[OpenApiExample("A queue", _EXAMPLE, media_type="text/plain", status_codes=["200"])],
    )
    def metrics(self, request: Request) -> HttpResponse:
        """Return the metrics, at most a second old.

        Needs RUNQY_METRICS_TOKEN, or a key with the role `metrics` or `admin`, unless the server has
        RUNQY_METRICS_PUBLIC. While Redis is unavailable `runqy_redis_up` is 0, and queues are missing.
        """
        return HttpResponse(page.read(), content_type=CONTENT_TYPE_PLAIN_0_0_4)
