"""Schedules over HTTP, for administrators."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import quote

from django.utils.decorators import method_decorator
from django.utils.http import quote_etag
from django.views.decorators.cache import cache_control
from rest_framework.response import Response

from runqy.api.etags import if_match
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.parsers import refuse_members
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import IF_MATCH, operation
from runqy.api.viewsets import ApiViewSet
from runqy.core.api_keys import Role
from runqy.core.preconditions import accept_any
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker
from schedules.api import serializers as s
from schedules.definition_serializers import parse_schedule
from schedules.models import Schedule, ScheduleSource
from schedules.operations import delete_schedule, pause_schedule, save_schedule, trigger_schedule, unpause_schedule
from schedules.queries import find_last_fires, get_schedule, get_states, list_fires, list_schedules, view_fires
from schedules.runner import run_due


@method_decorator(cache_control(no_store=True), name="dispatch")
class ScheduleViewSet(ApiViewSet):
    """Schedules: tasks that are enqueued by the clock."""

    tag: ClassVar = "schedules"
    roles: ClassVar = frozenset({Role.CONFIGURATOR})
    read_roles: ClassVar = frozenset({Role.OPERATOR})
    action_roles: ClassVar = dict.fromkeys(("trigger", "pause", "unpause"), frozenset({Role.OPERATOR}))
    allows_queue_scoped_keys: ClassVar = True
    pagination_class = SignedCursorPagination

    @operation("list_schedules", s.ScheduleListSerializer, parameters=[s.ScheduleQuerySerializer])
    def list(self, request: AuthenticatedRequest) -> Response:
        """List schedules by name. A key limited to queues sees only theirs."""
        queue = s.ScheduleQuerySerializer.validated(request.query_params.dict())["queue"]

        def read(limit: int, after: str | None) -> tuple[list[Schedule], str | None]:
            return list_schedules(limit, after, allowed_queues=request.auth.queues, queue=queue)

        found = self.paginate_queryset(PagedList(read=read, position=str, identity="schedules"))
        context = _build_context(found)
        return self.get_paginated_response({"schedules": s.ScheduleSerializer(found, many=True, context=context).data})

    @operation(
        "create_schedule",
        {201: s.ScheduleSerializer},
        errors=(404, 409),
        request=s.CreateScheduleSerializer,
    )
    def create(self, request: AuthenticatedRequest) -> Response:
        """Create a schedule. It fires first at its first due time after now."""
        return self._save(request, is_new=True)

    @operation(
        "get_schedule",
        s.ScheduleSerializer,
    )
    def retrieve(self, request: AuthenticatedRequest, name: str) -> Response:
        """Show a schedule, with its next due times."""
        return _respond(get_schedule(name, allowed_queues=request.auth.queues))

    @operation(
        "replace_schedule",
        {200: s.ScheduleSerializer, 201: s.ScheduleSerializer},
        errors=(409,),
        parameters=[IF_MATCH],
        request=s.ReplaceScheduleSerializer,
    )
    def update(self, request: AuthenticatedRequest, name: str) -> Response:
        """Replace the whole definition of a schedule, or create it: members that are not sent get their defaults.

        It keeps its fires, and whether it is paused. A change of its times never fires for the past. Send its ETag as
        If-Match to replace this definition only.
        """
        return self._save(request, name)

    @operation("delete_schedule", s.ScheduleDeletedSerializer, parameters=[IF_MATCH])
    def destroy(self, request: AuthenticatedRequest, name: str) -> Response:
        """Delete a schedule and its fires. Tasks that it enqueued stay."""
        delete_schedule(name=name, allowed_queues=request.auth.queues, precondition=if_match(request))
        return Response(s.ScheduleDeletedSerializer({"message": "schedule deleted", "name": name}).data)

    @operation("trigger_schedule", {201: s.FireSerializer}, errors=(400,), request=None)
    def trigger(self, request: AuthenticatedRequest, name: str) -> Response:
        """Fire a schedule now, also while it is paused or its previous task runs.

        `state` is `waiting` with a reason if the task cannot be enqueued now: maintenance tries it within the window.
        """
        refuse_members(request)
        broker = get_broker()
        fire = trigger_schedule(broker, name=name, allowed_queues=request.auth.queues)
        # At once; if this process ends here, or Redis cannot be reached, maintenance continues.
        with suppress(BrokerUnavailable):
            run_due(broker, Schedule.objects.filter(pk=fire.schedule_id), broker.now())
        fire.refresh_from_db()
        (view,) = view_fires(broker, [fire])
        return Response(s.FireSerializer(view).data, 201)

    @operation("pause_schedule", s.ScheduleSerializer, request=s.PauseSerializer)
    def pause(self, request: AuthenticatedRequest, name: str) -> Response:
        """Pause a schedule. What is due while it is paused never fires."""
        reason = s.PauseSerializer.validated(request.data)["reason"]
        allowed = request.auth.queues
        return _respond(pause_schedule(get_broker(), name=name, reason=reason, allowed_queues=allowed))

    @operation("unpause_schedule", s.ScheduleSerializer, errors=(400,), request=None)
    def unpause(self, request: AuthenticatedRequest, name: str) -> Response:
        """Let a schedule fire again, next at its first due time after now. No effect on one that is not paused."""
        refuse_members(request)
        return _respond(unpause_schedule(get_broker(), name=name, allowed_queues=request.auth.queues))

    @operation(
        "list_fires",
        s.FireListSerializer,
        errors=(400,),
    )
    def fires(self, request: AuthenticatedRequest, name: str) -> Response:
        """List the last fires of a schedule, the latest first, with their tasks. 100 are kept."""
        schedule = get_schedule(name, allowed_queues=request.auth.queues)
        pages = PagedList(
            read=lambda limit, before: list_fires(schedule, limit, before),
            position=int,
            identity=f"fires {schedule.pk}",
        )
        views = view_fires(get_broker(), self.paginate_queryset(pages))
        return self.get_paginated_response({"fires": s.FireSerializer(views, many=True).data})

    def _save(self, request: AuthenticatedRequest, name: str | None = None, *, is_new: bool = False) -> Response:
        spec, requested = parse_schedule(request.data, name=name)
        row, is_created = save_schedule(
            get_broker(),
            spec=spec,
            requested=requested,
            source=ScheduleSource.API,
            allowed_queues=request.auth.queues,
            is_new=is_new,
            precondition=accept_any if is_new else if_match(request),
        )
        headers = {"Location": f"/api/schedules/{quote(row.name, safe='')}"}
        return _respond(row, 201, headers) if is_created else _respond(row)


def _respond(row: Schedule, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = s.ScheduleSerializer(row, context=_build_context([row])).data
    # Of the definition alone: other members change by themselves, so that no read is answered with 304.
    return Response(content, status, headers={"ETag": quote_etag(row.version), **(headers or {})})


def _build_context(rows: Sequence[Schedule]) -> dict[str, Any]:
    return {"states": get_states(rows), "fires": find_last_fires(get_broker(), rows)}
