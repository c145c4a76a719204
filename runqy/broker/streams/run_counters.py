"""Counters of a Redis queue's runs: outcomes, times, batches, child restarts, runs that the history dropped; and of
webhooks.

Workers add to them with their heartbeats. Scripts count what no worker can: tasks that expire or are cancelled while
they wait, and lost runs. Maintenance counts the runs that the history drops. They only grow, so that Prometheus can
compute rates from them while workers come and go (ADR 0032).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runqy.broker import keys
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, read_number
from runqy.broker.request import Request
from runqy.broker.scripts import Value, command, script
from runqy.broker.states import RunOutcome

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
"""Upper bounds of the histograms' buckets."""
MAX_COUNT = 1 << 53
"""More than any worker counts, and the largest number that Prometheus stores exactly."""
_OUTCOMES = tuple(RunOutcome)


@dataclass(slots=True)
class Histogram:
    """Counts of times by bucket, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    """Not cumulative; the last bucket has no upper bound."""
    sum_ms: int = 0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_ms += int(seconds * 1000)

    def add(self, other: Histogram) -> None:
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.sum_ms += other.sum_ms


@dataclass(slots=True)
class RunCounters:
    """The counters of one Redis queue."""

    outcomes: Counter[RunOutcome] = field(default_factory=Counter)
    """EXPIRED counts tasks that were not started."""
    first_attempts: Counter[RunOutcome] = field(default_factory=Counter)
    """Those of first attempts, and of tasks that ended without any."""
    ended_tasks: Counter[RunOutcome] = field(default_factory=Counter)
    """Those of runs that ended their task."""
    requeued: int = 0
    """Tasks that a stopping worker gave back, not run or interrupted. They are not attempts."""
    waits: Histogram = field(default_factory=Histogram)
    """From pending to the start of the run."""
    runs: Histogram = field(default_factory=Histogram)
    child_restarts: int = 0
    deployments: int = 0
    failed_deployments: int = 0
    dropped: int = 0
    """Runs that the history lost, because the stream of the queue was full."""
    batches: int = 0
    batch_tasks: int = 0
    """The members of these batches."""
    shared_deaths: int = 0
    """Children that died while they ran several tasks; part of `child_restarts`."""

    def count_outcome(self, outcome: RunOutcome, *, is_first: bool, is_final: bool) -> None:
        self.outcomes[outcome] += 1
        if is_first:
            self.first_attempts[outcome] += 1
        if is_final:
            self.ended_tasks[outcome] += 1

    def add(self, other: RunCounters) -> None:
        self.outcomes.update(other.outcomes)
        self.first_attempts.update(other.first_attempts)
        self.ended_tasks.update(other.ended_tasks)
        self.requeued += other.requeued
        self.waits.add(other.waits)
        self.runs.add(other.runs)
        self.child_restarts += other.child_restarts
        self.deployments += other.deployments
        self.failed_deployments += other.failed_deployments
        self.dropped += other.dropped
        self.batches += other.batches
        self.batch_tasks += other.batch_tasks
        self.shared_deaths += other.shared_deaths

    @property
    def _by_outcome(self) -> tuple[Counter[RunOutcome], ...]:
        return self.outcomes, self.first_attempts, self.ended_tasks

    def to_fields(self) -> dict[str, int]:
        """Return the numbers that are not 0, by the fields of the hash in Redis."""
        values = [
            *(counts[outcome] for counts in self._by_outcome for outcome in _OUTCOMES),
            *(*self.waits.counts, self.waits.sum_ms),
            *(*self.runs.counts, self.runs.sum_ms),
            *(self.requeued, self.child_restarts, self.deployments, self.failed_deployments, self.dropped),
            *(self.batches, self.batch_tasks, self.shared_deaths),
        ]
        return {name: value for name, value in zip(FIELDS, values, strict=True) if value}

    @classmethod
    def from_values(cls, values: Sequence[int]) -> RunCounters:
        """Return the counters, given their numbers in the order of FIELDS."""
        waits, runs, rest = values[_WAITS_START:_RUNS_START], values[_RUNS_START:_REST_START], values[_REST_START:]
        outcomes, first_attempts, ended_tasks = (
            Counter(dict(zip(_OUTCOMES, values[start:], strict=False)))
            for start in range(0, _WAITS_START, len(_OUTCOMES))
        )
        return cls(
            outcomes=outcomes,
            first_attempts=first_attempts,
            ended_tasks=ended_tasks,
            waits=Histogram([*waits[:-1]], waits[-1]),
            runs=Histogram([*runs[:-1]], runs[-1]),
            requeued=rest[0],
            child_restarts=rest[1],
            deployments=rest[2],
            failed_deployments=rest[3],
            dropped=rest[4],
            batches=rest[5],
            batch_tasks=rest[6],
            shared_deaths=rest[7],
        )


_BUCKETS = range(len(BUCKETS_S) + 1)
_WAITS_START = 3 * len(_OUTCOMES)
_RUNS_START = _WAITS_START + len(_BUCKETS) + 1
_REST_START = _RUNS_START + len(_BUCKETS) + 1
FIELDS = (
    *(f"{prefix}{outcome}" for prefix in ("", "first_", "ended_") for outcome in _OUTCOMES),
    *(f"wait_{bucket}" for bucket in _BUCKETS),
    "wait_ms",
    *(f"run_{bucket}" for bucket in _BUCKETS),
    "run_ms",
    *("requeued", "child_restarts", "deployments", "failed_deployments", "dropped"),
    *("batches", "batch_tasks", "shared_deaths"),
)


def add_run_counters(queue: str, counters: RunCounters) -> Request[None]:
    parts: list[Value] = [part for item in counters.to_fields().items() for part in item]
    call = script("add_run_counters")(counters=QueueKeys.of(queue).run_counters, fields_and_amounts=parts)
    return Request((call,), lambda _: None)


def read_run_counters(queues: Sequence[str]) -> Request[list[RunCounters]]:
    """Return the counters of Redis queues. Workers can write the fields; one that is not a number counts as 0."""
    names = [QueueKeys.of(queue).run_counters for queue in queues]
    return Request(
        tuple(command("HMGET", name, *FIELDS, key=name) for name in names),
        lambda replies: [_parse(reply) for reply in replies],
        tolerates_wrong_types=True,
    )


def add_webhook_attempts(attempts: Mapping[str, int]) -> Request[None]:
    """Add to the numbers of attempts to send webhooks, by outcome: `accepted`, `failed`."""
    parts: list[Value] = [part for item in attempts.items() for part in item]
    call = script("add_run_counters")(counters=keys.WEBHOOK_ATTEMPTS, fields_and_amounts=parts)
    return Request((call,), lambda _: None)


def read_webhook_attempts() -> Request[dict[str, int]]:
    names = ("accepted", "failed")
    read = command("HMGET", keys.WEBHOOK_ATTEMPTS, *names, key=keys.WEBHOOK_ATTEMPTS)
    return Request(
        (read,),
        lambda replies: {name: read_number(value) or 0 for name, value in zip(names, replies[0], strict=True)},
    )


def _parse(reply: Reply) -> RunCounters:
    return RunCounters.from_values([min(max(read_number(value) or 0, 0), MAX_COUNT) for value in reply or _NOTHING])


_NOTHING = (None,) * len(FIELDS)
