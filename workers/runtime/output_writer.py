"""Write to Redis what runs produce while they run: in the background, and the rest before their results.

The output of one queue's runs is written in batches, at a limited rate; what they stream soon, in few round trips.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.request import Request
from runqy.broker.tasks.chunks import MAX_RUN_BYTES, ChunkBatch, mark_gap, write_chunks
from runqy.broker.tasks.output import MAX_BYTES, OutputChunk, write_output
from runqy.broker.tasks.record import TaskProgress
from runqy.errors import BrokerUnavailable, RunqyError
from workers.runtime.logs import TokenBucket
from workers.runtime.redaction import secrets
from workers.runtime.task_output import RunOutput
from workers.runtime.task_runs import Run, RunStatus
from workers.runtime.task_stream import RunStream

RETRY_S = 2.0

CHUNKS_INTERVAL_S = 0.05
"""How long chunks are collected before they are sent."""
BYTES_PER_ROUND_TRIP = 1 << 20
MAX_KEPT_BYTES = 64 << 20
"""What the kept chunks of all runs of a process may take: 256 runs of 4 MiB each would take a gigabyte. Half of it is
for chunks that Redis has, so that there is room for others."""
INTERVAL_S = 0.5
"""How long output is collected before it is sent. A run's progress is not written more often either."""
TAIL_BYTES = 4 << 10
"""What each run may send beyond the rate, so that the end of its output is kept."""
BYTES_PER_SECOND, BURST_BYTES = 1 << 20, 4 << 20
BUFFER_BYTES = 8 << 20
"""What all runs together may keep while Redis is unavailable, apart from TAIL_BYTES for each run."""
MAX_MESSAGE_CHARS = 500
"""Longer messages of progress reports are truncated."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PlannedWrite:
    """A request, and what records its outcome."""

    request: Request[Any]
    record: Callable[[Any], None]
    """Not called if the outcome is an error."""


def record_all(planned: Sequence[PlannedWrite], outcomes: Sequence[Any]) -> Sequence[Any]:
    """Record the outcomes of planned writes, which come first. Return the other outcomes."""
    for write, outcome in zip(planned, outcomes, strict=False):
        if not isinstance(outcome, RunqyError):
            write.record(outcome)
    return outcomes[len(planned) :]


class BackgroundWrites:
    """Makes writes while there are any: one round trip after the other, each some time after the first new data."""

    def __init__(
        self, get_broker: Callable[[], AsyncBroker], plan: Callable[[], Sequence[PlannedWrite]], *, interval_s: float
    ) -> None:
        """`plan` returns the next writes; empty if everything is written."""
        self._get_broker = get_broker
        self._plan = plan
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def schedule(self) -> None:
        """Write soon. Ignored if that is scheduled."""
        self._schedule(self._interval_s)

    async def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._writing:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    def _schedule(self, delay_s: float) -> None:
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(delay_s, self._start)

    def _start(self) -> None:
        self._timer = None
        if planned := self._plan():
            self._writing = self._loop.create_task(self._write(planned))
            self._writing.add_done_callback(self._finish)

    def _finish(self, writing: "asyncio.Task[None]") -> None:
        self._writing = None
        if writing.cancelled():
            return
        error = writing.exception()
        if error is not None and not isinstance(error, BrokerUnavailable):  # the consumer logs it
            log.error("output_failed", exc_info=error)
        self._schedule(RETRY_S if error else self._interval_s)

    async def _write(self, planned: Sequence[PlannedWrite]) -> None:
        """Make writes in one round trip. Raise RunqyError."""
        outcomes = await self._get_broker().send_all([write.request for write in planned])
        record_all(planned, outcomes)
        for outcome in outcomes:
            if isinstance(outcome, RunqyError):
                raise outcome


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
        self._writes = BackgroundWrites(get_broker, self._plan_next, interval_s=CHUNKS_INTERVAL_S)

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


class OutputWriter:
    """Collects output and progress of runs, and writes them."""

    def __init__(self, get_broker: Callable[[], AsyncBroker]) -> None:
        self._rate = TokenBucket(rate=BYTES_PER_SECOND, limit=BURST_BYTES)
        self._unstored: dict[Run, RunOutput] = {}
        self._writes = BackgroundWrites(get_broker, self._plan_next, interval_s=INTERVAL_S)

    def add(self, runs: Sequence[Run], data: bytes, *, is_line: bool) -> None:
        """Add what a child printed while it had these runs: a line of stdout, or data from stderr."""
        for run in runs:
            output = self._output_of(run)
            output.is_shared = output.is_shared or len(runs) > 1
            if is_line:
                output.add_line(data, self._limit)
            else:
                output.add_stderr(data, self._limit)

    def set_progress(self, run: Run, progress: TaskProgress) -> None:
        message = secrets.redact(progress.message)
        if len(message) > MAX_MESSAGE_CHARS:
            message = f"{message[:MAX_MESSAGE_CHARS]}…"
        stored = msgspec.structs.replace(progress, message=message)
        self._output_of(run).set_progress(msgspec.json.encode(stored))

    def plan_final(self, runs: Iterable[Run]) -> list[PlannedWrite]:
        """Return the writes to make before the results of runs are recorded."""
        printed = [run for run in runs if run.output is not None]
        return self._plan(printed, is_final=True) if printed else []

    def forget(self, run: Run) -> None:
        """Drop the output of a run whose result is recorded."""
        run.output = None
        self._unstored.pop(run, None)

    @property
    def _limit(self) -> int:
        """The bytes that are kept of each run: fewer if more runs have unstored output."""
        return max(min(MAX_BYTES, BUFFER_BYTES // (len(self._unstored) + 1)), TAIL_BYTES)

    async def close(self) -> None:
        await self._writes.close()

    def _output_of(self, run: Run) -> RunOutput:
        """Return the output of a run, and schedule a write."""
        if run.output is None:
            run.output = RunOutput()
        if run not in self._unstored:
            self._unstored[run] = run.output
            self._writes.schedule()
        return run.output

    def _plan_next(self) -> list[PlannedWrite]:
        """Return the writes of one round trip."""
        runs: list[Run] = []
        size = 0
        for run, output in self._unstored.items():
            if runs and size + len(output) > BYTES_PER_ROUND_TRIP:
                break
            runs.append(run)
            size += len(output)
        for run in runs:  # move them to the end, so that the next write begins with the others
            self._unstored[run] = self._unstored.pop(run)
        return self._plan(runs)

    def _plan(self, runs: Sequence[Run], *, is_final: bool = False) -> list[PlannedWrite]:
        """Return the writes that store the output of runs, one for each Redis queue."""
        by_queue: dict[str, tuple[list[Run], list[OutputChunk]]] = {}
        available = self._rate.available
        limit_per_run = self._limit
        for run in runs:
            assert run.output is not None  # noqa: S101 (callers have looked)
            limit = max(min(limit_per_run, available), TAIL_BYTES)
            chunk = run.output.next_chunk(run.task, limit, is_final=is_final)
            if not (chunk.text or chunk.progress):
                self._unstored.pop(run, None)
                continue
            available -= len(chunk.text)
            self._rate.spend(len(chunk.text))
            queue_runs, chunks = by_queue.setdefault(chunk.lease.queue, ([], []))
            queue_runs.append(run)
            chunks.append(chunk)
        return [
            PlannedWrite(write_output(chunks), partial(self._record, queue_runs, chunks))
            for queue_runs, chunks in by_queue.values()
        ]

    def _record(self, runs: Sequence[Run], chunks: Sequence[OutputChunk], outcomes: Sequence[bool]) -> None:
        """Drop what is stored, and the output of tasks whose leases were lost."""
        for run, chunk, is_stored in zip(runs, chunks, outcomes, strict=True):
            if run.output is None:
                continue
            if is_stored:
                run.output.confirm(chunk)
            if run.output.is_stored or not is_stored:
                self._unstored.pop(run, None)
