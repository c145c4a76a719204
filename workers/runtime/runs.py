"""A task that this worker leases: its run, how the run ended, and how that is recorded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from runqy import clock
from runqy.broker.finishing import Completion, Failure, Outcome, archive, complete, complete_all, requeue, retry
from runqy.broker.lease import LeasedTask
from runqy.broker.message import CANCELED, run_time_s
from runqy.broker.operation import Request
from runqy.broker.timing import BATCH_MAX_BYTES
from runqy.errors import RunqyError
from workers.runtime.backoff import delay_s

MAX_CHILD_DEATHS = 3
"""A task under which so many children died is archived."""


class RunStatus(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """For good: the task asked for no retry, or a retry would end the same way."""
    RETRYABLE = "retryable"
    """The task asked for a retry, or timed out."""
    CANCELED = "canceled"
    CHILD_DIED = "child_died"
    REQUEUED = "requeued"
    """It was not started, or is interrupted because the worker stops."""
    LOST = "lost"
    """Another worker leases the task by now: nothing is written."""


class RunResult(msgspec.Struct, frozen=True):
    """How a run ended, with the error's text or the JSON that the task returned."""

    status: RunStatus
    error: str = ""
    output: bytes | None = None


@dataclass(slots=True, eq=False)
class Run:
    """A task from its dequeue to its end."""

    taken: LeasedTask
    line: bytes
    """What is written to the child."""
    started_ns: int = 0
    """Redis's Unix time at which its child was free to start it; 0: not yet."""
    ends_at_s: float = 0.0
    """When it times out, on the monotonic clock."""
    forced_result: RunResult | None = None
    """How it ends as soon as its child gives it up, whatever the child responds."""
    result: RunResult | None = None
    """How it ended; None: it runs or waits for a child."""
    finishes_alone: bool = False
    """Redis refused the script call that recorded it together with others."""

    @property
    def task_id(self) -> str:
        """Return the task's id."""
        return self.taken.lease.task_id

    @property
    def finish_bytes(self) -> int:
        """Return about how many bytes the request that records its end has."""
        output = self.result.output if self.result else None
        return len(output or b"") + len(self.taken.message.payload)

    def start(self, *, now_ns: int) -> None:
        """Start its timeout or deadline, whichever is earlier."""
        self.started_ns = now_ns
        self.ends_at_s = clock.monotonic_s() + run_time_s(self.taken.message, now_ns=now_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What a queue's configuration says about failures and results."""

    delay_s: float = 15.0
    max_delay_s: float = 600.0
    keeps_results: bool = True


@dataclass(frozen=True, slots=True)
class Finish:
    """A request that records how some runs ended."""

    runs: Sequence[Run]
    request: Request[Any]

    def match(self, outcome: Any) -> Iterator[tuple[Run, Outcome | RunqyError]]:
        """Return each run with its part of the request's outcome."""
        return zip(self.runs, outcome if isinstance(outcome, list) else [outcome] * len(self.runs), strict=True)


def plan_finishes(runs: Sequence[Run], policy: RetryPolicy, *, now_ns: int) -> list[Finish]:
    """Return the requests that record how runs ended; those that succeeded share script calls."""
    finishes: list[Finish] = []
    batches: dict[str, tuple[list[Run], int]] = {}
    for run in runs:
        result, message = run.result, run.taken.message
        assert result is not None  # noqa: S101 (the runs have ended)
        if result.status is not RunStatus.SUCCEEDED or message.retention <= 0 or run.finishes_alone:
            finishes.append(Finish((run,), finish_request(run, result, policy, now_ns=now_ns)))
            continue
        size = run.finish_bytes
        batch, batch_size = batches.get(run.taken.lease.queue, ([], 0))
        if batch and batch_size + size > BATCH_MAX_BYTES:
            finishes.append(_completions(batch, policy, now_ns))
            batch, batch_size = [], 0
        batch.append(run)
        batches[run.taken.lease.queue] = batch, batch_size + size
    return finishes + [_completions(batch, policy, now_ns) for batch, _ in batches.values()]


def _completions(runs: Sequence[Run], policy: RetryPolicy, now_ns: int) -> Finish:
    """Return the request that records that runs of one Redis queue succeeded."""
    completions = [
        Completion(
            run.taken.lease, run.taken.message, run.result.output if run.result and policy.keeps_results else None
        )
        for run in runs
    ]
    return Finish(runs, complete_all(completions, now_ns=now_ns))


def finish_request(run: Run, result: RunResult, policy: RetryPolicy, *, now_ns: int) -> Request[Outcome]:
    """Return the request that records how a run ended."""
    lease, message = run.taken.lease, run.taken.message
    if result.status is RunStatus.SUCCEEDED:
        return complete(lease, message, result.output if policy.keeps_results else None, now_ns=now_ns)
    if result.status is RunStatus.REQUEUED:
        return requeue(lease, now_ns=now_ns)
    if result.status is RunStatus.CANCELED:
        return archive(lease, message, error=CANCELED, now_ns=now_ns)
    if result.status is RunStatus.CHILD_DIED:
        return _child_died_request(run, result, policy, now_ns)
    if result.status is RunStatus.RETRYABLE and message.retried < message.retry:
        failure = Failure(error=result.error, retry_at_s=_retry_at_s(policy, message.retried, now_ns))
        return retry(lease, message, failure, now_ns=now_ns)
    return archive(lease, message, error=result.error, now_ns=now_ns)


def _child_died_request(run: Run, result: RunResult, policy: RetryPolicy, now_ns: int) -> Request[Outcome]:
    """Retry a task under which a child died, without spending a retry, unless that happened too often."""
    lease, message, deaths = run.taken.lease, run.taken.message, run.taken.child_deaths
    if deaths + 1 >= MAX_CHILD_DEATHS:
        error = f"{deaths + 1} child processes died under this task; of the last: {result.error}"
        return archive(lease, message, error=error, now_ns=now_ns, child_died=True)
    failure = Failure(error=result.error, retry_at_s=_retry_at_s(policy, deaths, now_ns), child_died=True)
    return retry(lease, message, failure, now_ns=now_ns)


def _retry_at_s(policy: RetryPolicy, attempt: int, now_ns: int) -> int:
    """Return the Unix s of the next attempt: the delay doubles with each, with jitter, up to the limit."""
    delay = min(delay_s(attempt, first_s=policy.delay_s, most_s=policy.max_delay_s), policy.max_delay_s)
    return now_ns // 1_000_000_000 + round(delay)
