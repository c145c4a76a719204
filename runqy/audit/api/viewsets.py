"""Read the audit, for administrators whose key is not limited to queues."""

from collections.abc import Sequence
from typing import ClassVar

from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from drf_spectacular.utils import OpenApiExample
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.audit.api import serializers as s
from runqy.audit.models import AuditRecord
from runqy.audit.queries import AuditFilter, list_records

_EXAMPLE = OpenApiExample(
    "records",
    value={
        "records": [
            {
                "number": 1042,
                "at": "2026-11-26T08:00:00Z",
                "recorded_at": None,
                "actor_kind": "key",
                "actor_name": "deployment",
                "actor_id": "3",
                "address": "192.0.2.7",
                "request_id": "4f0c9a55d1e24b2e9d41",
                "action": "queue.updated",
                "object_kind": "queue",
                "object_name": "inference",
                "changes": {"priority": {"old": 5, "new": 6}},
            }
        ],
        "next": None,
    },
    response_only=True,
)


@method_decorator(cache_control(no_store=True), name="dispatch")
class AuditViewSet(ApiViewSet):
    """Who changed what, and when."""

    tag: ClassVar = "audit"
    pagination_class = SignedCursorPagination

    @operation(
        "list_audit_records",
        s.AuditListSerializer,
        parameters=[s.AuditQuerySerializer],
        examples=[_EXAMPLE],
    )
    def list(self, request: Request) -> Response:
        """List audit records, the newest first. Changes in Redis appear when maintenance has stored their records."""
        query = s.AuditQuerySerializer.validated(request.query_params.dict())
        wanted = AuditFilter(
            object_name=query["object"],
            object_kind=query["object_kind"],
            action=query["action"],
            actor=query["actor"],
            text=query["text"],
            since=query.get("since"),
            until=query.get("until"),
        )

        def read(limit: int, before: int | None) -> tuple[Sequence[AuditRecord], int | None]:
            rows = list_records(wanted, limit=limit + 1, before=before)
            return rows[:limit], rows[limit - 1].number if len(rows) > limit else None

        rows = self.paginate_queryset(PagedList(read=read, position=int, identity="audit"))
        return self.get_paginated_response({"records": s.AuditRecordSerializer(rows, many=True).data})
