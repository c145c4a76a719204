"""GET /metrics."""

from typing import ClassVar

from django.http import HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

from runqy.api.schema import operation
from runqy.server.metrics.exposition import page
from runqy.server.metrics.permissions import MayReadMetrics

_EXAMPLE = """# HELP asynq_queue_size Number of tasks in a queue.
# TYPE asynq_queue_size gauge
asynq_queue_size{queue="inference"} 12.0
"""


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
