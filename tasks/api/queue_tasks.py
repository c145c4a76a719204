"""The tasks of a queue over HTTP, for those who operate it: list, inspect, run, archive, delete, cancel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response

from runqy.accounts.identity import Role
from runqy.api.pagination import PAGE_PARAMETERS, CursorPagination
from runqy.api.preconditions import content_version, etag_response
from runqy.api.query_params import read_flag
from runqy.api.renderers import encode_json
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import IF_NONE_MATCH, problem_responses
from runqy.api.viewsets import ApiViewSet
from runqy.broker.listing import LISTED_STATES, Anchor
from runqy.broker.states import TaskState
from runqy.connection import get_broker
from runqy.errors import RequestInvalid
from tasks.api import examples
from tasks.api import serializers as s
from tasks.handling import MOST_AT_ONCE, Action, Selection, cancel_task, handle_task, handle_tasks, states_for
from tasks.listing import PageRequest, get_task_of, list_tasks_of

F = TypeVar("F", bound=Callable[..., Any])

ORDERS = {"oldest": False, "newest": True}
_ONE_TASK = problem_responses(401, 403, 404, 409, 429, 503)

LIST_PARAMETERS = [
    OpenApiParameter("state", str, enum=[state.value for state in LISTED_STATES], description="`pending` by default"),
    OpenApiParameter(
        "order", str, enum=list(ORDERS), description="`oldest` by default: the next to run or to expire first"
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskListCursor:
    """The end of a page, and which list it belongs to."""

    queue: str
    """As the path spells it."""
    state: TaskState
    is_newest_first: bool
    end: Anchor


class QueueTaskViewSet(ApiViewSet):
    """The tasks of a queue."""

    read_roles: ClassVar = frozenset({Role.CLIENT})
    action_roles: ClassVar = {"destroy": frozenset({Role.CLIENT})}
    allows_queue_scoped_keys = True

    @property
    def needs_confirmed_configuration(self) -> bool:
        return self.request.method not in SAFE_METHODS

    @extend_schema(
        operation_id="list_tasks",
        tags=["tasks"],
        parameters=[*LIST_PARAMETERS, *PAGE_PARAMETERS],
        responses={200: s.TaskPageSerializer, **problem_responses(400, 401, 403, 404, 429, 503)},
        examples=[examples.TASK_PAGE],
    )
    def list(self, request: AuthenticatedRequest, queue: str) -> Response:
        """List the tasks of a queue that are in a state.

        A page may have fewer tasks than `limit` when they are large; `next` is null on the last one. What stays in the
        state from the first page to the last is on exactly one of them.
        """
        paginator = CursorPagination(request)
        wanted = _read_page_request(request, queue, paginator)
        page = list_tasks_of(get_broker(), queue, wanted, allowed_queues=request.auth.queues)
        content = {"tasks": s.TaskSerializer(page.tasks, many=True).data, "count": len(page.tasks)}
        return paginator.get_paginated_response(content, _next_cursor(queue, wanted, page.end))

    @extend_schema(
        operation_id="get_queue_task",
        tags=["tasks"],
        parameters=[IF_NONE_MATCH],
        responses={
            200: s.TaskDetailSerializer,
            304: OpenApiResponse(description="Not modified"),
            **problem_responses(401, 403, 404, 429, 503),
        },
        examples=[examples.TASK],
    )
    def retrieve(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Show all that is known about a task: payload, result, attempts, every timestamp, its worker."""
        record = get_task_of(get_broker(), queue, task_id, allowed_queues=request.auth.queues)
        content = s.TaskDetailSerializer(record).data
        return etag_response(request, content, content_version(encode_json(content)))

    @extend_schema(
        operation_id="delete_task",
        tags=["tasks"],
        responses={200: s.TaskActionSerializer, **_ONE_TASK},
        examples=[examples.DELETED],
    )
    def destroy(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Delete a task that is not active, and all that is kept about it."""
        return self._apply(request, Action.DELETE, queue, task_id, "task deleted")

    @extend_schema(
        operation_id="run_task",
        tags=["tasks"],
        request=None,
        responses={200: s.TaskActionSerializer, **_ONE_TASK},
        examples=[examples.RUN],
    )
    def run(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Make a task pending. A finished task restarts with a fresh retry count."""
        return self._apply(request, Action.RUN, queue, task_id, "task pending")

    @extend_schema(
        operation_id="archive_task",
        tags=["tasks"],
        request=None,
        responses={200: s.TaskActionSerializer, **_ONE_TASK},
        examples=[examples.ARCHIVED],
    )
    def archive(self, request: AuthenticatedRequest, queue: str, task_id: str) -> Response:
        """Archive a task that waits: it does not run unless it is run later."""
        return self._apply(request, Action.ARCHIVE, queue, task_id, "task archived")

    def _apply(self, request: AuthenticatedRequest, action: Action, queue: str, task_id: str, message: str) -> Response:
        handle_task(get_broker(), action=action, queue=queue, task_id=task_id, allowed_queues=request.auth.queues)
        return Response(s.TaskActionSerializer({"message": message, "task_id": task_id}).data)


class CancelTaskViewSet(ApiViewSet):
    """Cancellation, by the task's id alone."""

    roles: ClassVar = frozenset({Role.CLIENT})
    allows_queue_scoped_keys = True

    @extend_schema(
        operation_id="cancel_task",
        tags=["tasks"],
        request=None,
        responses={
            200: OpenApiResponse(s.TaskActionSerializer, "It waited, and is archived"),
            202: OpenApiResponse(s.TaskActionSerializer, "It is active, and its worker is notified: see Location"),
            **_ONE_TASK,
        },
        examples=[examples.CANCELED, examples.CANCEL_ASKED],
    )
    def cancel(self, request: AuthenticatedRequest, task_id: str) -> Response:
        """Cancel a task: one that waits is archived at once, an active one is stopped by its worker."""
        is_archived = cancel_task(get_broker(), task_id=task_id, allowed_queues=request.auth.queues)
        message = "task cancelled" if is_archived else "task is being cancelled"
        content = s.TaskActionSerializer({"message": message, "task_id": task_id}).data
        if is_archived:
            return Response(content)
        return Response(content, 202, headers={"Location": f"/queue/{quote(task_id, safe='')}"})


def _bulk_schema(action: Action, description: str) -> Callable[[F], F]:
    """Return the schema of an action on all tasks of a state."""
    decorator: Callable[[F], F] = extend_schema(
        operation_id=f"{action}_tasks",
        summary=description.partition(".")[0],
        description=description,
        tags=["tasks"],
        parameters=[
            OpenApiParameter("state", str, required=True, enum=[state.value for state in states_for(action)]),
            OpenApiParameter(
                "limit",
                {"type": "integer", "minimum": 1},
                description=f"At most so many, the oldest first; {MOST_AT_ONCE} by default and at most",
            ),
            OpenApiParameter("dry_run", bool, description="Only count them"),
        ],
        request=None,
        responses={200: s.BulkActionSerializer, **problem_responses(400, 401, 403, 404, 429, 503)},
        examples=[examples.handled(action)],
    )
    return decorator


class BulkTaskViewSet(ApiViewSet):
    """Actions on all tasks of a queue that are in a state."""

    allows_queue_scoped_keys = True

    @_bulk_schema(Action.RUN, "Make all tasks of a state pending. Finished tasks restart with a fresh retry count.")
    def run(self, request: AuthenticatedRequest, queue: str) -> Response:
        return self._apply(request, Action.RUN, queue)

    @_bulk_schema(Action.ARCHIVE, "Archive all tasks of a state. An archive keeps the newest 10,000.")
    def archive(self, request: AuthenticatedRequest, queue: str) -> Response:
        return self._apply(request, Action.ARCHIVE, queue)

    @_bulk_schema(Action.DELETE, "Delete all tasks of a state, and all that is kept about them.")
    def delete_all(self, request: AuthenticatedRequest, queue: str) -> Response:
        return self._apply(request, Action.DELETE, queue)

    def _apply(self, request: AuthenticatedRequest, action: Action, queue: str) -> Response:
        selection = Selection(
            queue=queue,
            state=_read_state(request, states_for(action)),
            most=CursorPagination(request, default_limit=MOST_AT_ONCE, max_limit=MOST_AT_ONCE).limit,
        )
        is_dry_run = read_flag(request, "dry_run")
        handled = handle_tasks(
            get_broker(), action=action, selection=selection, is_dry_run=is_dry_run, allowed_queues=request.auth.queues
        )
        content = {
            "queue": handled.queue,
            "action": action,
            "state": selection.state,
            "dry_run": is_dry_run,
            "matched": handled.matched,
            "affected": handled.affected,
        }
        return Response(s.BulkActionSerializer(content).data)


def _read_page_request(request: Request, queue: str, paginator: CursorPagination) -> PageRequest:
    """Return which page of the queue's tasks a request asks for. Raises RequestInvalid."""
    state = _read_state(request, LISTED_STATES, default=TaskState.PENDING)
    order = request.query_params.get("order", "") or "oldest"
    if order not in ORDERS:
        raise RequestInvalid(errors=[f"order: must be one of {', '.join(ORDERS)}"])
    cursor = paginator.cursor(TaskListCursor)
    if cursor is not None and (cursor.queue, cursor.state, cursor.is_newest_first) != (queue, state, ORDERS[order]):
        raise RequestInvalid(errors=["cursor: belongs to a list of another queue, state or order"])
    return PageRequest(
        state=state,
        limit=paginator.limit,
        is_newest_first=ORDERS[order],
        after=None if cursor is None else cursor.end,
    )


def _next_cursor(queue: str, page: PageRequest, end: Anchor | None) -> TaskListCursor | None:
    """Return the cursor of the page after the one that ends there."""
    if end is None:
        return None
    return TaskListCursor(queue=queue, state=page.state, is_newest_first=page.is_newest_first, end=end)


def _read_state(request: Request, valid: tuple[TaskState, ...], *, default: TaskState | None = None) -> TaskState:
    """Return the state that a request names, one of the valid ones. Raises RequestInvalid."""
    text = request.query_params.get("state", "") or default
    if text not in valid:
        raise RequestInvalid(errors=[f"state: must be one of {', '.join(valid)}"])
    return TaskState(text)
