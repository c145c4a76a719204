"""Tasks over HTTP."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request

from runqy.accounts.identity import Role
from runqy.api.answers import json_answer
from runqy.api.bodies import read_members
from runqy.api.permissions import identity_of
from runqy.api.request_ids import trace_headers
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker
from tasks.api.inputs import MAX_WAIT_S, parse_order, read_wait_s
from tasks.api.outputs import EnqueueBody, TaskAnswer, task_info
from tasks.operations import enqueue_task
from tasks.queries import await_task, get_task

_WAIT = f"Seconds, or a duration such as `1m`, to wait for the task's end, at most {MAX_WAIT_S} s"


class EnqueueView(KeyedView):
    """Where tasks come in."""

    roles: ClassVar = frozenset({Role.CLIENT})

    @extend_schema(
        operation_id="enqueue_task",
        tags=["tasks"],
        request=EnqueueBody,
        responses={200: TaskAnswer, **problems(400, 401, 403, 404, 409, 413, 415, 503)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Put one task on a queue.

        Without `data`, all members of the body but the options are the payload.
        """
        order = parse_order(read_members(request._request))
        headers = trace_headers(request._request)
        record = enqueue_task(get_broker(), order=order, among=identity_of(request).queues, headers=headers)
        return json_answer({"info": task_info(record)})


class TaskView(KeyedView):
    """One task."""

    roles: ClassVar = frozenset({Role.CLIENT})

    @extend_schema(
        operation_id="get_task",
        tags=["tasks"],
        parameters=[
            OpenApiParameter("wait", str, description=_WAIT),
            OpenApiParameter("Prefer", str, OpenApiParameter.HEADER, description="`wait=<seconds>`, RFC 7240"),
        ],
        responses={
            200: TaskAnswer,
            202: OpenApiResponse(TaskAnswer, "Waited, and it is not over yet"),
            **problems(400, 401, 403, 404, 503),
        },
    )
    def get(self, request: Request, task_id: str) -> HttpResponse:
        """Tell a task's state and result, at once or, with `wait`, when it is over."""
        wait_s = read_wait_s(request.GET.get("wait"), request.META.get("HTTP_PREFER", ""))
        among = identity_of(request).queues
        if not wait_s:
            return json_answer({"info": task_info(get_task(get_broker(), task_id, among=among))})
        record = await_task(get_broker(), task_id, longest_s=wait_s, among=among)
        return json_answer({"info": task_info(record)}, status=200 if record.state.is_final else 202)
