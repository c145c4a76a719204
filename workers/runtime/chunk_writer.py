"""Write what the runs of one queue stream to Redis: soon, in few round trips, and before their results."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import structlog

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.tasks.chunks import MAX_RUN_BYTES, ChunkBatch, mark_gap, write_chunks
from workers.runtime.background_writes import BackgroundWrites, PlannedWrite
from workers.runtime.task_runs import Run, RunStatus
from workers.runtime.task_stream import RunStream

INTERVAL_S = 0.025
"""How long chunks are collected before they are sent."""
BYTES_PER_ROUND_TRIP = 1 << 20

log = structlog.get_logger()


class ChunkWriter:
    """Collects the chunks of runs, and writes them."""

    def __init__(self, get_broker: Callable[[], AsyncBroker]) -> None:
        # Runs with unstored chunks.
        self._unstored: dict[Run, RunStream] = {}
        self._writes = BackgroundWrites(get_broker, self._plan_next, interval_s=INTERVAL_S)

    def add(self, run: Run, chunk: bytes | None) -> str:
        """Add a chunk of a run; None: too long to be read. Return why the run must end; empty if it may continue."""
        stream = run.stream or RunStream(run.task.run_number)
        if error := stream.add(chunk):
            return f"stream_too_large: {error}"
        self._schedule(run, stream)
        return ""

    def restart(self, run: Run) -> None:
        """Drop the chunks of a run that begins again, and have clients drop them too."""
        if run.stream is not None:
            self._schedule(run, RunStream(run.stream.run_number + 1))

    def plan_final(self, runs: Iterable[Run]) -> list[PlannedWrite]:
        """Return the writes to make before the results of runs are recorded."""
        batches = {
            run: self._unstored[run].next_batch(run.task, MAX_RUN_BYTES) for run in runs if run in self._unstored
        }
        # If Redis is full, clients learn of the gap before they learn of the end.
        gaps = [PlannedWrite(mark_gap(batch), lambda _: None) for batch in batches.values()]
        return [*self._plan(batches), *gaps]

    def forget(self, run: Run) -> None:
        """Drop the chunks of a run whose result is recorded."""
        stream = self._unstored.pop(run, None)
        run.stream = None
        if stream and not stream.is_stored and run.result and run.result.status is not RunStatus.LOST:
            # Redis was full until the end. Readers get the event `gap`.
            log.warning("chunks_dropped", task_id=run.task_id, queue=run.task.lease.queue, bytes=stream.unstored_bytes)

    async def close(self) -> None:
        await self._writes.close()

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
                run.stream.confirm(stored)
            if run.stream is None or run.stream.is_stored or stored is None:
                self._unstored.pop(run, None)
            else:
                self._unstored[run] = run.stream
