"""Read the alerts."""

from typing import ClassVar

import msgspec
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.response import Response

from alerts.api import serializers as s
from alerts.queries import AlertState, list_alerts
from alerts.serializers import AlertSerializer
from runqy.api.pagination import PAGE_PARAMETERS, CursorPaginator
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import problem_responses
from runqy.api.viewsets import ApiViewSet
from runqy.errors import RequestInvalid, choices_error

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


class AlertCursor(msgspec.Struct, frozen=True):
    """The end of a page of alerts."""

    alert_id: int


class AlertViewSet(ApiViewSet):
    """Alerts: conditions that need attention, open or resolved."""

    allows_queue_scoped_keys: ClassVar = True

    @extend_schema(
        operation_id="list_alerts",
        tags=["alerts"],
        parameters=[
            OpenApiParameter("state", str, enum=[state.value for state in AlertState], description="Default: open."),
            OpenApiParameter("queue", str, description="Only alerts about this queue."),
            *PAGE_PARAMETERS,
        ],
        responses={200: s.AlertListSerializer, **problem_responses(400, 401, 403, 503)},
        examples=[_EXAMPLE],
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List alerts, the newest first. A key limited to queues sees only alerts about these."""
        paginator = CursorPaginator(request)
        cursor = paginator.cursor(AlertCursor)
        page = list_alerts(
            _parse_state(request.query_params.get("state", AlertState.OPEN.value)),
            limit=paginator.limit,
            allowed_queues=request.auth.queues,
            queue=request.query_params.get("queue", ""),
            before=cursor.alert_id if cursor else None,
        )
        next_position = AlertCursor(page.end) if page.end is not None else None
        alerts = AlertSerializer(page.alerts, many=True).data
        return paginator.get_paginated_response({"alerts": alerts}, next_position)


def _parse_state(text: str) -> AlertState:
    try:
        return AlertState(text)
    except ValueError:
        raise RequestInvalid(errors=[f"state: {choices_error(AlertState)}"]) from None
