"""Read, acknowledge and snooze alerts."""

from collections.abc import Sequence
from typing import ClassVar

from drf_spectacular.utils import OpenApiExample
from rest_framework.response import Response

from alerts.acknowledgement import acknowledge, resume, snooze
from alerts.api import serializers as s
from alerts.api.serializers import AlertSerializer
from alerts.kinds import AlertLevel
from alerts.models import Alert
from alerts.queries import AlertState, list_alerts
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.core.api_keys import Role

_EXAMPLE = OpenApiExample("alerts", value={"alerts": [s.ALERT], "next": None}, response_only=True)


class AlertViewSet(ApiViewSet):
    """Alerts: conditions that need attention, open or resolved."""

    tag: ClassVar = "alerts"
    action_roles: ClassVar = dict.fromkeys(("acknowledge", "snooze", "resume"), frozenset({Role.OPERATOR}))
    allows_queue_scoped_keys: ClassVar = True
    pagination_class = SignedCursorPagination

    @operation("list_alerts", s.AlertListSerializer, parameters=[s.AlertQuerySerializer], examples=[_EXAMPLE])
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
        return self.get_paginated_response({"alerts": AlertSerializer.serialize(alerts)})

    @operation(
        "acknowledge_alerts",
        s.ChangedAlertsSerializer,
        errors=(404, 409),
        request=s.AcknowledgeSerializer,
    )
    def acknowledge(self, request: AuthenticatedRequest) -> Response:
        """Acknowledge an alert, or all open alerts of a queue: nothing more is sent about them."""
        selection, body = s.AcknowledgeSerializer.select(request)
        return _respond(acknowledge(selection, **body))

    @operation("snooze_alerts", s.ChangedAlertsSerializer, errors=(404, 409), request=s.SnoozeSerializer)
    def snooze(self, request: AuthenticatedRequest) -> Response:
        """Send nothing about an alert until a time; of a queue, also not about alerts that open until then.

        What is open when the snooze ends is sent again.
        """
        selection, body = s.SnoozeSerializer.select(request)
        return _respond(snooze(selection, **body))

    @operation("resume_alerts", s.ChangedAlertsSerializer, errors=(404, 409), request=s.ResumeSerializer)
    def resume(self, request: AuthenticatedRequest) -> Response:
        """Resume alerts that are acknowledged or snoozed: their openings are sent again."""
        selection, _ = s.ResumeSerializer.select(request)
        return _respond(resume(selection))


def _respond(changed: Sequence[Alert]) -> Response:
    return Response({"alerts": AlertSerializer.serialize(changed)})
