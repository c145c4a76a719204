"""Write and read the chunks that a task streams while it runs. Only those of its last run are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from runqy.broker import keys
from runqy.broker.constants import ARCHIVE_MAX_AGE_S
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number
from runqy.broker.request import Request
from runqy.broker.scripts import Value, script
from runqy.broker.tasks.lease import Lease
from runqy.broker.tasks.output import KEPT_S

MAX_CHUNK_BYTES = 64 << 10
MAX_CHUNKS = 10_000
"""The limit of a run."""
MAX_RUN_BYTES = 4 << 20
"""The limit of all chunks of a run together."""
MAX_READ_BYTES = 1 << 20
GAP = b"!1"
"""The entry that stands for a chunk that was not stored, because Redis was full. It is no JSON."""


class ChunkBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What a run streamed since the previous batch."""

    lease: Lease
    run_number: int
    """The number of the run: its lease's, or a higher one if the run has begun again since."""
    offset: int
    """The number of chunks before these, which have to be stored."""
    entries: tuple[bytes, ...] = ()
    """JSON, one for each chunk, or GAP."""
    retention_s: int = 0
    """How long the task is kept after its success."""

    @property
    def end(self) -> int:
        return self.offset + len(self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChunks:
    """The chunks of a task's last run, from an offset on."""

    run: int = 0
    """The number of the run; 0 if none has begun."""
    offset: int = 0
    """The number of entries of the run before these."""
    entries: tuple[bytes, ...] = ()
    """JSON of a chunk, or `!<n>` for `n` chunks that were dropped."""
    end: int = 0
    """The number of entries of the run. It is larger than `offset + len(entries)` if a call cannot return all, and
    smaller than `offset` while a worker repeats what Redis lost."""


def write_chunks(batches: Sequence[ChunkBatch]) -> Request[list[int | None]]:
    """Write chunks of tasks of one Redis queue. May be repeated.

    Return for each how many chunks of the run are stored now, fewer than before if Redis lost some; None if its lease
    was lost. Raise BrokerFull if Redis has no free memory: what is left is for results.
    """
    queue = QueueKeys.of(batches[0].lease.queue)
    task_and_chunks: list[str] = []
    runs: list[Value] = []
    for batch in batches:
        lease = batch.lease
        task_and_chunks += (queue.task(lease.task_id), queue.chunks(lease.task_id))
        runs += (lease.token, batch.run_number, batch.offset, batch.retention_s, keys.ended_channel(lease.task_id))
        runs += (len(batch.entries), *batch.entries)
    call = script("write_chunks")(
        task_and_chunks=task_and_chunks, kept_s=KEPT_S, ttl_archived=ARCHIVE_MAX_AGE_S, runs=runs
    )
    return Request((call,), lambda replies: [None if n < 0 else n for n in replies[0]], is_repeatable=True)


def mark_gap(batch: ChunkBatch) -> Request[bool]:
    """Record that a run streamed chunks up to the end of a batch, whether they are stored or not.

    For the last batch of a run, after `write_chunks`: it works when Redis has no free memory. May be repeated.
    """
    queue = QueueKeys.of(batch.lease.queue)
    call = script("mark_gap")(
        task=queue.task(batch.lease.task_id),
        chunks=queue.chunks(batch.lease.task_id),
        lease_token=batch.lease.token,
        run_number=batch.run_number,
        end=batch.end,
    )
    return Request((call,), lambda replies: bool(replies[0]), is_repeatable=True)


def read_chunks(queue: str, task_id: str, *, run: int = 0, offset: int = 0) -> Request[TaskChunks]:
    """Return the chunks of a task's last run, at most MAX_READ_BYTES, from an offset on.

    `offset` is of `run`. If that is not the last run, the chunks begin with the first one.
    """
    queue_keys = QueueKeys.of(queue)
    call = script("read_chunks")(
        task=queue_keys.task(task_id),
        chunks=queue_keys.chunks(task_id),
        run_number=run,
        offset=offset,
        max_bytes=MAX_READ_BYTES,
        max_entries=MAX_CHUNKS,
        gap=GAP,
    )
    return Request((call,), _parse, is_bulky=True, tolerates_wrong_types=True)


def count_dropped(entry: bytes) -> int:
    """Return the number of dropped chunks that an entry stands for; 0 if it is a chunk."""
    return (read_number(entry[1:]) or 1) if entry.startswith(b"!") else 0


def parse_position(runs: bytes | None, chunks: bytes | None) -> tuple[int, int]:
    """Return the number of a task's last run and how many chunks it has, given these fields of the task's hash."""
    run = read_number(runs) or 0
    of_run, _, end = (chunks or b"").partition(b":")
    return run, (read_number(end) or 0) if read_number(of_run) == run else 0


def _parse(replies: Sequence[Reply]) -> TaskChunks:
    if replies[0] is None:
        return TaskChunks()
    run, offset, end, entries = replies[0]
    return TaskChunks(run=run, offset=offset, entries=tuple(entries), end=end)
