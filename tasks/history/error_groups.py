"""Groups of errors: which group an error belongs to, and how often each occurred."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db.models import Count, FloatField, Func, Max, Min, Q
from django.db.models.functions import Floor

from runqy.broker.tasks.archive_reasons import ErrorClass
from runqy.core.formats.error_texts import find_error_line, is_traceback
from tasks.history.queries import RunFilter, filter_runs
from tasks.models import TaskRun
from tasks.transactions import search_limit

MAX_FAILURES = 100_000
"""The number of failures that are counted in groups."""
POINTS = 24
"""The intervals in which errors are counted over time."""
CLASS_MAX_LENGTH = 200
MESSAGE_MAX_LENGTH = 1000

_CLASS = re.compile(r"([A-Za-z_][\w.]{0,199}?)(?:: |:$|$)")
_VARIABLE_PARTS = (
    (re.compile(r"""(["'`])(?:(?!\1).){0,500}\1"""), "<text>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b\w+://\S+"), "<url>"),
    (re.compile(r"(?<![\w<])(?:[A-Za-z]:)?(?:[\\/][\w.@+-]+){2,}[\\/]?"), "<path>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<id>"),
    (re.compile(r"\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}\b"), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedError:
    """The parts of an error's text."""

    error_class: str
    """Empty if the text does not begin with a class, and none was sent."""
    message: str
    traceback: str
    """The whole text if it has a traceback, otherwise empty."""
    fingerprint: str


@lru_cache(maxsize=256)
def parse_error(text: str, sent_class: str = "") -> ParsedError | None:
    """Return the parts of an error's text; None if it is empty. `sent_class` is an import path."""
    text = text.strip()
    if not text:
        return None
    has_traceback = is_traceback(text)
    # Any tracebacks that a killed process printed are of errors that it handled.
    is_killed = sent_class == ErrorClass.PROCESS_KILLED
    head = find_error_line(text) if has_traceback and not is_killed else text
    match = _CLASS.match(head)
    error_class, message = "", head
    if match and _is_class_name(match[1]):
        error_class, message = match[1], head[match.end() :]
    # Of the text alone, so that what an SDK sends in addition begins no new group.
    group = fingerprint(error_class, message.partition("\n")[0] if is_killed else find_error_line(message))
    if sent_class and f".{sent_class}".endswith(f".{error_class}"):
        error_class = sent_class
    elif sent_class:
        error_class, message = sent_class, head
    return ParsedError(
        error_class=error_class[:CLASS_MAX_LENGTH],
        message=message[:MESSAGE_MAX_LENGTH],
        traceback=text if has_traceback else "",
        fingerprint=group,
    )


def fingerprint(error_class: str, message: str) -> str:
    """Return the same text for errors that differ only in numbers, ids, quoted texts, URLs and paths."""
    normalized = f"{error_class}\n{normalize(message)}"
    return hashlib.blake2b(normalized.encode("utf-8", "replace"), digest_size=16).hexdigest()


def normalize(message: str) -> str:
    """Return a message with its variable parts replaced by placeholders."""
    message = message[:MESSAGE_MAX_LENGTH]
    for pattern, replacement in _VARIABLE_PARTS:
        message = pattern.sub(replacement, message)
    return message.strip()


def _is_class_name(name: str) -> bool:
    """Return whether a word looks like the name of an exception: `ValueError`, `requests.exceptions.Timeout`."""
    last = name.rpartition(".")[2]
    return "." in name or (last[:1].isupper() and any(letter.islower() for letter in last[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Failed runs of a queue whose errors have the same fingerprint."""

    queue: str
    fingerprint: str
    count: int
    first_seen: datetime
    last_seen: datetime
    sample: TaskRun
    """The newest run; of a release, the newest of its commit, if it has one."""

    @property
    def key(self) -> tuple[str, str]:
        return self.queue, self.fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroupList:
    """The largest groups of errors."""

    groups: list[ErrorGroup]
    counted_after: datetime | None
    """Only failures that ended after this time are counted, MAX_FAILURES at most; None: all that match."""

    @property
    def is_partial(self) -> bool:
        return self.counted_after is not None


def count_failures_by_queue(run_filter: RunFilter, *, counted_after: datetime | None) -> list[tuple[str, int]]:
    """Return the number of failures in each queue, most first, among those that `list_error_groups` counted.

    Raise SearchTooSlow.
    """
    failures = filter_runs(run_filter).filter(fingerprint__isnull=False)
    if counted_after is not None:
        failures = failures.filter(ended_at__gt=counted_after)
    counts = failures.values("queue").annotate(count=Count("id")).order_by("-count", "queue")
    with search_limit():
        return [(row["queue"], row["count"]) for row in counts]


def list_error_groups(run_filter: RunFilter, *, limit: int) -> ErrorGroupList:
    """Return the groups of errors among the newest runs that match, the largest first. Raise SearchTooSlow."""
    failures = filter_runs(run_filter).filter(fingerprint__isnull=False)
    with search_limit():
        first_left_out = failures.order_by("-ended_at", "-id").values_list("ended_at", flat=True)[MAX_FAILURES:].first()
        if first_left_out is not None:
            failures = failures.filter(ended_at__gt=first_left_out)
        groups = list(
            failures.values("queue", "fingerprint")
            .annotate(count=Count("id"), first_seen=Min("ended_at"), last_seen=Max("ended_at"), newest=Max("id"))
            .order_by("-count", "queue", "fingerprint")[:limit]
        )
    samples = TaskRun.objects.in_bulk([group["newest"] for group in groups])
    found = [
        ErrorGroup(
            queue=group["queue"],
            fingerprint=group["fingerprint"] or "",
            count=group["count"],
            first_seen=group["first_seen"],
            last_seen=group["last_seen"],
            sample=samples[group["newest"]],
        )
        for group in groups
        if group["newest"] in samples  # unless it was deleted in between
    ]
    return ErrorGroupList(groups=found, counted_after=first_left_out)


def with_samples_of(
    groups: Sequence[ErrorGroup], run_filter: RunFilter, commits: Mapping[tuple[str, str], str]
) -> list[ErrorGroup]:
    """Return groups with the newest run of a commit, by queue and fingerprint, as the sample, if there is one.

    Of several releases that raise the same error, each has texts of its own. Raise SearchTooSlow.
    """
    others = [group for group in groups if commits.get(group.key, group.sample.commit) != group.sample.commit]
    if not others:
        return list(groups)
    # Some more rows than are wanted, because SQLite refuses a thousand alternatives.
    runs = filter_runs(run_filter).filter(
        queue__in={group.queue for group in others},
        fingerprint__in={group.fingerprint for group in others},
        commit__in={commits[group.key] for group in others},
    )
    rows = runs.values_list("queue", "fingerprint", "commit").annotate(newest=Max("id")).order_by()
    with search_limit():
        newest = {(queue, fingerprint, commit): pk for queue, fingerprint, commit, pk in rows}
    wanted = {group.key: newest.get((*group.key, commits[group.key]), 0) for group in others}
    samples = TaskRun.objects.in_bulk(wanted.values())
    return [replace(group, sample=samples.get(wanted.get(group.key, 0), group.sample)) for group in groups]


class UnixSeconds(Func):
    """A time as Unix seconds, computed in the database."""

    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # 2440587.5 is the Julian day of 1970-01-01.
        return super().as_sql(
            compiler, connection, template="((julianday(%(expressions)s) - 2440587.5) * 86400.0)", **context
        )

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return super().as_sql(compiler, connection, template="EXTRACT(EPOCH FROM %(expressions)s)", **context)


def count_over_time(
    groups: Sequence[ErrorGroup], run_filter: RunFilter, *, start: datetime, end: datetime
) -> dict[tuple[str, str], list[int]]:
    """Return the number of errors of each group, by queue and fingerprint, in POINTS equal intervals of a period.

    Raise SearchTooSlow.
    """
    if not groups:
        return {}
    start_s, width_s = int(start.timestamp()), max((end - start).total_seconds() / POINTS, 1)
    wanted = Q(*(Q(queue=group.queue, fingerprint=group.fingerprint) for group in groups), _connector=Q.OR)
    rows = (
        filter_runs(run_filter)
        .filter(wanted, ended_at__gte=start)
        .annotate(point=Floor((UnixSeconds("ended_at") - start_s) / width_s))
        .values("queue", "fingerprint", "point")
        .annotate(count=Count("id"))
    )
    counts = {(group.queue, group.fingerprint): [0] * POINTS for group in groups}
    with search_limit():
        points = list(rows.order_by())
    for row in points:
        # Runs that end while the page is built count in the last interval.
        counts[row["queue"], str(row["fingerprint"])][min(max(int(row["point"]), 0), POINTS - 1)] += row["count"]
    return counts


def find_known_groups(groups: Sequence[ErrorGroup], starts: Mapping[str, datetime]) -> set[tuple[str, str]]:
    """Return those groups, by queue and fingerprint, that occurred before the start of their queue, or that have none.

    Raise SearchTooSlow.
    """
    known = {group.key for group in groups if group.queue not in starts or group.first_seen < starts[group.queue]}
    asked: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        if group.key not in known:
            asked[group.queue].append(group.fingerprint)
    if not asked:
        return known
    # The failures of a queue are read once from an index, however many groups there are.
    earlier = (Q(queue=queue, ended_at__lt=starts[queue], fingerprint__in=found) for queue, found in asked.items())
    rows = TaskRun.objects.filter(Q(*earlier, _connector=Q.OR)).values_list("queue", "fingerprint")
    with search_limit():
        return known | {(queue, str(fingerprint)) for queue, fingerprint in rows.order_by().distinct()}


def find_start_of_commit(commit: str, *, queue: str = "") -> datetime | None:
    """Return when the first run of a commit ended; None if the history has none."""
    runs = TaskRun.objects.filter(commit=commit)
    if queue:
        runs = runs.filter(queue=queue)
    return runs.order_by("ended_at", "id").values_list("ended_at", flat=True).first()
