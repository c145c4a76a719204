"""Tasks over HTTP, for clients: enqueue, enqueue a batch, get, stream events.

The data plane serves these routes too, with the same operations, parsers and serializers: see
docs/explanation/architecture.md.
"""

from dataclasses import replace
from typing import Any, ClassVar

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from queues.queries import run_with_fresh_catalog
from runqy.api.parsers import RawJSONParser, parse_idempotency_key
from runqy.api.renderers import encode_json
from runqy.api.requests import AuthenticatedRequest
from runqy.api.schema import IF_NONE_MATCH, problem_responses
from runqy.api.viewsets import ApiViewSet
from runqy.api_keys import Role
from runqy.broker.tasks.record import TaskRecord
from runqy.http.request_ids import trace_headers
from runqy.telemetry.tracing import enqueue_span
from tasks.api import examples
from tasks.api import serializers as s
from tasks.api.chunk_streams import NDJSON_TYPE, open_chunk_stream
from tasks.api.enqueue_bodies import parse_enqueue_key
from tasks.api.events import EVENT_HEADERS, EVENT_TYPE, LAST_EVENT_ID, is_end_known, open_event_stream
from tasks.api.waits import WAIT_PARAMETERS, Wait, blocking_client, enqueue_head, parse_wait, task_head
from tasks.enqueue_many import enqueue_tasks
from tasks.operations import enqueue_task
from tasks.queries import get_task
from tasks.waiting_loop import BlockingIterator, get_waiting_loop

_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="For 24 h a repeated request with this key gets the first response, with `Idempotent-Replayed`",
)


class TaskViewSet(ApiViewSet):
    """Tasks, found by their ids alone."""

    roles: ClassVar = frozenset({Role.CLIENT, Role.OPERATOR})
    read_roles: ClassVar = frozenset({Role.CONFIGURATOR})
    parser_classes = (RawJSONParser,)
    needs_confirmed_configuration = False

    @extend_schema(
        operation_id="enqueue_task",
        tags=["tasks"],
        parameters=[_IDEMPOTENCY_KEY, *WAIT_PARAMETERS],
        request=s.EnqueueSerializer,
        responses={
            200: s.EnqueueResponseSerializer,
            202: OpenApiResponse(s.EnqueueResponseSerializer, "Enqueued, and not ended after the wait: see Location"),
            **problem_responses(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
        },
        examples=[examples.ENQUEUE_BODY, examples.ENQUEUED],
    )
    def create(self, request: AuthenticatedRequest) -> Response:
        """Enqueue a task.

        Without `data`, all members of the body but the options are the payload.
        """
        body: Any = request.data or b""  # DRF calls no parser for an empty body
        task = _validated(s.EnqueueSerializer, body)
        wait = parse_wait(request.query_params.get("wait"), request.headers)
        key = parse_enqueue_key(request.headers.get("Idempotency-Key"), identity=request.auth, body=body, task=task)
        traceparent = request.headers.get("traceparent", "")
        with enqueue_span(task.queue, traceparent):
            enqueued = run_with_fresh_catalog(
                enqueue_task,
                task,
                is_awaited=wait.seconds > 0,
                allowed_queues=request.auth.queues,
                headers=trace_headers(traceparent),
                idempotency_key=key,
            )
        awaited = _wait_for_queued(enqueued.record, wait, request) if wait.seconds else None
        content = s.enqueue_response(enqueued, task, awaited)
        status, headers = enqueue_head(enqueued, awaited, wait)
        return Response(s.EnqueueResponseSerializer(content).data, status, headers=headers)

    @extend_schema(
        operation_id="enqueue_batch",
        tags=["tasks"],
        parameters=[_IDEMPOTENCY_KEY],
        request=s.AddBatchSerializer,
        responses={
            200: OpenApiResponse(s.AddBatchResponseSerializer, "At least one task was enqueued"),
            **problem_responses(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
        },
        examples=[examples.BATCH_BODY, examples.BATCH_ENQUEUED],
    )
    def create_batch(self, request: AuthenticatedRequest) -> Response:
        """Enqueue many tasks on one queue.

        A job is a payload, or an object with the payload in `data` and at most the task's own options beside it.
        """
        body: Any = request.data or b""  # DRF calls no parser for an empty body
        spec = replace(_validated(s.AddBatchSerializer, body), owner=request.auth.owner)
        key = parse_idempotency_key(
            request.headers.get("Idempotency-Key"), identity=request.auth, kind="batch", body=body
        )
        traceparent = request.headers.get("traceparent", "")
        with enqueue_span(spec.queue, traceparent):
            enqueued = run_with_fresh_catalog(
                enqueue_tasks,
                spec=spec,
                allowed_queues=request.auth.queues,
                headers=trace_headers(traceparent),
                idempotency_key=key,
            )
        headers = {"Idempotent-Replayed": "true"} if enqueued.is_replayed else None
        return Response(s.AddBatchResponseSerializer(enqueued).data, headers=headers)

    @extend_schema(
        operation_id="get_task",
        tags=["tasks"],
        auth=[{"ApiKey": []}],  # type: ignore[list-item] # PublicResultAuthentication has no scheme of its own
        parameters=[s.TaskQuerySerializer, *WAIT_PARAMETERS, IF_NONE_MATCH],
        responses={
            200: s.TaskResponseSerializer,
            202: OpenApiResponse(s.TaskResponseSerializer, "Not ended after the wait"),
            304: OpenApiResponse(None, "The version in `If-None-Match` is current"),
            **problem_responses(400, 401, 403, 404, 503),
        },
        examples=[examples.TASK_ENDED],
    )
    def retrieve(self, request: AuthenticatedRequest, task_id: str) -> Response:
        """Show the state and result of a task, at once or after waiting for its end.

        Beside a `result` that is a string, `info` also has its JSON text as `Result`. It is for the released Python
        SDK, which decodes a string once more; new clients ignore it, and `Task` does not have it.
        """
        wait = parse_wait(request.query_params.get("wait"), request.headers)
        wants_payload = s.parse_wants_payload(request.query_params.get("payload"))
        record = run_with_fresh_catalog(
            get_task, task_id, allowed_queues=request.auth.queues, wants_payload=wants_payload
        )
        if wait.seconds and not record.state.is_final:
            record = _wait_for_end(record, wait, request)
        content = s.TaskResponseSerializer(record).data
        status, headers = task_head(record, encode_json(content), wait, request.headers)
        return Response(None if status == 304 else content, status, headers=headers)

    @extend_schema(
        operation_id="stream_task_events",
        tags=["tasks"],
        parameters=[LAST_EVENT_ID],
        responses={
            (200, EVENT_TYPE): OpenApiResponse(OpenApiTypes.ANY, "Events, until the task has ended or is deleted"),
            204: OpenApiResponse(None, "`Last-Event-ID` names the end of the task"),
            **problem_responses(401, 403, 404, 503),
        },
        examples=[examples.EVENTS],
    )
    def events(self, request: AuthenticatedRequest, task_id: str) -> HttpResponseBase:
        """Stream what happens to a task as server-sent events.

        `state` for the current state and each change, `chunk` for what the current run streams, `reset` when another
        run begins, `gap` where chunks were dropped, `end` with the task once it has ended, `gone` when it was deleted.
        A comment is sent every 15 s. A client that reconnects sends `Last-Event-ID`, and receives what it misses.
        """
        last_event_id = request.headers.get("Last-Event-ID", "")
        record = run_with_fresh_catalog(get_task, task_id, allowed_queues=request.auth.queues)
        if is_end_known(record, last_event_id):
            return Response(status=204, headers=EVENT_HEADERS)
        if request.method == "HEAD":  # a stream would hold a thread for no body
            return HttpResponse(content_type=EVENT_TYPE, headers=EVENT_HEADERS)
        waiting = get_waiting_loop()
        stream = waiting.run(
            open_event_stream(
                waiting.waiters,
                record,
                client=blocking_client(request),
                last_event_id=last_event_id,
            )
        )
        chunks = BlockingIterator(waiting, stream)
        return StreamingHttpResponse(chunks, content_type=EVENT_TYPE, headers=EVENT_HEADERS)

    @extend_schema(
        operation_id="stream_task",
        tags=["tasks"],
        responses={
            (200, "text/plain"): OpenApiResponse(OpenApiTypes.STR, "Texts, until the run has succeeded"),
            (200, NDJSON_TYPE): OpenApiResponse(OpenApiTypes.ANY, "A line of JSON for each chunk"),
            **problem_responses(401, 403, 404, 409, 503),
        },
        examples=[examples.STREAM],
    )
    def stream(self, request: AuthenticatedRequest, task_id: str) -> HttpResponseBase:
        """Stream what a run of a task streams.

        Of the run in progress, of the next one if the task waits, of the last one if it has ended. Plain text if the
        first chunk is a text, else a line of JSON for each chunk; `Accept` with one of the types chooses it. A response
        that ends is complete: if the run fails or is interrupted, or chunks were dropped, the connection is closed
        before the end.
        """
        record = run_with_fresh_catalog(get_task, task_id, allowed_queues=request.auth.queues)
        is_head = request.method == "HEAD"  # it must not wait: it would hold a thread for no body
        waiting = get_waiting_loop()
        stream, content_type = waiting.run(
            open_chunk_stream(
                waiting.waiters,
                record,
                client=blocking_client(request),
                accept=request.headers.get("Accept", ""),
                waits=not is_head,
            )
        )
        chunks = BlockingIterator(waiting, stream)
        if is_head:
            chunks.close()
            return HttpResponse(content_type=content_type, headers=EVENT_HEADERS)
        return StreamingHttpResponse(chunks, content_type=content_type, headers=EVENT_HEADERS)


def _validated(serializer_class: type[BaseSerializer[Any]], body: bytes) -> Any:
    """Return the validated data of a body. Raise RequestInvalid."""
    serializer = serializer_class(data=body)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data


def _wait_for_end(record: TaskRecord, wait: Wait, request: AuthenticatedRequest) -> TaskRecord:
    """Block until a task has ended or the wait is over. Raise the errors of `ResultWaiters.wait_for_end`."""
    waiting = get_waiting_loop()
    client = blocking_client(request, wants_payload=record.has_payload)
    return waiting.run(
        waiting.waiters.wait_for_end(record.id, queue=record.queue, client=client, timeout_s=wait.seconds)
    )


def _wait_for_queued(record: TaskRecord, wait: Wait, request: AuthenticatedRequest) -> TaskRecord | None:
    """Block like `_wait_for_end`, for a task that was just enqueued; None if waiting is not possible."""
    waiting = get_waiting_loop()
    client = blocking_client(request)
    return waiting.run(
        waiting.waiters.wait_for_queued(record.id, queue=record.queue, client=client, timeout_s=wait.seconds)
    )
