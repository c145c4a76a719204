"""The tasks of a queue over HTTP, for operators: list, show, run, archive, delete, cancel."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse
from rest_framework.permissions import SAFE_METHODS
from rest_framework.response import Response

from runqy.api.etags import content_version, etag_response
from runqy.api.pagination import PagedList, SignedCursorPagination
from runqy.api.parsers import refuse_members
from runqy.api.renderers import encode_json
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import IF_NONE_MATCH, operation
from runqy.api.viewsets import ApiViewSet
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import Cancellation
from runqy.broker.tasks.listing import Anchor
from runqy.broker.tasks.record import TaskRecord
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker
from tasks.actions import (
    TaskAction,
    TaskFilter,
    apply_action,
    apply_to_matching,
    cancel_task,
)
from tasks.api import examples, hot_actions
from tasks.api import serializers as s
from tasks.api.calls import run_action
from tasks.api.events import EVENT_TYPE, LAST_EVENT_ID
from tasks.api.logs import LogQuerySerializer, find_position, task_logs
from tasks.queries import PageRequest, get_queue_task, get_task_output, list_queue_tasks

F = TypeVar("F", bound=Callable[..., Any])


class QueueTaskViewSet(ApiViewSet):
    """The tasks of a queue."""

    tag: ClassVar = "tasks"
    roles: ClassVar = frozenset({Role.OPERATOR})
    read_roles: ClassVar = frozenset({Role.CLIENT, Role.CONFIGURATOR})
    action_roles: ClassVar = {"destroy": frozenset({Role.CLIENT})}
    allows_queue_scoped_keys = True
    pagination_class = SignedCursorPagination

    @property
    def needs_confirmed_configuration(self) -> bool:
        return self.request.method not in SAFE_METHODS

    @operation(
        "list_tasks",
        s.TaskPageSerializer,
        parameters=[s.TaskListQuerySerializer],
        examples=[examples.TASK_PAGE],
    )
    def list(self, request: AuthenticatedRequest, queue: str) -> Response:
        """List the tasks of a queue that are in a state.

        A page may have fewer tasks than `limit` when they are large; `next` is null on the last one. A task that
        stays in the state from the first page to the last is on exactly one of them.
        """
        query = s.TaskListQuerySerializer.validated(request.query_params.dict())
        state, order = TaskState(query["state"]), query["order"]

        def read(limit: int, after: Anchor | None) -> tuple[Sequence[TaskRecord], Anchor | None]:
            wanted = PageRequest(state=state, limit=limit, is_newest_first=s.ORDERS[order], after=after)
            page = list_queue_tasks(get_broker(), queue, wanted, allowed_queues=request.auth.queues)
            return page.tasks, page.end

        identity = f"tasks {queue} {state} {order}"
        tasks = self.paginate_queryset(PagedList(read=read, position=Anchor, identity=identity))
        return self.get_paginated_response({"tasks": s.TaskSerializer(tasks, many=True).data, "count": len(tasks)})

    @operation(
        "get_queue_task",
        {200: s.TaskDetailSerializer, 304: OpenApiResponse(description="Not modified")},
        parameters=[IF_NONE_MATCH],
        examples=[examples.TASK],
    )
    def retrieve(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Show a task with all details: payload, result, attempts, timestamps, worker."""
        record = get_queue_task(get_broker(), queue, task_id, allowed_queues=request.auth.queues)
        content = s.TaskDetailSerializer(record).data
        return etag_response(request, content, content_version(encode_json(content)))

    @operation(
        "get_task_logs",
        {
            200: s.TaskLogsSerializer,
            (200, EVENT_TYPE): OpenApiResponse(OpenApiTypes.ANY, "With `follow`: events, until the task has ended"),
            204: OpenApiResponse(None, "With `follow`: `Last-Event-ID` names the end of the task"),
        },
        parameters=[LogQuerySerializer, LAST_EVENT_ID],
        examples=[examples.LOGS],
    )
    def logs(self, request: AuthenticatedRequest, queue: str, task_id: str) -> HttpResponseBase:
        """Show what a task printed, by attempt, or follow it.

        The last 64 KiB of each of the last five attempts are kept as long as the task. With `follow`: `output` for each
        new part, `end` once the task has ended, `gone` when it was deleted.
        """
        identity, last_event_id = request.auth, request.headers.get("Last-Event-ID", "")
        query = LogQuerySerializer.validated(request.query_params.dict())
        is_follower = query["follow"]
        position = find_position(query["attempt"], last_event_id if is_follower else "")
        location, output = get_task_output(
            get_broker(), queue, task_id, attempt=position.attempt, allowed_queues=identity.queues
        )
        if not is_follower:
            return Response(s.TaskLogsSerializer(task_logs(location, output, position.attempt)).data)
        return run_action(hot_actions.follow_output_at, request, location=location)

    @operation("delete_task", s.TaskActionSerializer, errors=(409,), examples=[examples.DELETED])
    def destroy(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Delete a task that is not active, with its payload and result."""
        return self._apply(request, TaskAction.DELETE, queue, task_id, "task deleted")

    @operation("run_task", s.TaskActionSerializer, errors=(409,), request=None, examples=[examples.RUN])
    def run(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Make a task pending. A finished task restarts with a fresh retry count."""
        return self._apply(request, TaskAction.RUN, queue, task_id, "task pending")

    @operation(
        "archive_task",
        s.TaskActionSerializer,
        errors=(409,),
        request=None,
        examples=[examples.ARCHIVED],
    )
    def archive(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Archive a task that has not started. It can be run later, until it expires."""
        return self._apply(request, TaskAction.ARCHIVE, queue, task_id, "task archived")

    def _apply(
        self, request: AuthenticatedRequest, action: TaskAction, queue: str, task_id: str, message: str
    ) -> Response:
        apply_action(get_broker(), action=action, queue=queue, task_id=task_id, allowed_queues=request.auth.queues)
        return Response(s.TaskActionSerializer({"message": message, "task_id": task_id}).data)


_CANCELLATIONS = {
    Cancellation.CANCELED: "task cancelled",
    Cancellation.REQUESTED: "task is being cancelled",
    Cancellation.REQUESTED_ELSEWHERE: "task is being cancelled, but a worker of another program runs it, which may not "
    "be able to interrupt it: it is archived when that worker puts it back",
}


class CancelTaskViewSet(ApiViewSet):
    """Cancellation, by the task's id alone."""

    tag: ClassVar = "tasks"
    roles: ClassVar = frozenset({Role.CLIENT, Role.OPERATOR})
    allows_queue_scoped_keys = True

    @operation(
        "cancel_task",
        {
            200: OpenApiResponse(s.TaskActionSerializer, "Archived: it had not started"),
            202: OpenApiResponse(s.TaskActionSerializer, "Active, and its worker was notified: see Location"),
        },
        errors=(409,),
        request=None,
        examples=[examples.CANCELED],
    )
    def cancel(self, request: AuthenticatedRequest, task_id: str) -> Response:
        """Cancel a task. One that has not started is archived at once, an active one is stopped by its worker."""
        outcome = cancel_task(get_broker(), task_id=task_id, allowed_queues=request.auth.queues)
        content = s.TaskActionSerializer({"message": _CANCELLATIONS[outcome], "task_id": task_id}).data
        if outcome is Cancellation.CANCELED:
            return Response(content)
        return Response(content, 202, headers={"Location": f"/queue/{quote(task_id, safe='')}"})


def _bulk_schema(action: TaskAction, description: str) -> Callable[[F], F]:
    decorator: Callable[[F], F] = operation(
        f"{action}_tasks",
        s.BulkActionSerializer,
        summary=description.partition(".")[0],
        description=description,
        parameters=[s.BULK_QUERIES[action]],
        request=None,
        examples=[examples.bulk_action(action)],
    )
    return decorator


class BulkTaskViewSet(ApiViewSet):
    """Actions on all tasks of a queue that are in a state."""

    tag: ClassVar = "tasks"
    roles: ClassVar = frozenset({Role.OPERATOR})
    allows_queue_scoped_keys = True

    @_bulk_schema(TaskAction.RUN, "Make all tasks of a state pending. Finished tasks restart with a fresh retry count.")
    def run(self, request: AuthenticatedRequest, queue: str) -> Response:
        return self._apply(request, TaskAction.RUN, queue)

    @_bulk_schema(
        TaskAction.ARCHIVE,
        "Archive all tasks of a state. An archive keeps the newest 10,000 tasks (RUNQY_ARCHIVE_MAX_TASKS).",
    )
    def archive(self, request: AuthenticatedRequest, queue: str) -> Response:
        return self._apply(request, TaskAction.ARCHIVE, queue)

    @_bulk_schema(TaskAction.DELETE, "Delete all tasks of a state, with their payloads and results.")
    def delete_all(self, request: AuthenticatedRequest, queue: str) -> Response:
        return self._apply(request, TaskAction.DELETE, queue)

    @_bulk_schema(
        TaskAction.RELEASE,
        "Move all scheduled tasks to retry, due at the same time. The Go system runs delayed tasks only from there.",
    )
    def release(self, request: AuthenticatedRequest, queue: str) -> Response:
        return self._apply(request, TaskAction.RELEASE, queue)

    def _apply(self, request: AuthenticatedRequest, action: TaskAction, queue: str) -> Response:
        refuse_members(request)
        query = s.BULK_QUERIES[action].validated(request.query_params.dict())
        task_filter = TaskFilter(queue=queue, state=TaskState(query["state"]), limit=query["limit"])
        is_dry_run = query["dry_run"]
        result = apply_to_matching(
            get_broker(),
            action=action,
            task_filter=task_filter,
            is_dry_run=is_dry_run,
            allowed_queues=request.auth.queues,
        )
        content = {
            "queue": result.queue,
            "action": action,
            "state": task_filter.state,
            "dry_run": is_dry_run,
            "matched": result.matched,
            "affected": result.affected,
        }
        return Response(s.BulkActionSerializer(content).data)
