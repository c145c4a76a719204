"""Write what the runs of one queue stream to Redis: soon, in few round trips, and before their results."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.tasks.chunks import MAX_RUN_BYTES, ChunkBatch, mark_gap, write_chunks
from workers.runtime.background_writes import BackgroundWrites, PlannedWrite
from workers.runtime.task_runs import Run, RunStatus
from workers.runtime.task_stream import RunStream

INTERVAL_S = 0.05
"""How long chunks are collected before they are sent."""
BYTES_PER_ROUND_TRIP = 1 << 20
MAX_KEPT_BYTES = 64 << 20
"""What the kept chunks of all runs of a process may take: 256 runs of 4 MiB each would take a gigabyte. Half of it is
for chunks that Redis has, so that there is room for others."""

log = structlog.get_logger()


@dataclass(slots=True)
class KeptChunks:
    """What the kept chunks of all queues of this process take."""

    size_bytes: int = 0


kept_chunks = KeptChunks()


class ChunkWriter:
    """Collects the chunks of runs, and writes them."""

    def __init__(self, get_broker: Callable[[], AsyncBroker]) -> None:
        # The part of this queue.
        self._kept_bytes = 0
        # Runs with unstored chunks.
        self._unstored: dict[Run, RunStream] = {}
        self._writes = BackgroundWrites(get_broker, self._plan_next, interval_s=INTERVAL_S)

    def add(self, run: Run, chunk: bytes | None) -> str:
        """Add a chunk of a run; None: too long to be read. Return why the run must end; empty if it may continue."""
        stream = run.stream or RunStream(run.task.run_number)
        before = stream.kept_bytes
        has_room = kept_chunks.size_bytes + len(chunk or b"") <= MAX_KEPT_BYTES
        if error := stream.add(chunk, has_room=has_room):
            return f"stream_too_large: {error}"
        self._count_kept(stream.kept_bytes - before)
        self._schedule(run, stream)
        return ""

    def restart(self, run: Run) -> None:
        """Drop the chunks of a run that begins again, and have clients drop them too."""
        if run.stream is not None:
            self._count_kept(-run.stream.kept_bytes)
            self._schedule(run, RunStream(run.stream.run_number + 1))

    def plan_final(self, runs: Iterable[Run]) -> list[PlannedWrite]:
        """Return the writes to make before the results of runs are recorded."""
        if not self._unstored:
            return []
        batches = {
            run: self._unstored[run].next_batch(run.task, MAX_RUN_BYTES) for run in runs if run in self._unstored
        }
        # If Redis is full, clients learn of the gap before they learn of the end.
        gaps = [PlannedWrite(mark_gap(batch), lambda _: None) for batch in batches.values()]
        return [*self._plan(batches), *gaps]

    def forget(self, run: Run) -> None:
        """Drop the chunks of a run whose result is recorded."""
        self._unstored.pop(run, None)
        stream, run.stream = run.stream, None
        if stream is None:
            return
        self._count_kept(-stream.kept_bytes)
        if (stream.dropped or not stream.is_stored) and run.result and run.result.status is not RunStatus.LOST:
            # Redis was full, until the end or for too much to be kept. Readers get the event `gap`.
            task = {"task_id": run.task_id, "queue": run.task.lease.queue}
            log.warning("chunks_dropped", **task, dropped=stream.dropped, unstored_bytes=stream.unstored_bytes)

    async def close(self) -> None:
        await self._writes.close()
        self._count_kept(-self._kept_bytes)

    def _count_kept(self, size_bytes: int) -> None:
        self._kept_bytes += size_bytes
        kept_chunks.size_bytes += size_bytes

    def _schedule(self, run: Run, stream: RunStream) -> None:
        run.stream = self._unstored[run] = stream
        self._writes.schedule()

    def _plan_next(self) -> list[PlannedWrite]:
        """Return the writes of one round trip."""
        batches: dict[Run, ChunkBatch] = {}
        left = BYTES_PER_ROUND_TRIP
        for run, stream in list(self._unstored.items()):
            if left <= 0:
                break
            batches[run] = stream.next_batch(run.task, left)
            left -= sum(map(len, batches[run].entries))
            self._unstored[run] = self._unstored.pop(run)  # to the end: the next write begins with the others
        return self._plan(batches)

    def _plan(self, batches: dict[Run, ChunkBatch]) -> list[PlannedWrite]:
        """Return one write for each Redis queue."""
        by_queue: dict[str, dict[Run, ChunkBatch]] = {}
        for run, batch in batches.items():
            by_queue.setdefault(batch.lease.queue, {})[run] = batch
        return [PlannedWrite(write_chunks([*part.values()]), partial(self._record, part)) for part in by_queue.values()]

    def _record(self, batches: dict[Run, ChunkBatch], outcomes: Sequence[int | None]) -> None:
        """Drop what is stored, and the chunks of tasks whose leases were lost."""
        for (run, batch), stored in zip(batches.items(), outcomes, strict=True):
            if run.stream is not None and run.stream.run_number != batch.run_number:
                continue
            if run.stream is not None and stored is not None:
                self._confirm(run.stream, stored)
            if run.stream is None or run.stream.is_stored or stored is None:
                self._unstored.pop(run, None)
            else:
                self._unstored[run] = run.stream

    def _confirm(self, stream: RunStream, stored: int) -> None:
        stream.confirm(stored)
        if kept_chunks.size_bytes > MAX_KEPT_BYTES // 2:
            before = stream.kept_bytes
            stream.release_stored()
            self._count_kept(stream.kept_bytes - before)
