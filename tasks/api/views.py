"""Tasks over HTTP."""

from typing import ClassVar

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema

from queues.queries import run_operation
from runqy.accounts.identity import Role
from runqy.api.answers import json_answer
from runqy.api.permissions import identity_of
from runqy.api.preconditions import conditional
from runqy.api.schema import IF_NONE_MATCH, problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker
from tasks.api.outputs import TaskAnswer, task_info
from tasks.api.waits import WAIT_PARAMETERS, read_wait, waited_answer
from tasks.queries import await_task, get_task

_INFO = {"id": "task-uuid", "queue": "inference_high"}
_ENDED = {"info": {**_INFO, "state": "completed", "result": "..."}}
_GOES_ON = {"info": {**_INFO, "state": "active", "result": None}}


class TaskView(KeyedView):
    """One task."""

    roles: ClassVar = frozenset({Role.CLIENT})

    @extend_schema(
        operation_id="get_task",
        tags=["tasks"],
        parameters=[*WAIT_PARAMETERS, IF_NONE_MATCH],
        responses={
            200: TaskAnswer,
            202: OpenApiResponse(TaskAnswer, "Waited, and it is not over yet"),
            304: OpenApiResponse(None, "It is as `If-None-Match` says"),
            **problems(400, 401, 403, 404, 503),
        },
        examples=[
            OpenApiExample("Answer", _ENDED, response_only=True, status_codes=["200"]),
            OpenApiExample("Goes on", _GOES_ON, response_only=True, status_codes=["202"]),
        ],
    )
    def get(self, request: HttpRequest, task_id: str) -> HttpResponse:
        """Tell a task's state and result, at once or, if asked to wait, when it is over."""
        wait = read_wait(request)
        allowed_queues = identity_of(request).queues
        if not wait.seconds:
            record = run_operation(get_task, task_id, allowed_queues=allowed_queues)
            return conditional(request, json_answer({"info": task_info(record)}))
        record = await_task(get_broker(), task_id, longest_s=wait.seconds, allowed_queues=allowed_queues)
        return conditional(request, waited_answer({"info": task_info(record)}, record, wait))
