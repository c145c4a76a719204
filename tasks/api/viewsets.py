"""Tasks over HTTP, for clients: enqueue, enqueue a batch, get, stream events.

The data plane serves these routes too, by the same coroutines of `hot_actions`: see
docs/explanation/architecture.md.
"""

from typing import ClassVar

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse

from runqy.api.parsers import RawJSONParser
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import IF_NONE_MATCH, operation
from runqy.api.viewsets import ApiViewSet
from runqy.core.api_keys import Role
from tasks.api import examples, hot_actions
from tasks.api import serializers as s
from tasks.api.calls import WAIT_PARAMETERS, run_action
from tasks.api.events import EVENT_TYPE, LAST_EVENT_ID
from tasks.api.streaming import NDJSON_TYPE

_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="For 24 h a repeated request with this key gets the first response, with `Idempotent-Replayed`",
)


class TaskViewSet(ApiViewSet):
    """Tasks, found by their ids alone."""

    tag: ClassVar = "tasks"
    roles: ClassVar = frozenset({Role.CLIENT, Role.OPERATOR})
    read_roles: ClassVar = frozenset({Role.CONFIGURATOR})
    parser_classes = (RawJSONParser,)
    needs_confirmed_configuration = False

    @operation(
        "enqueue_task",
        {
            200: s.EnqueueResponseSerializer,
            202: OpenApiResponse(s.EnqueueResponseSerializer, "Enqueued, and not ended after the wait: see Location"),
        },
        errors=(404, 409, 422),
        parameters=[_IDEMPOTENCY_KEY, *WAIT_PARAMETERS],
        request=s.EnqueueSerializer,
        examples=[examples.ENQUEUE_BODY, examples.ENQUEUED],
    )
    def create(self, request: AuthenticatedRequest) -> HttpResponseBase:
        """Enqueue a task.

        Without `data`, all members of the body but the options are the payload.
        """
        return run_action(hot_actions.enqueue, request)

    @operation(
        "enqueue_batch",
        OpenApiResponse(s.AddBatchResponseSerializer, "At least one task was enqueued"),
        errors=(404, 409, 422),
        parameters=[_IDEMPOTENCY_KEY],
        request=s.AddBatchSerializer,
        examples=[examples.BATCH_BODY, examples.BATCH_ENQUEUED],
    )
    def create_batch(self, request: AuthenticatedRequest) -> HttpResponseBase:
        """Enqueue many tasks on one queue.

        A job is a payload, or an object with the payload in `data` and at most the task's own options beside it.
        """
        return run_action(hot_actions.enqueue_batch, request)

    @operation(
        "get_task",
        {
            200: s.TaskResponseSerializer,
            202: OpenApiResponse(s.TaskResponseSerializer, "Not ended after the wait"),
            304: OpenApiResponse(None, "The version in `If-None-Match` is current"),
        },
        auth=[{"ApiKey": []}],  # PublicResultAuthentication has no scheme of its own
        parameters=[s.TaskQuerySerializer, *WAIT_PARAMETERS, IF_NONE_MATCH],
        examples=[examples.TASK_ENDED],
    )
    def retrieve(self, request: AuthenticatedRequest, task_id: str) -> HttpResponseBase:
        """Show the state and result of a task, at once or after waiting for its end.

        Beside a `result` that is a string, `info` also has its JSON text as `Result`. It is for the released Python
        SDK, which decodes a string once more; new clients ignore it, and `Task` does not have it.
        """
        return run_action(hot_actions.show_task, request, task_id=task_id)

    @operation(
        "stream_task_events",
        {
            (200, EVENT_TYPE): OpenApiResponse(OpenApiTypes.ANY, "Events, until the task has ended or is deleted"),
            204: OpenApiResponse(None, "`Last-Event-ID` names the end of the task"),
        },
        parameters=[LAST_EVENT_ID],
        examples=[examples.EVENTS],
    )
    def events(self, request: AuthenticatedRequest, task_id: str) -> HttpResponseBase:
        """Stream what happens to a task as server-sent events.

        `state` for the current state and each change, `chunk` for what the current run streams, `reset` when another
        run begins, `gap` where chunks were dropped, `end` with the task once it has ended, `gone` when it was deleted.
        A comment is sent every 15 s. A client that reconnects sends `Last-Event-ID`, and receives what it misses.
        """
        return run_action(hot_actions.stream_events, request, task_id=task_id)

    @operation(
        "stream_task",
        {
            (200, "text/plain"): OpenApiResponse(OpenApiTypes.STR, "Texts, until the run has succeeded"),
            (200, NDJSON_TYPE): OpenApiResponse(OpenApiTypes.ANY, "A line of JSON for each chunk"),
        },
        errors=(409,),
        examples=[examples.STREAM],
    )
    def stream(self, request: AuthenticatedRequest, task_id: str) -> HttpResponseBase:
        """Stream what a run of a task streams.

        Of the run in progress, of the next one if the task waits, of the last one if it has ended. Plain text if the
        first chunk is a text, else a line of JSON for each chunk; `Accept` with one of the types chooses it. A response
        that ends is complete: if the run fails or is interrupted, or chunks were dropped, the connection is closed
        before the end.
        """
        return run_action(hot_actions.stream_chunks, request, task_id=task_id)
