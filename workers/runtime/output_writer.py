"""Write the output of one queue's runs to Redis: in batches, at a limited rate, and before their results."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import structlog

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.operation import Request, ask_all
from runqy.broker.tasks.output import MAX_BYTES, OutputChunk, write_output
from runqy.broker.tasks.record import TaskProgress
from runqy.errors import BrokerUnavailable, RunqyError
from workers.runtime.logs import TokenBucket
from workers.runtime.redaction import secrets
from workers.runtime.task_output import RunOutput
from workers.runtime.task_runs import Run

INTERVAL_S = 0.5
"""How long output is collected before it is sent. A run's progress is not written more often either."""
RETRY_S = 2.0
TAIL_BYTES = 4 << 10
"""What each run may send beyond the rate, so that the end of its output is kept."""
BYTES_PER_SECOND, BURST_BYTES = 1 << 20, 4 << 20
BUFFER_BYTES = 8 << 20
"""What all runs together may keep while Redis is unavailable, apart from TAIL_BYTES for each run."""
BYTES_PER_ROUND_TRIP = 1 << 20
MAX_MESSAGE_CHARS = 500
"""Longer messages of progress reports are truncated."""

log = structlog.get_logger()


class PlannedOutput(msgspec.Struct, frozen=True):
    """A request that stores the output of some runs of one Redis queue."""

    runs: Sequence[Run]
    chunks: Sequence[OutputChunk]

    @property
    def request(self) -> Request[Any]:
        return write_output(self.chunks)


class OutputWriter:
    """Collects output and progress of runs, and writes them."""

    def __init__(self, get_broker: Callable[[], AsyncBroker]) -> None:
        self._get_broker = get_broker
        self._loop = asyncio.get_running_loop()
        self._rate = TokenBucket(rate=BYTES_PER_SECOND, limit=BURST_BYTES)
        self._unstored: dict[Run, RunOutput] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

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

    def plan_final(self, runs: Iterable[Run]) -> list[PlannedOutput]:
        """Return the requests to send before the results of runs."""
        printed = [run for run in runs if run.output is not None]
        return self._plan(printed, is_final=True) if printed else []

    def record_all(self, planned: Sequence[PlannedOutput], outcomes: Sequence[Any]) -> Sequence[Any]:
        """Record the outcomes of planned requests, which come first. Return the other outcomes."""
        for part, outcome in zip(planned, outcomes, strict=False):
            self._record(part, outcome)
        return outcomes[len(planned) :]

    def _record(self, planned: PlannedOutput, outcome: Any) -> None:
        """Drop what is stored, and the output of tasks whose leases were lost."""
        if isinstance(outcome, RunqyError):
            return
        for run, chunk, is_stored in zip(planned.runs, planned.chunks, outcome, strict=True):
            if run.output is None:
                continue
            if is_stored:
                run.output.confirm(chunk)
            if run.output.is_stored or not is_stored:
                self._unstored.pop(run, None)

    def forget(self, run: Run) -> None:
        """Drop the output of a run whose result is recorded."""
        if run.output is not None:
            run.output = None
            self._unstored.pop(run, None)

    @property
    def _limit(self) -> int:
        """The bytes that are kept of each run: fewer if more runs have unstored output."""
        return max(min(MAX_BYTES, BUFFER_BYTES // (len(self._unstored) + 1)), TAIL_BYTES)

    async def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._writing:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    def _output_of(self, run: Run) -> RunOutput:
        """Return the output of a run, and schedule a write."""
        if run.output is None:
            run.output = RunOutput()
        if run not in self._unstored:
            self._unstored[run] = run.output
            self._schedule(INTERVAL_S)
        return run.output

    def _schedule(self, delay_s: float) -> None:
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(delay_s, self._start_writing)

    def _start_writing(self) -> None:
        self._timer = None
        if self._unstored:
            self._writing = self._loop.create_task(self._write())
            self._writing.add_done_callback(self._finish_writing)

    def _finish_writing(self, writing: "asyncio.Task[None]") -> None:
        self._writing = None
        if writing.cancelled():
            return
        error = writing.exception()
        if error is not None and not isinstance(error, BrokerUnavailable):  # the consumer logs it
            log.error("output_failed", exc_info=error)
        if self._unstored:
            self._schedule(RETRY_S if error else INTERVAL_S)

    async def _write(self) -> None:
        """Write unstored output in one round trip. Raise RunqyError."""
        runs: list[Run] = []
        size = 0
        for run, output in self._unstored.items():
            if runs and size + len(output) > BYTES_PER_ROUND_TRIP:
                break
            runs.append(run)
            size += len(output)
        for run in runs:  # move them to the end, so that the next write begins with the others
            self._unstored[run] = self._unstored.pop(run)
        planned = self._plan(runs)
        outcomes = await self._get_broker().run(ask_all([part.request for part in planned]))
        self.record_all(planned, outcomes)
        for outcome in outcomes:
            if isinstance(outcome, RunqyError):
                raise outcome

    def _plan(self, runs: Sequence[Run], *, is_final: bool = False) -> list[PlannedOutput]:
        """Return the requests that store the output of runs, one for each Redis queue."""
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
        return [PlannedOutput(*part) for part in by_queue.values()]
