"""The hot route of batches, a coroutine that both planes run: the progress of a batch as server-sent events.

`progress` is sent with the present counts and whenever they have changed, `end` with the batch once it has ended,
`gone` if it is deleted.
"""

from collections.abc import AsyncGenerator

import msgspec

from batches.api.serializers import BatchSerializer
from batches.models import Batch, MemberState
from batches.waiting import BatchWaiter, batch_waiters, describe_progress
from runqy.api.renderers import encode_json
from runqy.broker.request import AnyBroker
from tasks.api.calls import Call, Result
from tasks.api.events import EVENT_HEADERS, EVENT_STREAM_HEADERS, HEARTBEAT, render_gone, render_sse
from tasks.api.streaming import StreamBody
from tasks.waiting import ResultWaiters, WaitingClient

END_ID = "end"


class BatchProgressEvent(msgspec.Struct, frozen=True):
    """The data of the event `progress`."""

    id: str
    closed: bool
    canceled: bool
    total: int
    counts: dict[str, int]


class BatchEvents:
    """The events of a batch. See `StreamSource`."""

    heartbeat = HEARTBEAT
    breaks = False

    def __init__(self, waiter: BatchWaiter) -> None:
        self.is_over = False
        self.status: object = None
        self._waiter = waiter

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yield the event since the last call, if there is any: of what all that wait have read together."""
        batch = self._waiter.batch
        progress, known = describe_progress(batch), self.status
        self.status = progress
        if batch is None:
            yield self.render_gone()
        elif batch.ended_at is not None:
            self.is_over = True
            yield render_sse("end", encode_json(BatchSerializer(batch).data), END_ID)
        elif progress != known:
            yield _render_progress(batch)

    def render_gone(self) -> bytes:
        self.is_over = True
        return render_gone(self._waiter.batch_id)


def _render_progress(batch: Batch) -> bytes:
    counts = {state: batch.counts.get(state, 0) for state in MemberState.values}
    event = BatchProgressEvent(batch.pk, batch.is_closed, batch.is_canceled, batch.total, counts)
    return render_sse("progress", encode_json(event))


async def open_batch_stream(
    waiters: ResultWaiters, batch_id: str, *, client: WaitingClient, last_event_id: str
) -> StreamBody | None:
    """Return the events of a batch, starting with its present counts. The caller must close the stream.

    None if the client has received the last event: a response of 204 stops it from reconnecting. The stream ends with
    the batch, and when the client's key is no longer accepted. Raise TooManyWaiters, BatchNotFound,
    DatabaseUnavailable.
    """
    waiter = await batch_waiters(waiters).add(batch_id, client=client, follows=True)
    if waiter.batch is not None and waiter.batch.ended_at is not None and last_event_id == END_ID:
        waiter.leave()
        return None
    stream = StreamBody(BatchEvents(waiter), client, waiter)
    await stream.open()
    return stream


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
