"""Where tasks come in."""

from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from queues.queries import run_operation
from runqy.accounts.identity import Role
from runqy.api.answers import json_answer
from runqy.api.bodies import members_of, read_body
from runqy.api.idempotency import read_once
from runqy.api.permissions import identity_of
from runqy.api.request_ids import trace_headers
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker
from tasks.api.batches import BatchAnswer, BatchBody, batch_info, parse_batch
from tasks.api.inputs import parse_order
from tasks.api.outputs import EnqueueBody, EnqueuedAnswer, task_info
from tasks.api.waits import WAIT_PARAMETERS, Wait, read_wait, waited_answer
from tasks.batches import enqueue_batch
from tasks.operations import EnqueuedTask, enqueue_task
from tasks.queries import await_queued_task
from tasks.task_specs import TaskSpec

_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="For 24 h the same request under the same key gets the first answer, with `Idempotent-Replayed: true`",
)
_TASK = OpenApiExample(
    "A task",
    request_only=True,
    value={"queue": "inference_high", "timeout": 300, "data": {"prompt": "Hello world", "width": 1024}},
)
_QUEUED = OpenApiExample(
    "Queued",
    response_only=True,
    status_codes=["200"],
    value={"info": {"id": "task-uuid", "queue": "inference_high", "state": "pending"}},
)
_GOES_ON = OpenApiExample(
    "Goes on",
    response_only=True,
    status_codes=["202"],
    value={"info": {"id": "task-uuid", "queue": "inference_high", "state": "active"}},
)
_BATCH = OpenApiExample(
    "Two tasks",
    request_only=True,
    value={
        "queue": "inference_high",
        "timeout": 300,
        "jobs": [{"prompt": "Hello world"}, {"timeout": 60, "data": {"prompt": "Hello again"}}],
    },
)
_BATCH_QUEUED = OpenApiExample(
    "Both queued",
    response_only=True,
    status_codes=["200"],
    value={
        "enqueued": 2,
        "failed": 0,
        "task_ids": ["task-uuid-1", "task-uuid-2"],
        "errors": [None, None],
        "existing": [],
    },
)


class EnqueueView(KeyedView):
    """Where single tasks come in."""

    roles: ClassVar = frozenset({Role.CLIENT})

    @extend_schema(
        operation_id="enqueue_task",
        tags=["tasks"],
        parameters=[_IDEMPOTENCY_KEY, *WAIT_PARAMETERS],
        request=EnqueueBody,
        responses={
            200: EnqueuedAnswer,
            202: OpenApiResponse(EnqueuedAnswer, "Queued, and after the wait not over yet: see Location"),
            **problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
        },
        examples=[_TASK, _QUEUED, _GOES_ON],
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Put one task on a queue.

        Without `data`, all members of the body but the options are the payload.
        """
        body = read_body(request)
        spec = parse_order(members_of(body))
        wait = read_wait(request)
        made = run_operation(
            enqueue_task,
            spec=spec.awaited() if wait.seconds else spec,
            allowed_queues=identity_of(request).queues,
            headers=trace_headers(request),
            idempotency_key=read_once(request, kind="task", body=body),
        )
        answer = _answer(made, spec, wait)
        if made.is_replayed:
            answer["Idempotent-Replayed"] = "true"
        return answer


class BatchView(KeyedView):
    """Where many tasks come in at once."""

    roles: ClassVar = frozenset({Role.CLIENT})

    @extend_schema(
        operation_id="enqueue_batch",
        tags=["tasks"],
        parameters=[_IDEMPOTENCY_KEY],
        request=BatchBody,
        responses={
            200: OpenApiResponse(BatchAnswer, "At least one of the tasks is queued"),
            **problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
        },
        examples=[_BATCH, _BATCH_QUEUED],
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Put many tasks on one queue.

        A job is a payload, or an object with the payload in `data` and at most the task's own options beside it.
        """
        body = read_body(request)
        batch = run_operation(
            enqueue_batch,
            spec=parse_batch(members_of(body)),
            allowed_queues=identity_of(request).queues,
            headers=trace_headers(request),
            idempotency_key=read_once(request, kind="batch", body=body),
        )
        answer = json_answer(batch_info(batch))
        if batch.is_replayed:
            answer["Idempotent-Replayed"] = "true"
        return answer


def _answer(made: EnqueuedTask, spec: TaskSpec, wait: Wait) -> HttpResponse:
    """Return what is said about a task that was queued, at once or when its client has waited long enough."""
    record = made.record
    awaited = await_queued_task(get_broker(), record.id, longest_s=wait.seconds) if wait.seconds else None
    content: dict[str, Any] = {"info": task_info(awaited or record)}
    if spec.unique is not None:
        content["existing"] = made.is_existing
    if not wait.seconds:
        return json_answer(content)
    return waited_answer(content, awaited or record, wait if awaited else Wait(0))
