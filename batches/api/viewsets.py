"""Batches over HTTP, for clients."""

from typing import Annotated, Any, ClassVar

import msgspec
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.response import Response

from batches.api import bodies, hot_actions
from batches.api import serializers as s
from batches.models import Batch, Member
from batches.operations import Addition, add_to_batch, cancel_batch, close_batch, create_batch
from batches.queries import Position, get_batch, list_batches, list_members
from batches.waiting import wait_for_batch
from queues.status import list_untold_warnings
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.parsers import RawJSONParser, parse_idempotency_key
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import operation
from runqy.api.viewsets import ApiViewSet
from runqy.core.api_keys import Role
from runqy.errors import RequestInvalid
from runqy.redis_connection import get_broker
from tasks.api.calls import WAIT_PARAMETERS, WAITED, Wait, call_of, parse_wait, run_action
from tasks.api.events import EVENT_TYPE, LAST_EVENT_ID
from tasks.waiting_loop import get_waiting_loop

_LastId = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="As long as the batch is kept, a repeated request with this key gets the result of the first one",
)


class BatchViewSet(ApiViewSet):
    """Tasks that have a callback together."""

    tag: ClassVar = "batches"
    roles: ClassVar = frozenset({Role.CLIENT, Role.OPERATOR})
    parser_classes = (RawJSONParser,)
    pagination_class = SignedCursorPagination
    allows_queue_scoped_keys: ClassVar = True
    needs_confirmed_configuration = False

    @operation(
        "list_batches",
        s.BatchListSerializer,
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List batches, the newest first. A page for a key that is limited to queues may be short."""

        def read(limit: int, after: Position | None) -> tuple[list[Batch], Position | None]:
            return list_batches(limit, after, request.auth.queues)

        found = self.paginate_queryset(PagedList(read=read, position=Position, identity="batches"))
        return self.get_paginated_response({"batches": s.BatchSerializer(found, many=True).data})

    @operation(
        "create_batch",
        {201: s.AdditionSerializer},
        errors=(404, 422),
        parameters=[_IDEMPOTENCY_KEY],
        request=s.CreateBatchSerializer,
    )
    def create(self, request: AuthenticatedRequest) -> Response:
        """Create a batch, also with its members and its callback in one request.

        Maintenance enqueues the members. With `close` nothing is added later.
        """
        body: Any = request.data or b""  # DRF calls no parser for an empty body
        wanted = bodies.parse_create(body)
        key = parse_idempotency_key(
            request.headers.get("Idempotency-Key"), identity=request.auth, kind="create batch", body=body
        )
        addition = create_batch(
            get_broker(),
            name=wanted.name,
            callback=wanted.callback,
            jobs=wanted.jobs,
            is_closed=wanted.is_closed,
            allowed_queues=request.auth.queues,
            idempotency_key=key,
        )
        return _respond(addition, 201, {"Location": f"/batches/{addition.batch.pk}"})

    @operation(
        "get_batch",
        {200: s.BatchPageSerializer, 202: OpenApiResponse(s.BatchPageSerializer, "Not ended after the wait")},
        parameters=[s.MemberQuerySerializer, *WAIT_PARAMETERS],
    )
    def retrieve(self, request: AuthenticatedRequest, batch_id: str) -> Response:
        """Return a batch, with a page of its members, at once or after waiting for its end."""
        wait = parse_wait(request.query_params.get("wait"), request.headers)
        batch = get_batch(batch_id, allowed_queues=request.auth.queues)
        state = s.MemberQuerySerializer.validated(request.query_params.dict())["state"]
        wanted = "" if state == "all" else state

        def read(limit: int, after: int | None) -> tuple[list[Member], int | None]:
            nonlocal batch
            # The data plane waits before it passes the request on.
            if wait.seconds and batch.ended_at is None and not request.META.get(WAITED):
                batch = _wait_for_end(batch, wait, request)
            may_view = request.auth.role != Role.VIEWER
            page = list_members(batch, limit=limit, state=wanted, after=after, may_view_payloads=may_view)
            return page.members, page.end

        members = self.paginate_queryset(PagedList(read=read, position=_LastId, identity=f"batch {batch.pk}"))
        shown = {**s.BatchSerializer(batch).data, "members": s.MemberSerializer(members, many=True).data}
        response = self.get_paginated_response(shown)
        waited = wait.headers() if wait.seconds else {}
        if wait.seconds and batch.ended_at is None:
            response.status_code = 202
            waited["Location"] = f"/batches/{batch.pk}"
        for name, value in waited.items():
            response.headers[name] = value
        return response

    @operation(
        "stream_batch_events",
        {
            (200, EVENT_TYPE): OpenApiResponse(OpenApiTypes.ANY, "Events, until the batch has ended or is deleted"),
            204: OpenApiResponse(None, "`Last-Event-ID` names the end of the batch"),
        },
        parameters=[LAST_EVENT_ID],
        examples=[s.BATCH_EVENTS],
    )
    def events(self, request: AuthenticatedRequest, batch_id: str) -> HttpResponseBase:
        """Stream the progress of a batch as server-sent events.

        `progress` with the present number of members by state, and whenever they have changed, at most once a second;
        `end` with the batch once it has ended, `gone` when it was deleted. A comment is sent every 15 s.
        """
        return run_action(hot_actions.stream_batch_events, request, batch_id=batch_id)

    @operation(
        "add_to_batch",
        s.AdditionSerializer,
        errors=(409, 422),
        parameters=[_IDEMPOTENCY_KEY],
        request=s.AddToBatchSerializer,
    )
    def add(self, request: AuthenticatedRequest, batch_id: str) -> Response:
        """Add members to a batch that is not closed. Invalid jobs are left out."""
        body: Any = request.data or b""
        jobs = bodies.parse_add(body)
        key = parse_idempotency_key(
            request.headers.get("Idempotency-Key"), identity=request.auth, kind=f"add to batch {batch_id}", body=body
        )
        addition = add_to_batch(
            get_broker(), batch_id, jobs=jobs, allowed_queues=request.auth.queues, idempotency_key=key
        )
        return _respond(addition, 200, {})

    @operation("close_batch", s.BatchSerializer, errors=(400,), request=None)
    def close(self, request: AuthenticatedRequest, batch_id: str) -> Response:
        """Close a batch: nothing more can be added. It ends when all its members have ended."""
        _refuse_body(request)
        closed = close_batch(get_broker(), batch_id, allowed_queues=request.auth.queues)
        return Response(s.BatchSerializer(closed).data)

    @operation("cancel_batch", s.BatchSerializer, errors=(400,), request=None)
    def cancel(self, request: AuthenticatedRequest, batch_id: str) -> Response:
        """Close a batch and cancel its members that have not ended. No effect on a batch that has ended."""
        _refuse_body(request)
        canceled = cancel_batch(get_broker(), batch_id, allowed_queues=request.auth.queues)
        return Response(s.BatchSerializer(canceled).data)


def _wait_for_end(batch: Batch, wait: Wait, request: AuthenticatedRequest) -> Batch:
    """Block until a batch has ended or the wait is over, and return it. Raise the errors of `wait_for_batch`."""
    waiting, client = get_waiting_loop(), call_of(request).waiting_client()
    waiting.run(wait_for_batch(waiting.waiters, batch.pk, client=client, timeout_s=wait.seconds))
    return get_batch(batch.pk, allowed_queues=request.auth.queues)


def _refuse_body(request: AuthenticatedRequest) -> None:
    body: Any = request.data or b""
    if body.strip() not in (b"", b"{}"):
        raise RequestInvalid("This request accepts no body.")


def _respond(addition: Addition, status: int, headers: dict[str, str]) -> Response:
    replayed = {"Idempotent-Replayed": "true"} if addition.is_replayed else {}
    warnings = list_untold_warnings(get_broker(), addition.batch.queues)
    content = s.AdditionSerializer(addition.batch, context={"addition": addition, "warnings": warnings}).data
    return Response(content, status, headers={**headers, **replayed})
