"""The hot routes of tasks: one coroutine for each, which both planes run."""

from dataclasses import replace

import msgspec

from queues.queries import get_catalog
from runqy.api.parsers import parse_idempotency_key
from runqy.api.renderers import encode_json
from runqy.broker.request import AnyBroker
from runqy.broker.tasks.reader import TaskLocation
from runqy.core.telemetry.tracing import enqueue_span, trace_headers
from tasks.api.calls import Call, Result, enqueue_head, parse_wait, task_head
from tasks.api.enqueue_bodies import parse_add_batch, parse_enqueue, parse_enqueue_key
from tasks.api.events import EVENT_HEADERS, EVENT_STREAM_HEADERS, is_end_known, open_event_stream
from tasks.api.logs import END_ID, LogQuerySerializer, OutputPosition, find_position, open_output_stream
from tasks.api.serializers import add_batch_response, enqueue_response, parse_wants_payload, task_response
from tasks.api.streaming import open_chunk_stream
from tasks.enqueue_many import enqueue_tasks
from tasks.operations import enqueue_task
from tasks.queries import get_task, read_task_output
from tasks.waiting import ResultWaiters


async def enqueue(broker: AnyBroker, waiters: ResultWaiters, call: Call) -> Result:
    """Enqueue a task, and wait for its end if the client does."""
    headers, identity = call.headers, call.identity
    task = parse_enqueue(call.body)
    wait = parse_wait(call.query.get("wait"), headers)
    key = parse_enqueue_key(headers.get("Idempotency-Key"), identity=identity, body=call.body, task=task)
    traceparent = headers.get("traceparent", "")
    with enqueue_span(task.queue, traceparent):
        enqueued = await enqueue_task(
            broker,
            task,
            is_awaited=wait.seconds > 0,
            allowed_queues=identity.queues,
            headers=trace_headers(traceparent),
            idempotency_key=key,
        )
    awaited, has_unique_key = None, bool(task.unique_key)
    if wait.seconds:
        del task

        def release_body() -> None:
            nonlocal enqueued
            call.release_body()  # thousands may wait, and their payloads may be large
            enqueued = msgspec.structs.replace(enqueued, record=enqueued.record.without_payload())

        awaited = await call.wait(
            waiters.wait_for_queued(
                enqueued.record.id,
                queue=enqueued.record.queue,
                client=call.waiting_client(),
                timeout_s=wait.seconds,
                on_wait=release_body,
            )
        )
    response = enqueue_response(enqueued, awaited, has_unique_key=has_unique_key)
    return Result(response, *enqueue_head(enqueued, awaited, wait))


async def enqueue_batch(broker: AnyBroker, waiters: ResultWaiters, call: Call) -> Result:
    """Enqueue many tasks on one queue."""
    headers, identity = call.headers, call.identity
    spec = replace(parse_add_batch(call.body), owner=identity.owner)
    key = parse_idempotency_key(headers.get("Idempotency-Key"), identity=identity, kind="batch", body=call.body)
    traceparent = headers.get("traceparent", "")
    with enqueue_span(spec.queue, traceparent):
        enqueued = await enqueue_tasks(
            broker,
            spec=spec,
            allowed_queues=identity.queues,
            headers=trace_headers(traceparent),
            idempotency_key=key,
        )
    return Result(add_batch_response(enqueued), headers={"Idempotent-Replayed": "true"} if enqueued.is_replayed else {})


async def show_task(broker: AnyBroker, waiters: ResultWaiters, call: Call, *, task_id: str) -> Result:
    """Return a task, after a wait for its end if the client waits."""
    wait = parse_wait(call.query.get("wait"), call.headers)
    wants_payload = parse_wants_payload(call.query.get("payload"))
    allowed_queues = call.identity.queues
    record = await get_task(broker, task_id, allowed_queues=allowed_queues, wants_payload=wants_payload)
    if wait.seconds and not record.state.is_final:
        client = call.waiting_client(wants_payload=wants_payload)
        waiting = waiters.wait_for_end(task_id, queue=record.queue, client=client, timeout_s=wait.seconds)
        del record  # thousands may wait, and its payload may be large
        record = await call.wait(waiting)
    body = encode_json(task_response(record))
    status, headers = task_head(record, body, wait, call.headers)
    return Result(None if status == 304 else msgspec.Raw(body), status, headers)


async def stream_events(broker: AnyBroker, waiters: ResultWaiters, call: Call, *, task_id: str) -> Result:
    """Return what happens to a task as a stream of events."""
    last_event_id = call.headers.get("Last-Event-ID", "")
    record = await get_task(broker, task_id, allowed_queues=call.identity.queues)
    if is_end_known(record, last_event_id):
        return Result(None, 204, EVENT_HEADERS)
    if call.is_head:
        return Result(None, 200, EVENT_STREAM_HEADERS)
    client = call.waiting_client()
    stream = await call.wait(open_event_stream(waiters, record, client=client, last_event_id=last_event_id))
    return Result(stream, 200, EVENT_STREAM_HEADERS)


async def stream_chunks(broker: AnyBroker, waiters: ResultWaiters, call: Call, *, task_id: str) -> Result:
    """Return what a run of a task streams."""
    record = await get_task(broker, task_id, allowed_queues=call.identity.queues)
    client, accept = call.waiting_client(), call.headers.get("Accept", "")
    stream, content_type = await call.wait(
        open_chunk_stream(waiters, record, client=client, accept=accept, waits=not call.is_head)
    )
    headers = {"Content-Type": content_type, **EVENT_HEADERS}
    if call.is_head:
        await call.wait(stream.aclose())
        return Result(None, 200, headers)
    return Result(stream, 200, headers)


async def follow_output(broker: AnyBroker, waiters: ResultWaiters, call: Call, *, queue: str, task_id: str) -> Result:
    """Return what a task of a queue in the catalog prints as a stream of events."""
    resolved = get_catalog().resolve(queue, allowed_queues=call.identity.queues)
    return await follow_output_at(broker, waiters, call, location=(resolved.redis_queue, task_id))


async def follow_output_at(broker: AnyBroker, waiters: ResultWaiters, call: Call, *, location: TaskLocation) -> Result:
    """Return what a task prints as a stream of events."""
    position = requested_position(call)
    if call.is_head or call.headers.get("Last-Event-ID", "") == END_ID:
        await read_task_output(broker, location, attempt=position.attempt)
        return Result(None, 200, EVENT_STREAM_HEADERS) if call.is_head else Result(None, 204, EVENT_HEADERS)
    stream = await call.wait(open_output_stream(waiters, location, position, client=call.waiting_client()))
    return Result(stream, 200, EVENT_STREAM_HEADERS)


def requested_position(call: Call) -> OutputPosition:
    """Return where a client begins to follow. Raise RequestInvalid."""
    attempt = call.query.get("attempt")
    query = LogQuerySerializer.validated({} if attempt is None else {"attempt": attempt})
    return find_position(query["attempt"], call.headers.get("Last-Event-ID", ""))
