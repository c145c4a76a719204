"""The state of the stream of ended runs of a Redis queue."""

from runqy.broker.request import Request
from runqy.broker.streams.run_log import StreamStatus, remove_runs


def read_stream_status(queue: str) -> Request[StreamStatus]:
    """Return the state of a stream, from which nothing is removed."""
    return remove_runs(queue, (0, -1))
