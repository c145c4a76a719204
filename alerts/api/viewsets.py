"""Read the alerts."""

from collections.abc import Sequence
from typing import ClassVar

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.response import Response

from alerts.api import serializers as s
from alerts.models import Alert
from alerts.queries import AlertState, list_alerts
from alerts.rules import AlertLevel
from alerts.serializers import AlertSerializer
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import problem_responses
from runqy.api.viewsets import ApiViewSet

_EXAMPLE = OpenApiExample(
    "alerts",
    value={
        "alerts": [
            {
                "id": 7,
                "kind": "no_ready_worker",
                "level": "critical",
                "queue": "inference",
                "subject": "inference",
                "message": "Queue inference has 50 pending tasks and no ready worker.",
                "since": "2026-11-26T08:00:00Z",
                "opened_at": "2026-11-26T08:01:00Z",
                "resolved_at": None,
                "url": "https://runqy.example.com/admin/workers/worker/?queue=inference",
            }
        ],
        "next": None,
    },
    response_only=True,
)


class AlertViewSet(ApiViewSet):
    """Alerts: conditions that need attention, open or resolved."""

    allows_queue_scoped_keys: ClassVar = True
    pagination_class = SignedCursorPagination

    @extend_schema(
        operation_id="list_alerts",
        tags=["alerts"],
        parameters=[s.AlertQuerySerializer],
        responses={200: s.AlertListSerializer, **problem_responses(400, 401, 403, 503)},
        examples=[_EXAMPLE],
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List alerts, the newest first. A key limited to queues sees only alerts about these."""
        query = s.AlertQuerySerializer.validated(request.query_params.dict())
        state, queue, level = AlertState(query["state"]), query["queue"], query["level"]
        levels = [AlertLevel(level)] if level in list(AlertLevel) else list(AlertLevel)

        def read(limit: int, before: int | None) -> tuple[Sequence[Alert], int | None]:
            allowed = request.auth.queues
            page = list_alerts(
                state,
                limit=limit,
                allowed_queues=allowed,
                queue=queue,
                levels=levels,
                since=query.get("since"),
                before=before,
            )
            return page.alerts, page.end

        alerts = self.paginate_queryset(PagedList(read=read, position=int, identity="alerts"))
        return self.get_paginated_response({"alerts": AlertSerializer(alerts, many=True).data})
