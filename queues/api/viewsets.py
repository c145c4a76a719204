"""Queues and their configuration over HTTP, for administrators."""

from typing import ClassVar
from urllib.parse import quote

from django.conf import settings
from django.utils.decorators import method_decorator
from django.utils.http import quote_etag
from django.views.decorators.cache import cache_control
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.response import Response

from queues.api import serializers as s
from queues.api.demand_serializers import DemandQuerySerializer, QueueDemandSerializer
from queues.api.file_serializers import (
    AppliedQueuesSerializer,
    ApplyQuerySerializer,
    QueueFilesSerializer,
    ReloadQuerySerializer,
    ReloadReportSerializer,
)
from queues.apply import Prune, apply_queue_files
from queues.deletion import MAX_TASKS_AT_ONCE, delete_queue, get_deletion_progress
from queues.demand import get_demand
from queues.operations import set_queue_enabled, spec_version, upsert_queue
from queues.pausing import pause_queue, unpause_queue
from queues.queries import get_queue_config, list_queue_configs
from queues.queue_files import load_queue_files
from queues.status import find_unserved, get_redis_queue_detail, list_redis_queue_statuses
from runqy import clock
from runqy.api.etags import etag_response, if_match
from runqy.api.parsers import refuse_members
from runqy.api.permissions import require_all_queues
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import IF_MATCH, IF_NONE_MATCH, operation
from runqy.api.viewsets import ApiViewSet
from runqy.configuration.operations import publication_result
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker


class QueueViewSet(ApiViewSet):
    """Redis queues: their statistics, demand, pausing."""

    tag: ClassVar = "queues"
    action_roles: ClassVar = {
        "demand": frozenset({Role.CLIENT, Role.METRICS}),
        **dict.fromkeys(("pause", "unpause"), frozenset({Role.OPERATOR, Role.CONFIGURATOR})),
        **dict.fromkeys(("enable", "disable"), frozenset({Role.CONFIGURATOR})),
    }
    allows_queue_scoped_keys: ClassVar = True

    @operation(
        "list_queues",
        s.QueueStatusListSerializer,
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List all queues with statistics, each sub-queue as an item of its own."""
        queues = list_redis_queue_statuses(get_broker(), allowed_queues=request.auth.queues)
        return Response(s.QueueStatusListSerializer({"queues": queues, "count": len(queues)}).data)

    @operation(
        "get_queue",
        s.QueueDetailSerializer,
    )
    def retrieve(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Show a queue: counts, memory, history, who paused it, the workers that serve it."""
        detail = get_redis_queue_detail(get_broker(), queue, allowed_queues=request.auth.queues)
        return Response(s.QueueDetailSerializer(detail).data)

    @operation("pause_queue", s.QueuePausedSerializer, errors=(400,), request=None)
    def pause(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Pause a queue: it accepts tasks, and workers get none. No effect on a paused queue."""
        refuse_members(request)
        name = pause_queue(get_broker(), name=queue, allowed_queues=request.auth.queues)
        return Response(s.QueuePausedSerializer({"message": "queue paused", "queue": name, "paused": True}).data)

    @operation(
        "unpause_queue",
        s.QueuePausedSerializer,
        errors=(400,),
        request=None,
        examples=[
            OpenApiExample("Response", {"message": "queue unpaused", "queue": "inference_high", "paused": False})
        ],
    )
    def unpause(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Unpause a queue. No effect on a queue that is not paused."""
        refuse_members(request)
        name = unpause_queue(get_broker(), name=queue, allowed_queues=request.auth.queues)
        return Response(s.QueuePausedSerializer({"message": "queue unpaused", "queue": name, "paused": False}).data)

    @operation("enable_queue", s.QueueEnabledSerializer, errors=(400, 409), request=None)
    def enable(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Enable a queue: it accepts tasks and workers. No effect on an enabled queue."""
        return self._set_enabled(request, queue, is_enabled=True)

    @operation("disable_queue", s.QueueEnabledSerializer, errors=(400,), request=None)
    def disable(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Disable a queue: it rejects new tasks, and its workers stop. No effect on a disabled queue."""
        return self._set_enabled(request, queue, is_enabled=False)

    @operation("get_queue_demand", QueueDemandSerializer, parameters=[DemandQuerySerializer])
    def demand(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Show how much work a queue has, and how many workers that needs, for an autoscaler.

        The name of a queue means all its sub-queues, that of a sub-queue only this one.
        """
        target_wait_ns = DemandQuerySerializer.validated(request.query_params.dict())["target_wait"]
        found = get_demand(get_broker(), queue, target_wait_s=target_wait_ns / 1e9, allowed_queues=request.auth.queues)
        return Response(QueueDemandSerializer(found).data)

    def _set_enabled(self, request: AuthenticatedRequest, queue: str, *, is_enabled: bool) -> Response:
        refuse_members(request)
        with publication_result() as publication:
            name = set_queue_enabled(name=queue, is_enabled=is_enabled, allowed_queues=request.auth.queues)
        response = s.QueueEnabledSerializer(
            {
                "message": f"queue {'enabled' if is_enabled else 'disabled'}",
                "queue": name,
                "is_enabled": is_enabled,
                "published": publication.is_published,
            }
        )
        return Response(response.data)


@method_decorator(cache_control(no_store=True), name="dispatch")  # values of environment variables may be secrets
class QueueConfigViewSet(ApiViewSet):
    """Configuration of queues."""

    tag: ClassVar = "configs"
    roles: ClassVar = frozenset({Role.CONFIGURATOR})
    allows_queue_scoped_keys: ClassVar = True

    @operation(
        "list_configs",
        s.QueueConfigListSerializer,
    )
    def list(self, request: AuthenticatedRequest) -> Response:
        """List all queue configurations."""
        configs = list_queue_configs(allowed_queues=request.auth.queues)
        return Response(s.QueueConfigListSerializer({"queues": configs, "count": len(configs)}).data)

    @operation(
        "create_config",
        {200: s.QueueConfigSavedSerializer, 201: s.QueueConfigSavedSerializer},
        errors=(404, 409),
        parameters=[s.CreateConfigQuerySerializer, IF_MATCH],
        request=s.QueueConfigInputSerializer,
    )
    def create(self, request: AuthenticatedRequest) -> Response:
        """Create a queue configuration, or update one with force=true. Members that are not sent keep their values."""
        query = s.CreateConfigQuerySerializer.validated(request.query_params.dict())
        with publication_result() as publication:
            config, is_new = upsert_queue(
                config=s.QueueConfigInputSerializer.parse(request.data),
                force=query["force"],
                replaces_at_once=query["replace_at_once"],
                allowed_queues=request.auth.queues,
                precondition=if_match(request),
            )
        message = f"Queue {'created' if is_new else 'updated'} successfully"
        response = s.QueueConfigSavedSerializer(
            {"queue": config, "message": message, "published": publication.is_published}
        )
        etag = quote_etag(spec_version(config.spec))
        return Response(response.data, 201 if is_new else 200, headers={"ETag": etag})

    @operation("get_config", {200: s.QueueConfigSerializer, 304: None}, parameters=[IF_NONE_MATCH])
    def retrieve(self, request: AuthenticatedRequest, name: str) -> Response:
        """Show a queue configuration. Send its ETag as If-Match to change this version only."""
        config = get_queue_config(name, allowed_queues=request.auth.queues)
        return etag_response(request, s.QueueConfigSerializer(config).data, spec_version(config.spec))

    @operation(
        "replace_config",
        s.QueueConfigSavedSerializer,
        errors=(409, 428),
        parameters=[
            OpenApiParameter(
                "If-Match",
                str,
                OpenApiParameter.HEADER,
                required=True,
                description="The ETag of the configuration to replace",
            ),
            s.ReplaceConfigQuerySerializer,
        ],
        request=s.QueueConfigInputSerializer,
    )
    def update(self, request: AuthenticatedRequest, name: str) -> Response:
        """Replace a whole queue configuration. If-Match with its ETag is required."""
        precondition = if_match(request, is_required=True)
        query = s.ReplaceConfigQuerySerializer.validated(request.query_params.dict())
        queue = get_queue_config(name, allowed_queues=request.auth.queues).spec.name
        with publication_result() as publication:
            config, _ = upsert_queue(
                config=s.QueueConfigInputSerializer.parse(request.data, replaces=queue),
                force=True,
                replaces_at_once=query["replace_at_once"],
                allowed_queues=request.auth.queues,
                precondition=precondition,
            )
        response = s.QueueConfigSavedSerializer(
            {"queue": config, "message": "Queue updated successfully", "published": publication.is_published}
        )
        return Response(response.data, headers={"ETag": quote_etag(spec_version(config.spec))})

    @operation(
        "delete_config",
        {
            200: s.QueueConfigDeletedSerializer,
            202: OpenApiResponse(
                s.QueueConfigDeletedSerializer,
                "The definition is deleted; maintenance deletes the tasks in `removed`: see Location",
            ),
        },
        errors=(409,),
        parameters=[
            s.DeleteConfigQuerySerializer,
            IF_MATCH,
            OpenApiParameter(
                "Prefer",
                str,
                OpenApiParameter.HEADER,
                description="`respond-async`: maintenance deletes the tasks, as it does for a queue of more than "
                f"{MAX_TASKS_AT_ONCE:,}",
            ),
        ],
    )
    def destroy(self, request: AuthenticatedRequest, name: str) -> Response:
        """Delete a queue configuration, and everything in Redis that belongs to the queue."""
        query = s.DeleteConfigQuerySerializer.validated(request.query_params.dict())
        with publication_result() as publication:
            deleted = delete_queue(
                get_broker(),
                name=name,
                force=query["force"],
                in_background=_prefers_async(request),
                allowed_queues=request.auth.queues,
                precondition=if_match(request),
            )
        done = "deleted successfully" if deleted.is_finished else "is deleted; its tasks are being deleted"
        message = f"Queue '{deleted.name}' {done}"
        response = s.QueueConfigDeletedSerializer(
            {"message": message, "removed": deleted, "published": publication.is_published}
        )
        if deleted.is_finished:
            return Response(response.data)
        location = f"/api/cli/configs/{quote(deleted.name, safe='')}/deletion"
        return Response(response.data, 202, headers={"Location": location})

    @operation(
        "get_config_deletion",
        s.QueueDeletionSerializer,
    )
    def deletion(self, request: AuthenticatedRequest, name: str) -> Response:
        """Show the Redis queues and tasks that are left of a queue that is being deleted. 404 once none are left."""
        progress = get_deletion_progress(get_broker(), name=name, allowed_queues=request.auth.queues)
        return Response(s.QueueDeletionSerializer(progress).data)

    @operation("reload_configs", ReloadReportSerializer, parameters=[ReloadQuerySerializer], request=None)
    def reload(self, request: AuthenticatedRequest, **_: str) -> Response:
        """Reload configurations from YAML. A file with an error changes nothing, and the others are loaded."""
        require_all_queues(request.auth)
        refuse_members(request)
        options = ReloadQuerySerializer.validated(request.query_params.dict())
        with publication_result() as publication:
            report = load_queue_files(directory=settings.QUEUE_WORKERS_DIR, **options)
        response = ReloadReportSerializer(
            {
                "report": report,
                "timestamp": clock.now_ns() // 10**9,
                "unserved": find_unserved(get_broker(), report.loaded),
                "published": publication.is_published,
            }
        )
        return Response(response.data)

    @operation(
        "apply_configs",
        AppliedQueuesSerializer,
        errors=(409,),
        parameters=[ApplyQuerySerializer],
        request=QueueFilesSerializer,
    )
    def apply(self, request: AuthenticatedRequest, **_: str) -> Response:
        """Save the queues and schedules of queue files as the files define them: all, or none if a file has an error.

        `runqy queue apply` sends its files here. `before` and `after` show what changes. Whether a queue is enabled
        is not in files, and stays. 503 may come after the queues were saved; the same request can be sent again.
        """
        require_all_queues(request.auth)
        options = ApplyQuerySerializer.validated(request.query_params.dict())
        files = QueueFilesSerializer.validated(request.data)["files"]
        with publication_result() as publication:
            applied = apply_queue_files(
                {file["name"]: file["content"].encode() for file in files},
                is_dry_run=options["dry_run"],
                prune=Prune(options["prune"]),
                force=options["force"],
                replaces_at_once=options["replace_at_once"],
            )
        content = {"dry_run": options["dry_run"], "applied": applied, "published": publication.is_published}
        return Response(AppliedQueuesSerializer(content).data)


def _prefers_async(request: AuthenticatedRequest) -> bool:
    """Return whether a client prefers not to wait (RFC 7240)."""
    preferences = request.headers.get("Prefer", "").lower().replace(";", ",").split(",")
    return "respond-async" in map(str.strip, preferences)
