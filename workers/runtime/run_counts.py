"""Counters of a worker for /metrics. Each heartbeat adds them to the counters of its queues in Redis."""

from collections.abc import Mapping, Sequence

from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import RunCounters
from runqy.broker.tasks.finish import FinishOutcome
from workers.runtime.task_runs import OUTCOMES_OF_STATUS, Run

_OUTCOMES = {
    FinishOutcome.COMPLETED: RunOutcome.COMPLETED,
    FinishOutcome.RETRIED: RunOutcome.RETRIED,
    FinishOutcome.ARCHIVED: RunOutcome.FAILED,
    FinishOutcome.CANCELED: RunOutcome.CANCELED,
}


class RunCounts:
    """The counters of one worker, by Redis queue."""

    def __init__(self) -> None:
        self._counters: dict[str, RunCounters] = {}
        # Counters that belong to no queue.
        self._worker = RunCounters()

    def record_start(self, run: Run) -> None:
        if run.task.pending_since_ns:
            waited_ns = max(run.started_ns - run.task.pending_since_ns, 0)
            self._of(run.task.lease.queue).waits.observe(waited_ns / 1e9)

    def record_end(self, run: Run, *, now_ns: int) -> None:
        """Record how long a task ran, if it was started."""
        if run.started_ns:
            self._of(run.task.lease.queue).runs.observe(max(now_ns - run.started_ns, 0) / 1e9)

    def record_outcome(self, run: Run, outcome: FinishOutcome) -> None:
        """Count the outcome of a run, as the history does. The recovery counts runs whose leases ended."""
        counters = self._of(run.task.lease.queue)
        if outcome is FinishOutcome.REQUEUED:
            counters.requeued += 1
            return
        counted = _OUTCOMES[outcome]
        if outcome in (FinishOutcome.ARCHIVED, FinishOutcome.RETRIED) and run.result:
            counted = OUTCOMES_OF_STATUS.get(run.result.status, counted)
        counters.outcomes[counted] += 1

    def record_child_restart(self) -> None:
        self._worker.child_restarts += 1

    def record_deployment(self, *, is_successful: bool) -> None:
        if is_successful:
            self._worker.deployments += 1
        else:
            self._worker.failed_deployments += 1

    def take(self, queues: Sequence[str]) -> Mapping[str, RunCounters]:
        """Return and reset the counters of these Redis queues. The first queue gets the worker's own too.

        Counters of other queues are dropped: the worker's Redis user may not write to them any more.
        """
        counters, self._counters = self._counters, {}
        if self._worker.to_fields():
            counters.setdefault(queues[0], RunCounters()).add(self._worker)
            self._worker = RunCounters()
        return {queue: counters[queue] for queue in queues if queue in counters}

    def restore(self, counters: Mapping[str, RunCounters]) -> None:
        """Add counters that were not delivered. If only the reply was lost, Redis counts them twice."""
        for queue, counted in counters.items():
            self._of(queue).add(counted)

    def _of(self, queue: str) -> RunCounters:
        counters = self._counters.get(queue)
        if counters is None:
            counters = self._counters[queue] = RunCounters()
        return counters
