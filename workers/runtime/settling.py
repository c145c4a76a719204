"""Turns the end of a run into the broker's verb for it."""

from dataclasses import dataclass

from runqy.broker.finishing import Failure, Outcome, archive, complete, requeue, retry
from runqy.broker.message import CANCELED
from runqy.broker.operation import Request
from workers.runtime.backoff import delay_s
from workers.runtime.runs import Ending, Fate, Run

MAX_CHILD_DEATHS = 3
"""A task under which so many children died is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What a queue says about failures and results."""

    delay_s: float = 15.0
    max_delay_s: float = 600.0
    keeps_results: bool = True


def settle(run: Run, ending: Ending, policy: RetryPolicy, *, now_ns: int) -> Request[Outcome]:
    """Return the request that records how a run ended."""
    hold, message = run.taken.hold, run.taken.message
    if ending.fate is Fate.SUCCEEDED:
        return complete(hold, message, ending.result if policy.keeps_results else None, now_ns=now_ns)
    if ending.fate is Fate.GIVEN_BACK:
        return requeue(hold, now_ns=now_ns)
    if ending.fate is Fate.CANCELED:
        return archive(hold, message, error=CANCELED, now_ns=now_ns)
    if ending.fate is Fate.CHILD_DIED:
        return _after_death(run, ending, policy, now_ns)
    if ending.fate is Fate.RETRYABLE and message.retried < message.retry:
        failure = Failure(error=ending.error, retry_at_s=_retry_at_s(policy, message.retried, now_ns))
        return retry(hold, message, failure, now_ns=now_ns)
    return archive(hold, message, error=ending.error, now_ns=now_ns)


def _after_death(run: Run, ending: Ending, policy: RetryPolicy, now_ns: int) -> Request[Outcome]:
    """Try a task again under which a child died, without spending a retry, unless it happened too often."""
    hold, message, deaths = run.taken.hold, run.taken.message, run.taken.child_deaths
    if deaths + 1 >= MAX_CHILD_DEATHS:
        error = f"{deaths + 1} child processes died under this task; of the last: {ending.error}"
        return archive(hold, message, error=error, now_ns=now_ns, child_died=True)
    failure = Failure(error=ending.error, retry_at_s=_retry_at_s(policy, deaths, now_ns), child_died=True)
    return retry(hold, message, failure, now_ns=now_ns)


def _retry_at_s(policy: RetryPolicy, tries: int, now_ns: int) -> int:
    """Return the Unix s of the next try: the delay doubles with each, with jitter, up to the limit."""
    delay = min(delay_s(tries, first_s=policy.delay_s, most_s=policy.max_delay_s), policy.max_delay_s)
    return now_ns // 1_000_000_000 + round(delay)
