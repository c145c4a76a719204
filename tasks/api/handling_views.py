"""The tasks of a queue over HTTP, for those who look after it: one by one."""

from typing import ClassVar
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view

from runqy.accounts.identity import Role
from runqy.api.answers import json_answer
from runqy.api.pagination import PAGE_PARAMETERS, page_answer
from runqy.api.permissions import identity_of
from runqy.api.preconditions import is_known, not_modified, tagged, version_of
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker
from tasks.api import handling_examples as examples
from tasks.api import handling_outputs as outputs
from tasks.api.creating_views import EnqueueView
from tasks.api.handling_inputs import LIST_PARAMETERS, next_cursor, read_page
from tasks.api.outputs import task_info
from tasks.handling import Action, cancel_task, handle_task
from tasks.listing import get_task_of, list_tasks_of

_ONE_TASK = problems(401, 403, 404, 409, 429, 503)


@extend_schema_view(post=extend_schema(operation_id="create_task"))
class CreateTaskView(EnqueueView):
    """Where tasks come in, at the command line's path."""


class QueueTasksView(KeyedView):
    """The tasks of a queue."""

    roles: ClassVar = frozenset({Role.CLIENT})

    @extend_schema(
        operation_id="list_tasks",
        tags=["tasks"],
        parameters=[*LIST_PARAMETERS, *PAGE_PARAMETERS],
        responses={200: outputs.TaskPage, **problems(400, 401, 403, 404, 429, 503)},
        examples=[examples.TASK_PAGE],
    )
    def get(self, request: HttpRequest, queue: str) -> HttpResponse:
        """List the tasks of a queue that are in a state.

        A page may have fewer tasks than were asked for, when they are large; `next` is null on the last one. What stays
        in the state from the first page to the last is on exactly one of them.
        """
        asked = read_page(request, queue)
        page = list_tasks_of(get_broker(), queue, asked, allowed_queues=identity_of(request).queues)
        content = {"tasks": [task_info(record) for record in page.tasks], "count": len(page.tasks)}
        return page_answer(request, content, next_cursor(queue, asked, page.end))


class QueueTaskView(KeyedView):
    """One task of a queue."""

    readers: ClassVar = frozenset({Role.CLIENT})
    is_of_queues = True

    @extend_schema(
        operation_id="get_queue_task",
        tags=["tasks"],
        parameters=[
            OpenApiParameter("If-None-Match", str, OpenApiParameter.HEADER, description="The ETag that is known")
        ],
        responses={
            200: outputs.TaskDetailOutput,
            304: OpenApiResponse(description="As it was"),
            **problems(401, 403, 404, 429, 503),
        },
        examples=[examples.TASK],
    )
    def get(self, request: HttpRequest, queue: str, task_id: str) -> HttpResponse:
        """Tell all about a task: payload, result, attempts, every time, who runs it."""
        record = get_task_of(get_broker(), queue, task_id, allowed_queues=identity_of(request).queues)
        answer = json_answer(outputs.task_detail(record))
        version = version_of(answer.content)
        return not_modified(version) if is_known(request, version) else tagged(answer, version)

    @extend_schema(
        operation_id="delete_task",
        tags=["tasks"],
        responses={200: outputs.TaskHandled, **_ONE_TASK},
        examples=[examples.DELETED],
    )
    def delete(self, request: HttpRequest, queue: str, task_id: str) -> HttpResponse:
        """Delete a task that does not run, and all that is kept about it."""
        allowed_queues = identity_of(request).queues
        handle_task(get_broker(), action=Action.DELETE, queue=queue, task_id=task_id, allowed_queues=allowed_queues)
        return json_answer({"message": "task deleted", "task_id": task_id})


class CancelView(KeyedView):
    """What cancels a task."""

    is_of_queues = True

    @extend_schema(
        operation_id="cancel_task",
        tags=["tasks"],
        responses={
            200: OpenApiResponse(outputs.TaskHandled, "It waited, and is archived"),
            202: OpenApiResponse(outputs.TaskHandled, "It runs, and its worker was told: see Location"),
            **_ONE_TASK,
        },
        examples=[examples.CANCELED, examples.CANCEL_ASKED],
    )
    def delete(self, request: HttpRequest, task_id: str) -> HttpResponse:
        """Cancel a task: one that waits is archived at once, one that runs is stopped by its worker."""
        return _cancel(request, task_id)


class CancelAliasView(KeyedView):
    """What cancels a task, as released clients ask for it."""

    is_of_queues = True

    @extend_schema(
        operation_id="cancel_task",
        tags=["tasks"],
        request=None,
        responses={200: outputs.TaskHandled, 202: outputs.TaskHandled, **_ONE_TASK},
        examples=[examples.CANCELED, examples.CANCEL_ASKED],
    )
    def post(self, request: HttpRequest, task_id: str) -> HttpResponse:
        """Cancel a task."""
        return _cancel(request, task_id)


class RunTaskView(KeyedView):
    """What runs a task before its time, or once more."""

    is_of_queues = True

    @extend_schema(
        operation_id="run_task",
        tags=["tasks"],
        request=None,
        responses={200: outputs.TaskHandled, **_ONE_TASK},
        examples=[examples.RUN],
    )
    def post(self, request: HttpRequest, queue: str, task_id: str) -> HttpResponse:
        """Make a task pending. One that is over starts anew, its retries unspent."""
        allowed_queues = identity_of(request).queues
        handle_task(get_broker(), action=Action.RUN, queue=queue, task_id=task_id, allowed_queues=allowed_queues)
        return json_answer({"message": "task pending", "task_id": task_id})


class ArchiveTaskView(KeyedView):
    """What gives a task up."""

    is_of_queues = True

    @extend_schema(
        operation_id="archive_task",
        tags=["tasks"],
        request=None,
        responses={200: outputs.TaskHandled, **_ONE_TASK},
        examples=[examples.ARCHIVED],
    )
    def post(self, request: HttpRequest, queue: str, task_id: str) -> HttpResponse:
        """Archive a task that waits: it will not run, and can be run later."""
        allowed_queues = identity_of(request).queues
        handle_task(get_broker(), action=Action.ARCHIVE, queue=queue, task_id=task_id, allowed_queues=allowed_queues)
        return json_answer({"message": "task archived", "task_id": task_id})


def _cancel(request: HttpRequest, task_id: str) -> HttpResponse:
    """Cancel a task and tell what came of it."""
    if cancel_task(get_broker(), task_id=task_id, allowed_queues=identity_of(request).queues):
        return json_answer({"message": "task cancelled", "task_id": task_id})
    answer = json_answer({"message": "task is being cancelled", "task_id": task_id}, status=202)
    answer["Location"] = f"/queue/{quote(task_id, safe='')}"
    return answer
