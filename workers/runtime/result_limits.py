"""Limits of results: a task whose result is too large for its queue fails, and the result is not stored."""

from collections.abc import Sequence

from runqy.broker.constants import LARGE_RESULT_BYTES
from runqy.broker.operation import Operation, ask
from runqy.broker.tasks.memory import find_max_results
from workers.runtime.task_runs import RetryPolicy, Run, RunResult, RunStatus


def limit_result(result: RunResult, policy: RetryPolicy) -> RunResult:
    """Return the result, or a failure if it is larger than its queue allows."""
    size = len(result.output or b"")
    if not policy.keeps_results or not 0 < policy.max_result_bytes < size:
        return result
    reason = f"the result has {size:,} bytes; the queue allows {policy.max_result_bytes:,} (max_result_bytes)"
    return RunResult(RunStatus.FAILED, f"result_too_large: {reason}")


def find_large_results(runs: Sequence[Run], policy: RetryPolicy) -> list[Run]:
    """Return the runs to pass to `refuse_large_results`. Few runs have such results."""
    if not policy.keeps_results:
        return []
    return [run for run in runs if run.result and len(run.result.output or b"") > LARGE_RESULT_BYTES]


def refuse_large_results(runs: Sequence[Run]) -> Operation[None]:
    """Fail runs whose results would fill a Redis of which their queues already use more than their share.

    One round trip. Raise BrokerUnavailable.
    """
    max_bytes = yield from ask(find_max_results(sorted({run.task.lease.queue for run in runs})))
    for run in runs:
        size = len(run.result.output or b"") if run.result else 0
        if size > max_bytes.get(run.task.lease.queue, size):
            reason = (
                f"the result of {size:,} bytes is not stored: Redis is almost full, and the queue holds more than its "
                "share of it (max_memory_share)"
            )
            run.result = RunResult(RunStatus.FAILED, f"queue_memory: {reason}")
