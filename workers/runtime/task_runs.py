"""The run of a leased task, how it ended, and the request that records that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from runqy import clock
from runqy.broker.constants import BATCH_MAX_BYTES, LARGE_RESULT_BYTES
from runqy.broker.memory import find_max_results
from runqy.broker.message import CANCELED, run_time_s
from runqy.broker.request import AnyBroker, Request
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import RunInfo
from runqy.broker.tasks.archive_reasons import DEADLINE_EXCEEDED, ErrorClass
from runqy.broker.tasks.chunks import read_chunks
from runqy.broker.tasks.finish import (
    Completion,
    Failure,
    FinishOutcome,
    archive,
    complete,
    complete_all,
    requeue,
    retry,
)
from runqy.broker.tasks.lease import LeasedTask
from runqy.core.telemetry.tracing import TRACEPARENT, get_tracer
from runqy.errors import PayloadUnusable, RunqyError
from workers.runtime.retries import QueuePolicy
from workers.runtime.task_lines import add_deadline, encode_task
from workers.runtime.task_output import RunOutput
from workers.runtime.task_stream import RunStream

if TYPE_CHECKING:
    from runqy.core.telemetry.otel import RunSpan

MAX_CHILD_DEATHS = 3
"""A task is archived once this many children have died while running it."""


class RunStatus(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Not retried: the task did not request a retry, or a retry would fail in the same way."""
    RETRYABLE = "retryable"
    """The task requested a retry."""
    TIMED_OUT = "timed_out"
    """Its timeout or deadline ended it. It is retried too."""
    EXPIRED = "expired"
    """It was not started, because its deadline had passed."""
    CANCELED = "canceled"
    CHILD_DIED = "child_died"
    REQUEUED = "requeued"
    """It was not started, or was interrupted because the worker stops."""
    LOST = "lost"
    """Another worker may have the task: nothing is written."""


class RunResult(msgspec.Struct, frozen=True):
    """How a run ended, with the error's text, or the JSON that the task returned."""

    status: RunStatus
    error: str = ""
    error_class: str = ""
    """The import path of the exception that the child sent, or of ours."""
    output: bytes | None = None
    retry_delay_s: float | None = None
    """The delay before the retry that the task requested; None for the queue's delays."""
    is_shared: bool = False
    """Its child died while it had several runs: which of them caused it is unknown."""


INCOMPLETE = RunResult(
    RunStatus.RETRYABLE,
    "stream_incomplete: the task returned no result, and parts of what it streamed are lost: Redis had no free memory, "
    "and the worker did not keep them",
    ErrorClass.STREAM_INCOMPLETE,
)


@dataclass(slots=True, eq=False)
class Run:
    """A task from its dequeue to its end."""

    task: LeasedTask
    line: bytes
    """The line for the child, without the deadline."""
    lease_end_s: int = 0
    """Unix time, by Redis's clock."""
    traceparent: str = ""
    """The trace context for its child."""
    span: "RunSpan | None" = None
    started_ns: int = 0
    """Unix time, by Redis's clock, at which its child could start it; 0 before."""
    started_s: float = 0.0
    """The same on the monotonic clock."""
    ends_at_s: float = 0.0
    """When it times out, on the monotonic clock."""
    waiting_since_s: float = 0.0
    """When it began to wait for a child, on the monotonic clock."""
    runs_alone: bool = False
    """It is a batch of its own, because a batch that it was in failed as a whole. This happens to it once."""
    commit: str = ""
    """The commit that its child runs."""
    release: int = 0
    """The number of the release that its child runs; 0 without one."""
    forced_result: RunResult | None = None
    """The result of a run that is ended early, whatever its child responds."""
    result: RunResult | None = None
    """How it ended; None while it runs or waits for a child."""
    output: RunOutput | None = None
    """The output that is not stored yet; None if there was none."""
    stream: RunStream | None = None
    """What it streamed; None if nothing."""
    finishes_alone: bool = False
    """Record it by a script call of its own, because Redis refused the call that it shared with other runs."""
    task_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.task_id = self.task.lease.task_id  # read some ten times a run

    @property
    def must_run_alone(self) -> bool:
        """Whether it must run without others in its child."""
        return self.task.is_suspect or self.runs_alone

    @property
    def finish_bytes(self) -> int:
        result = self.result.output if self.result else None
        size = len(result or b"") + len(self.task.message.payload)
        if self.output is not None:
            size += len(self.output)
        if self.stream is not None:
            is_read = result == b"null" and not self.stream.is_kept
            size += self.stream.unstored_bytes + (self.stream.size if is_read else 0)
        return size

    @property
    def child_line(self) -> bytes:
        """The line for its child, with the deadline of a run that starts now."""
        now_ns = clock.now_ns()  # the child compares it with the clock of this machine
        return add_deadline(self.line, now_ns / 1e9 + run_time_s(self.task.message, now_ns=now_ns))

    def start(self, *, now_ns: int) -> None:
        """Start the run's timeout. It ends at the task's timeout or deadline, whichever is earlier."""
        self.started_ns, self.started_s = now_ns, clock.monotonic_s()
        self.ends_at_s = self.started_s + run_time_s(self.task.message, now_ns=now_ns)


def make_run(task: LeasedTask, *, now_ns: int) -> tuple[Run, RunResult | None]:
    """Return the run of a task that was just leased and, if the task cannot run, its result."""
    message, lease = task.message, task.lease
    span, traceparent = None, message.headers.get(TRACEPARENT, "")
    if tracer := get_tracer():
        since_ns = task.pending_since_ns
        span = tracer.start_run(lease.task_id, lease.queue, traceparent, pending_since_ns=since_ns, now_ns=now_ns)
        traceparent = span.traceparent
    run = Run(task=task, line=b"", lease_end_s=task.lease_end_s, traceparent=traceparent, span=span)
    if not task.is_readable:
        damaged = "message_unreadable: the stored message is damaged"
        return run, RunResult(RunStatus.FAILED, damaged, ErrorClass.PAYLOAD_UNUSABLE)
    if 0 < message.deadline <= now_ns // 1_000_000_000:
        return run, RunResult(RunStatus.EXPIRED, DEADLINE_EXCEEDED)
    try:
        run.line = encode_task(message, attempt=task.attempt, traceparent=traceparent)
    except PayloadUnusable as error:
        return run, RunResult(RunStatus.FAILED, f"payload_unusable: {error.detail}", ErrorClass.PAYLOAD_UNUSABLE)
    return run, None


@dataclass(frozen=True, slots=True)
class Finish:
    """A request that records how some runs ended."""

    runs: Sequence[Run]
    request: Request[Any]

    def match(self, outcome: Any) -> Iterator[tuple[Run, FinishOutcome | RunqyError]]:
        return zip(self.runs, outcome if isinstance(outcome, list) else [outcome] * len(self.runs), strict=True)


def plan_finishes(
    runs: Sequence[Run], policy: QueuePolicy, *, now_ns: int, size_bytes: int | None = None
) -> list[Finish]:
    """Return the requests that record how runs ended. Successful runs share script calls.

    `size_bytes` is what it takes to record all of them; None: measure each.
    """
    fits = size_bytes is not None and size_bytes <= BATCH_MAX_BYTES
    finishes: list[Finish] = []
    batches: dict[str, tuple[list[Run], int]] = {}
    for run in runs:
        result, message = run.result, run.task.message
        assert result is not None  # noqa: S101 (the runs have ended)
        if result.status is not RunStatus.SUCCEEDED or message.retention <= 0 or run.finishes_alone:
            finishes.append(Finish((run,), finish_request(run, result, policy, now_ns=now_ns)))
            continue
        size = 0 if fits else run.finish_bytes
        batch, batch_size = batches.get(run.task.lease.queue, ([], 0))
        if batch and batch_size + size > BATCH_MAX_BYTES:
            finishes.append(_completions(batch, policy, now_ns))
            batch, batch_size = [], 0
        batch.append(run)
        batches[run.task.lease.queue] = batch, batch_size + size
    return finishes + [_completions(batch, policy, now_ns) for batch, _ in batches.values()]


def _completions(runs: Sequence[Run], policy: QueuePolicy, now_ns: int) -> Finish:
    completions = [
        Completion(
            run.task.lease,
            run.task.message,
            run.result.output if run.result and policy.keeps_results else None,
            _info(run, policy),
        )
        for run in runs
    ]
    return Finish(runs, complete_all(completions, now_ns=now_ns))


def finish_request(run: Run, result: RunResult, policy: QueuePolicy, *, now_ns: int) -> Request[FinishOutcome]:
    """Return the request that completes, requeues, retries or archives a task, by how its run ended."""
    lease, message, status = run.task.lease, run.task.message, result.status
    info, max_archived = _info(run, policy, status, result.error_class), policy.max_archived

    def retry_later(attempt: int, *, child_died: bool = False) -> Request[FinishOutcome]:
        retry_at_s = policy.retry_at_s(attempt, now_ns=now_ns, delay_s=result.retry_delay_s)
        failure = Failure(error=result.error, retry_at_s=retry_at_s, child_died=child_died)
        return retry(lease, message, failure, now_ns=now_ns, max_archived=max_archived, info=info)

    def give_up(error: str, *, child_died: bool = False) -> Request[FinishOutcome]:
        return archive(
            lease, message, error=error, now_ns=now_ns, child_died=child_died, max_archived=max_archived, info=info
        )

    if status is RunStatus.SUCCEEDED:
        output = result.output if policy.keeps_results else None
        return complete(lease, message, output, now_ns=now_ns, info=info, wants_result=run.task.wants_result)
    # A child that died with several tasks charges none. They run again at once: the next child has to load first, and
    # together they reach the second death, after which each runs alone. Delays would let them die in twos and threes.
    # With max_retry 0 a task never runs twice.
    if status is RunStatus.REQUEUED or (result.is_shared and message.retry):
        return requeue(
            lease, message, now_ns=now_ns, shared_death=result.is_shared, max_archived=max_archived, info=info
        )
    if status is RunStatus.CHILD_DIED and message.retry:  # it spends no retry
        deaths = run.task.child_deaths + 1
        if deaths < MAX_CHILD_DEATHS:
            return retry_later(deaths - 1, child_died=True)
        # Not in the first line, which is that of the deaths before: they are one group of errors.
        cause, _, printed = result.error.partition("\n")
        error = f"{cause}\n[{deaths} child processes died while running this task]\n{printed}".rstrip()
        return give_up(error, child_died=True)
    if status in (RunStatus.RETRYABLE, RunStatus.TIMED_OUT) and message.retried < message.retry:
        return retry_later(message.retried)
    return give_up(CANCELED if status is RunStatus.CANCELED else result.error)


OUTCOMES_OF_STATUS = {
    RunStatus.CANCELED: RunOutcome.CANCELED,
    RunStatus.TIMED_OUT: RunOutcome.TIMED_OUT,
    RunStatus.EXPIRED: RunOutcome.EXPIRED,
}


def _info(run: Run, policy: QueuePolicy, status: RunStatus = RunStatus.SUCCEEDED, error_class: str = "") -> RunInfo:
    return RunInfo(
        commit=run.commit,
        hides_payload=policy.hides_payloads,
        started_ns=run.started_ns,
        outcome=OUTCOMES_OF_STATUS.get(status),
        error_class=error_class,
    )


def add_streamed_result(run: Run, result: RunResult) -> RunResult:
    """Return the result. Of a run that returned none it is what the run streamed, if all of that is kept."""
    if run.stream is None or not _is_streamed(result) or (output := run.stream.join()) is None:
        return result
    return msgspec.structs.replace(result, output=output)


def _is_streamed(result: RunResult) -> bool:
    return result.status is RunStatus.SUCCEEDED and result.output == b"null"


async def read_streamed_results(broker: AnyBroker, runs: Sequence[Run], policy: QueuePolicy) -> None:
    """Give runs that returned no result what they streamed, reading from Redis what is not kept.

    A run of which chunks are lost fails. Raise BrokerUnavailable.
    """
    for run in runs:
        stream, lease = run.stream, run.task.lease
        if stream is None or stream.is_kept or run.result is None or not _is_streamed(run.result):
            continue
        stored: list[bytes] = []
        while len(stored) < stream.stored:
            read = await broker.send(read_chunks(lease.queue, lease.task_id, run=stream.run_number, offset=len(stored)))
            if read.run != stream.run_number or not read.entries:
                break
            stored += read.entries
        output = stream.join(stored[: stream.stored])
        run.result = (
            INCOMPLETE if output is None else limit_result(RunResult(RunStatus.SUCCEEDED, output=output), policy)
        )


def limit_result(result: RunResult, policy: QueuePolicy) -> RunResult:
    """Return the result, or a failure if it is larger than its queue allows."""
    size = len(result.output or b"")
    if not policy.keeps_results or not 0 < policy.max_result_bytes < size:
        return result
    reason = f"the result has {size:,} bytes; the queue allows {policy.max_result_bytes:,} (max_result_bytes)"
    return RunResult(RunStatus.FAILED, f"result_too_large: {reason}", ErrorClass.RESULT_TOO_LARGE)


async def refuse_large_results(broker: AnyBroker, runs: Sequence[Run], policy: QueuePolicy) -> None:
    """Fail runs whose results would fill a Redis of which their queues already use more than their share.

    One round trip if a result is large, else none. Raise BrokerUnavailable.
    """
    sizes = {run: len(run.result.output or b"") for run in runs if run.result and policy.keeps_results}
    large = {run: size for run, size in sizes.items() if size > LARGE_RESULT_BYTES}
    if not large:
        return
    max_bytes = await broker.send(find_max_results(sorted({run.task.lease.queue for run in large})))
    for run, size in large.items():
        if size > max_bytes.get(run.task.lease.queue, size):
            reason = (
                f"the result of {size:,} bytes is not stored: Redis is almost full, and the queue holds more than its "
                "share of it (max_memory_share)"
            )
            run.result = RunResult(RunStatus.FAILED, f"queue_memory: {reason}", ErrorClass.RESULT_TOO_LARGE)
