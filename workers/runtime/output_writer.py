"""Write the output of one queue's runs to Redis: in batches, at a limited rate, and before their results."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.tasks.output import MAX_BYTES, OutputChunk, write_output
from runqy.broker.tasks.record import TaskProgress
from workers.runtime.background_writes import BackgroundWrites, PlannedWrite
from workers.runtime.logs import TokenBucket
from workers.runtime.redaction import secrets
from workers.runtime.task_output import RunOutput
from workers.runtime.task_runs import Run

INTERVAL_S = 0.5
"""How long output is collected before it is sent. A run's progress is not written more often either."""
TAIL_BYTES = 4 << 10
"""What each run may send beyond the rate, so that the end of its output is kept."""
BYTES_PER_SECOND, BURST_BYTES = 1 << 20, 4 << 20
BUFFER_BYTES = 8 << 20
"""What all runs together may keep while Redis is unavailable, apart from TAIL_BYTES for each run."""
BYTES_PER_ROUND_TRIP = 1 << 20
MAX_MESSAGE_CHARS = 500
"""Longer messages of progress reports are truncated."""


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
