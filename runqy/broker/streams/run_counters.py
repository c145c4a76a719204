"""Counters of a Redis queue's runs: outcomes, times, batches, child restarts, runs that the history dropped; and of
webhooks.

Workers add to them with their heartbeats. Scripts count what no worker can: tasks that expire or are cancelled while
they wait, and lost runs. Maintenance counts the runs that the history drops. They only grow, so that Prometheus can
compute rates from them while workers come and go (ADR 0032).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

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
_PARTS = (*range(len(BUCKETS_S) + 1), "ms")


class RunCount(StrEnum):
    """The counters of runs without an outcome or a time, by their fields in Redis."""

    REQUEUED = "requeued"  # given back by a stopping worker, not run or interrupted: no attempt
    CHILD_RESTARTS = "child_restarts"
    SHARED_DEATHS = "shared_deaths"  # of these, the children that died while they ran several tasks
    DEPLOYMENTS = "deployments"
    FAILED_DEPLOYMENTS = "failed_deployments"
    BATCHES = "batches"
    BATCH_TASKS = "batch_tasks"  # the members of these batches
    DROPPED = "dropped"  # runs that the history lost, because the stream of the queue was full


class OutcomeCount(StrEnum):
    """What is counted by outcome, and the prefix of its fields."""

    ALL = ""  # EXPIRED counts tasks that were not started
    FIRST = "first_"  # of first attempts, and of tasks that ended without any
    ENDED = "ended_"  # of runs that ended their task


class RunTime(StrEnum):
    """What is counted by duration."""

    WAIT = "wait"  # from pending to the start of the run
    RUN = "run"


# Made once: a worker counts each task, and to format a name takes longer than to count.
_OUTCOME_FIELDS = {outcome: tuple(f"{prefix}{outcome}" for prefix in OutcomeCount) for outcome in RunOutcome}
_TIME_FIELDS = {time: tuple(f"{time}_{part}" for part in _PARTS) for time in RunTime}
FIELDS = (
    *(field for fields in _OUTCOME_FIELDS.values() for field in fields),
    *(field for fields in _TIME_FIELDS.values() for field in fields),
    *RunCount,
)


class RunCounters(Counter[str]):
    """The counters of one Redis queue, by FIELDS."""

    def count_outcome(self, outcome: RunOutcome, *, is_first: bool, is_final: bool) -> None:
        every, first, ended = _OUTCOME_FIELDS[outcome]
        self[every] += 1
        if is_first:
            self[first] += 1
        if is_final:
            self[ended] += 1

    def observe(self, time: RunTime, seconds: float) -> None:
        fields = _TIME_FIELDS[time]
        self[fields[bisect_left(BUCKETS_S, seconds)]] += 1
        self[fields[-1]] += int(seconds * 1000)

    def by_outcome(self, counted: OutcomeCount = OutcomeCount.ALL) -> Counter[RunOutcome]:
        return Counter({outcome: self[f"{counted}{outcome}"] for outcome in RunOutcome})

    def by_bucket(self, time: RunTime) -> list[int]:
        """Return the counts by bucket, not cumulative; the last bucket has no upper bound."""
        return [self[field] for field in _TIME_FIELDS[time][:-1]]


def add_run_counters(queue: str, counters: RunCounters) -> Request[None]:
    parts: list[Value] = [part for item in (+counters).items() for part in item]
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
    values = (min(max(read_number(value) or 0, 0), MAX_COUNT) for value in reply or ())
    return RunCounters(dict(zip(FIELDS, values, strict=False)))
