"""The hot route of batches: a coroutine that both planes run."""

from batches.api.events import open_batch_stream
from runqy.broker.request import AnyBroker
from tasks.api.calls import Call, Result
from tasks.api.events import EVENT_HEADERS, EVENT_STREAM_HEADERS
from tasks.waiting import ResultWaiters


async def stream_batch_events(_broker: AnyBroker, waiters: ResultWaiters, call: Call, *, batch_id: str) -> Result:
    """Return the progress of a batch as a stream of events."""
    last_event_id = call.headers.get("Last-Event-ID", "")
    client = call.waiting_client()
    stream = await call.wait(open_batch_stream(waiters, batch_id, client=client, last_event_id=last_event_id))
    if stream is None:
        return Result(None, 204, EVENT_HEADERS)
    if call.is_head:
        await call.wait(stream.aclose())
        return Result(None, 200, EVENT_STREAM_HEADERS)
    return Result(stream, 200, EVENT_STREAM_HEADERS)
