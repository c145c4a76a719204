"""Check the history of a queue's runs against what clients, tasks and counters saw. No I/O."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runqy.broker.states import RunOutcome
from tools.soak.checker import Violation

TOLERANCE = 0.01
"""The fraction by which charts, counters and metrics may differ."""
LETTERS = {
    RunOutcome.COMPLETED.value: "c",
    RunOutcome.RETRIED.value: "r",
    RunOutcome.FAILED.value: "f",
    RunOutcome.TIMED_OUT.value: "t",
    RunOutcome.LOST.value: "l",
    RunOutcome.CANCELED.value: "x",
    RunOutcome.EXPIRED.value: "e",
}
"""A letter for each outcome: a million tasks must fit into memory."""
LOST = "l"


@dataclass(slots=True, kw_only=True)
class QueueHistory:
    """All that is known about a Redis queue once its tasks have ended and the history has caught up."""

    queue: str
    accepted: frozenset[str]
    waiting: frozenset[str] = frozenset()
    """Tasks that Redis lists as waiting or active."""
    ended: Sequence[str] = ()
    """Tasks that Redis lists as completed or archived."""
    journal: Mapping[str, str] = field(default_factory=dict)
    """The outcomes of each task's attempts as the tasks recorded them, a letter each."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """The outcomes of each task's attempts in the history."""
    twice: Sequence[str] = ()
    """Attempts with several rows, and tasks with several final rows."""
    counted_only: int = 0
    """Successes that are only in the rollups."""
    dropped: int = 0
    """Attempts that a full stream dropped, as the database counts them."""
    invalid: int = 0
    minutes: Mapping[str, int] = field(default_factory=dict)
    """The sums of the rollups by minute, by outcome."""
    hours: Mapping[str, int] = field(default_factory=dict)
    charted: Mapping[str, int] = field(default_factory=dict)
    """The sums of what `GET /api/cli/queues/{queue}/stats` returns, by outcome."""
    charted_dropped: int = 0
    processed: int = 0
    """Of asynq's counters, as is `failed`."""
    failed: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """`runqy_task_runs_total` by outcome, which workers count."""
    metrics_processed: float = 0.0
    """`asynq_tasks_processed_total`."""

    @property
    def attempts(self) -> int:
        """The number of attempts that the tasks recorded."""
        return sum(map(len, self.journal.values()))


@dataclass(slots=True, kw_only=True)
class HistoryResult:
    """The result of a check."""

    violations: list[Violation]
    missing: Counter[str]
    """Attempts without a row, by outcome."""
    lost: int
    """The number of rows of attempts whose worker fell silent."""


def check_history(history: QueueHistory) -> HistoryResult:
    """Check that the history is complete, has nothing twice, and agrees with the counters."""
    missing, extra, lost = _compare(history)
    result = HistoryResult(violations=[], missing=missing, lost=lost)
    for violations in (
        _find_unaccounted(history),
        _find_incomplete(history, missing, extra),
        _find_twice(history),
        _find_wrong_sums(history),
    ):
        result.violations += violations
    return result


def _compare(history: QueueHistory) -> tuple[Counter[str], list[str], int]:
    """Return the attempts without a row by outcome, the rows without an attempt, and the number of lost attempts.

    An attempt whose worker fell silent may have recorded any outcome, or none.
    """
    missing: Counter[str] = Counter()
    extra: list[str] = []
    lost = 0
    for task_id in history.journal.keys() | history.rows.keys():
        noted, stored = history.journal.get(task_id, ""), history.rows.get(task_id, "")
        if noted == stored:
            continue
        unstored, unnoted = Counter(noted) - Counter(stored), Counter(stored) - Counter(noted)
        lost += unnoted[LOST]
        for letter in list(unstored.elements())[: unnoted.pop(LOST, 0)]:
            unstored[letter] -= 1
        missing.update(+unstored)
        extra += [f"{task_id} {letter}" for letter in unnoted.elements()]
    return missing, extra, lost


def _find_unaccounted(history: QueueHistory) -> Iterator[Violation]:
    """Each accepted task has ended or waits, and no other task exists."""
    if gone := history.accepted - history.waiting - set(history.ended):
        detail = f"{history.queue}: {len(gone)} accepted tasks neither ended nor wait, such as {min(gone)}"
        yield Violation(invariant="lost", detail=detail)
    if others := (history.waiting | set(history.ended)) - history.accepted:
        yield Violation(invariant="created twice", detail=f"{history.queue}: {len(others)} tasks were not accepted")
    if len(set(history.ended)) != len(history.ended):
        yield Violation(invariant="ended twice", detail=f"{history.queue}: tasks are completed and archived")


def _find_incomplete(history: QueueHistory, missing: Counter[str], extra: Sequence[str]) -> Iterator[Violation]:
    """Each attempt has a row, except those that are counted as dropped or only in the rollups."""
    if extra:
        detail = f"{history.queue}: {len(extra)} rows of attempts that no task noted, such as {extra[0]}"
        yield Violation(invariant="rows", detail=detail)
    explained = history.counted_only + history.dropped + history.invalid
    if missing.total() != explained:
        counts = f"{history.counted_only} counted only, {history.dropped} dropped, {history.invalid} invalid"
        detail = f"{history.queue}: {missing.total()} attempts without a row ({dict(missing)}); {counts}"
        yield Violation(invariant="incomplete", detail=detail)


def _find_twice(history: QueueHistory) -> Iterator[Violation]:
    """No attempt has two rows, and the rollups count each once."""
    for found in history.twice[:3]:
        yield Violation(invariant="twice", detail=f"{history.queue}: {found}")
    expected = count_letters(history.rows.values())
    expected[LETTERS[RunOutcome.COMPLETED]] += history.counted_only
    for name, sums in (("minutes", history.minutes), ("hours", history.hours), ("stats", history.charted)):
        for outcome, letter in LETTERS.items():
            if sums.get(outcome, 0) != expected[letter]:
                numbers = f"{sums.get(outcome, 0)} {outcome} in the {name}, {expected[letter]} recorded"
                yield Violation(invariant="rollups", detail=f"{history.queue}: {numbers}")
    if history.charted_dropped != history.dropped:
        numbers = f"{history.charted_dropped} dropped in the stats, {history.dropped} of the stream"
        yield Violation(invariant="rollups", detail=f"{history.queue}: {numbers}")


def _find_wrong_sums(history: QueueHistory) -> Iterator[Violation]:
    """The charts agree with the counters of Redis and with the metrics."""
    for what, charted, counted in compare_sums(history):
        if difference(charted, counted) > TOLERANCE:
            detail = f"{history.queue}: {what}: {charted:,.0f} charted, {counted:,.0f} counted"
            yield Violation(invariant="sums", detail=detail)


def compare_sums(history: QueueHistory) -> Iterator[tuple[str, float, float]]:
    """Yield what is compared, its number in the charts (with dropped runs), and its number elsewhere."""
    total = sum(history.charted.values()) + history.charted_dropped
    yield "attempts, of the tasks", total, history.attempts
    yield "attempts, asynq's counter", total, history.processed
    yield "attempts, /metrics of asynq", total, history.metrics_processed
    runs = sum(count for outcome, count in history.metrics.items() if outcome != "requeued")
    yield "attempts, /metrics of workers", total, runs
    if history.dropped:
        return  # how dropped runs ended is unknown
    charted_failures = history.charted.get("retried", 0) + history.charted.get("failed", 0)
    yield "failures, asynq's counter", charted_failures, history.failed
    failures = history.metrics.get("retried", 0) + history.metrics.get("failed", 0)
    yield "failures, /metrics of workers", charted_failures, failures


def difference(value: float, other: float) -> float:
    """Return how far two numbers differ, as a fraction of the larger one."""
    return abs(value - other) / max(value, other, 1)


def count_letters(outcomes: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for letters in outcomes:
        counts.update(letters)
    return counts
