"""The attempts of the last hour by queue, and the queues that fail most and why, from the history."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import F, Sum, Value

from runqy import clock
from runqy.broker.states import FAILURES, RunOutcome
from runqy.page_cache import get_or_read
from tasks.models import QueueMinute
from tasks.rollups import MINUTE_S, floor_time
from tasks.run_queries import RunFilter, filter_runs

CACHE_S = 5.0
"""How long pages share one reading of the counts."""
MAX_QUEUES = 5
SPAN = timedelta(hours=1)
_SAMPLE = 200
"""The number of newest failures that show why a queue fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastHour:
    """The attempts that ended in the last hour, from the start of its first minute."""

    since: datetime
    completed: Mapping[str, int]
    """By queue."""
    failed: Mapping[str, int]
    """By queue: all outcomes of FAILURES."""
    ended: Mapping[str, int]
    """By queue: all outcomes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingQueue:
    """A queue with failed attempts."""

    name: str
    failed: int
    ended: int
    reason: str
    """The most frequent error among the newest failures; empty if it is unknown."""
    fingerprint: str

    @property
    def rate(self) -> float:
        """Return the share of attempts that failed, in percent."""
        return 100 * self.failed / self.ended


def read_last_hour() -> LastHour:
    """Return the attempts of the last hour, from the counts that charts use."""
    return get_or_read("last_hour", LastHour, _read, max_age_s=CACHE_S)


def list_failing_queues() -> list[FailingQueue]:
    """Return the queues with the most failed attempts in the last hour, most first."""
    return get_or_read("last_hour:failing", list[FailingQueue], _find_failing, max_age_s=CACHE_S)


def _read() -> LastHour:
    since = floor_time(datetime.fromtimestamp(clock.now_ns() / 1e9, UTC) - SPAN, MINUTE_S)
    rows = list(
        QueueMinute.objects.filter(start__gte=since)
        .values("queue")
        .annotate(successes=Sum("completed"), failures=_sum(FAILURES), runs=_sum(RunOutcome))
    )
    return LastHour(
        since=since,
        completed={row["queue"]: row["successes"] for row in rows},
        failed={row["queue"]: row["failures"] for row in rows if row["failures"]},
        ended={row["queue"]: row["runs"] for row in rows},
    )


def _find_failing() -> list[FailingQueue]:
    hour = read_last_hour()
    by_failures = sorted(hour.failed.items(), key=lambda item: (-item[1], item[0]))
    return [_failing_queue(name, failed, hour) for name, failed in by_failures[:MAX_QUEUES]]


def _sum(outcomes: Iterable[RunOutcome]) -> Any:
    return sum((Sum(F(outcome.value)) for outcome in outcomes), start=Value(0))


def _failing_queue(name: str, failed: int, hour: LastHour) -> FailingQueue:
    fingerprint, reason = _find_reason(_newest_errors(name, hour.since))
    return FailingQueue(name=name, failed=failed, ended=hour.ended[name], reason=reason, fingerprint=fingerprint)


def _newest_errors(queue: str, since: datetime) -> Iterable[tuple[str | None, str, str]]:
    """Return fingerprint, class and message of each of the newest failures of a queue."""
    failures = filter_runs(RunFilter(queue=queue, outcomes=frozenset(FAILURES), since=since))
    return failures.order_by("-ended_at", "-id").values_list("fingerprint", "error_class", "error_message")[:_SAMPLE]


def _find_reason(errors: Iterable[tuple[str | None, str, str]]) -> tuple[str, str]:
    """Return the fingerprint of the most frequent error and its newest text; both empty if there are no errors."""
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for fingerprint, error_class, message in errors:
        if fingerprint:
            counts[fingerprint] += 1
            texts.setdefault(fingerprint, f"{error_class}: {message}" if error_class else message)
    return next(((fingerprint, texts[fingerprint]) for fingerprint, _ in counts.most_common(1)), ("", ""))
