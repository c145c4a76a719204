"""Runs and ends tasks as workers do, and reads what clients are sent of them."""

from typing import Any, NamedTuple

from runqy.broker.broker import Broker
from runqy.broker.tasks.chunks import ChunkBatch, mark_gap, write_chunks
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.output import OutputChunk, write_output
from tests.api.client import Response
from tests.support.tasks import fail, put, take_one

LONG_S = 120.0
"""A poll this long after a change has missed it."""


def succeed(broker: Broker, taken: LeasedTask, result: bytes) -> None:
    """Record the success of a task."""
    broker.run(complete(taken.lease, taken.message, result, now_ns=broker.now_ns()))


def fail_for_good(broker: Broker, taken: LeasedTask, error: str) -> None:
    """Give a task up."""
    broker.run(archive(taken.lease, taken.message, error=error, now_ns=broker.now_ns()))


def run_again(broker: Broker, taken: LeasedTask) -> LeasedTask:
    """Let a run fail, and return the next."""
    fail(broker, taken)
    return take_one(broker, taken.lease.queue)


def stream(broker: Broker, taken: LeasedTask, *entries: bytes, offset: int = 0) -> None:
    """Write chunks that a run streamed."""
    batch = ChunkBatch(lease=taken.lease, run_number=taken.run_number, offset=offset, entries=entries)
    assert broker.run(write_chunks([batch])) == [batch.end]


def say(broker: Broker, taken: LeasedTask, text: bytes, offset: int = 0, **options: Any) -> None:
    """Write what a task printed."""
    broker.run(write_output([OutputChunk(lease=taken.lease, offset=offset, text=text, **options)]))


def drop_chunks(broker: Broker, taken: LeasedTask, *entries: bytes, offset: int = 0) -> None:
    """Record that chunks were streamed which Redis had no memory for."""
    batch = ChunkBatch(lease=taken.lease, run_number=taken.run_number, offset=offset, entries=entries)
    assert broker.run(mark_gap(batch))


def put_in(broker: Broker, state: str, *task_ids: str, queue: str = "simple", **options: Any) -> None:
    """Bring tasks into a state, one after the other."""
    for task_id in task_ids:
        starts_at_s = broker.now_s() + 60 if state == "scheduled" else None
        put(broker, task_id, queue=queue, process_at_s=starts_at_s, **options)
        if state not in ("pending", "scheduled"):
            _end(broker, take_one(broker, queue), state)


def _end(broker: Broker, taken: LeasedTask, state: str) -> None:
    """Let a task that runs come into a state; it may continue to run."""
    if state == "retry":
        failure = Failure(error="boom", retry_at_s=broker.now_s() + 60)
        broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))
    if state == "archived":
        fail_for_good(broker, taken, "boom")
    if state == "completed":
        succeed(broker, taken, b"1")


class Event(NamedTuple):
    """An event as a client reads it."""

    id: str
    name: str
    data: str


def parse_event(chunk: bytes) -> Event:
    """Return the event that a chunk leases, read as the HTML standard has it."""
    assert chunk.endswith(b"\n\n")
    fields: dict[str, list[str]] = {"id": [""], "event": [""], "data": []}
    for line in chunk.decode()[:-2].splitlines():
        name, _, value = line.partition(": ")
        fields.setdefault(name, []).append(value)
    return Event(fields["id"][-1], fields["event"][-1], "\n".join(fields["data"]))


def content_of(response: Response) -> bytes:
    content: bytes = b"".join(response) if response.streaming else response.content
    return content


def events_of(response: Response) -> list[Event]:
    """Return the events in a response that has ended."""
    return [parse_event(part + b"\n\n") for part in content_of(response).split(b"\n\n")[:-1]]
