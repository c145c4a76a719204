"""The delays of retries: of tasks that failed, and of all that a worker tries again."""

import random
from dataclasses import dataclass

from runqy.broker.constants import ARCHIVE_MAX_TASKS

MAX_JITTER = 1.25


def backoff_s(attempt: int, *, first_s: float, max_s: float, factor: float = 2.0) -> float:
    """Return the delay after attempt number `attempt` (from 0): exponential up to a limit, with a quarter of jitter."""
    # Without this limit of the exponent the power overflows a float after enough attempts.
    grown = first_s * factor ** min(attempt, 60)
    return min(grown, max_s) * random.uniform(0.75, MAX_JITTER)  # noqa: S311 (spreads load, hides nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """How a queue handles failures and results."""

    delay_s: float = 15.0
    max_delay_s: float = 600.0
    keeps_results: bool = True
    max_result_bytes: int = 0
    """A task with a larger result fails; 0: no limit."""
    max_archived: int = ARCHIVE_MAX_TASKS
    """How many archived tasks each Redis queue keeps."""
    hides_payloads: bool = False
    """Record no payloads and results in the history of runs."""

    def retry_at_s(self, attempt: int, *, now_ns: int, delay_s: float | None = None) -> int:
        """Return the Unix time of the next attempt.

        The delay is the one that the task requested, or doubles with each attempt, up to the queue's limit.
        """
        if delay_s is None:
            # The limit holds after jitter: delays cut off at it would let tasks that failed together retry together.
            delay_s = backoff_s(attempt, first_s=self.delay_s, max_s=self.max_delay_s / MAX_JITTER)
        return now_ns // 1_000_000_000 + round(delay_s)
