"""Bulk actions over HTTP: an action on all tasks that match a filter, of any number of queues."""

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiResponse
from rest_framework.response import Response

from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.parsers import refuse_members
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.broker.states import RunOutcome, TaskState
from runqy.core.api_keys import Role
from runqy.errors import BulkActionNotFound
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction
from tasks.api.bulk_serializers import (
    BulkListSerializer,
    BulkPreviewSerializer,
    BulkRequestQuerySerializer,
    BulkRequestSerializer,
    BulkSerializer,
)
from tasks.bulk_actions import (
    cancel_bulk_action,
    create_bulk_action,
    get_bulk_action,
    list_bulk_actions,
    preview_bulk_action,
)
from tasks.history.queries import resolve_history_queue
from tasks.models import BulkAction
from tasks.search import TaskQuery


class BulkActionViewSet(ApiViewSet):
    """Bulk actions. Maintenance applies them, in slices."""

    tag: ClassVar = "bulk actions"
    roles: ClassVar = frozenset({Role.OPERATOR})
    read_roles: ClassVar = frozenset({Role.CONFIGURATOR})
    pagination_class = SignedCursorPagination

    @operation(
        "list_bulk_actions",
        BulkListSerializer,
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List bulk actions, the newest first, also those of the admin."""
        found = self.paginate_queryset(PagedList(read=list_bulk_actions, position=int, identity="bulk-actions"))
        return self.get_paginated_response({"bulk_actions": BulkSerializer(found, many=True).data})

    @operation(
        "create_bulk_action",
        {
            200: OpenApiResponse(BulkPreviewSerializer, "With `dry_run`"),
            202: OpenApiResponse(BulkSerializer, "Maintenance applies it: see Location"),
        },
        errors=(404,),
        parameters=[BulkRequestQuerySerializer],
        request=BulkRequestSerializer,
    )
    def create(self, request: AuthenticatedRequest) -> Response:
        """Apply an action to all tasks that match a filter, in any number of queues.

        Tasks that enter the state, or end, after the request do not match. Ended tasks that Redis no longer has run
        again as copies, with the same payload.
        """
        is_dry_run = BulkRequestQuerySerializer.validated(request.query_params.dict())["dry_run"]
        wanted = BulkRequestSerializer.validated(request.data)
        query = _to_query(wanted)
        found = preview_bulk_action(get_broker(), query)
        if is_dry_run:
            content = {"dry_run": True, "matched": found.count, "is_exact": found.is_exact}
            return Response(BulkPreviewSerializer(content).data)
        action = TaskAction(wanted["action"])
        bulk = create_bulk_action(get_broker(), action=action, query=query, expected=found.count)
        return Response(BulkSerializer(bulk).data, 202, headers={"Location": f"/api/bulk-actions/{bulk.pk}"})

    @operation(
        "get_bulk_action",
        BulkSerializer,
    )
    def retrieve(self, request: AuthenticatedRequest, number: str) -> Response:
        """Show a bulk action and how many tasks it has been applied to."""
        return Response(BulkSerializer(_find(number)).data)

    @operation("cancel_bulk_action", BulkSerializer, errors=(400,), request=None)
    def cancel(self, request: AuthenticatedRequest, number: str) -> Response:
        """Stop a bulk action. Tasks that it has changed stay changed. No effect on one that has ended."""
        refuse_members(request)
        bulk = _find(number)
        cancel_bulk_action(bulk.pk)
        return Response(BulkSerializer(_find(number)).data)


def _to_query(wanted: dict[str, Any]) -> TaskQuery:
    """Return the filter of a validated request. Raise QueueNotFound for a queue that the history does not know."""
    state = TaskState(wanted["state"]) if wanted.get("state") else None
    if state is None and wanted["queue"]:
        resolve_history_queue(wanted["queue"], allowed_queues=None)
    return TaskQuery(
        state=state,
        queue=wanted["queue"],
        text=wanted["text"],
        outcomes=tuple(RunOutcome(outcome) for outcome in wanted.get("outcomes", ())),
        since=wanted.get("since"),
        until=wanted.get("until"),
        worker_id=wanted["worker"],
        commit=wanted["commit"],
        fingerprint=wanted["fingerprint"],
    )


def _find(number: str) -> BulkAction:
    """Raise BulkActionNotFound if this is not the id of a bulk action."""
    # A longer number does not fit into a database's bigint.
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise BulkActionNotFound
    return get_bulk_action(int(number))
