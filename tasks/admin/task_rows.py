"""Renders tasks in Redis for lists: their rows, and how those that ended did so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runqy.admin_site import labels
from runqy.admin_site.relative_time import RelativeTime
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.archive_reasons import find_archive_outcome
from runqy.broker.tasks.record import TaskRecord
from runqy.durations import humanize_ms
from tasks.admin.filters import OUTCOME_NAMES, OUTCOME_VARIANTS
from tasks.admin.permissions import HIDDEN, can_view_payloads
from tasks.admin.presenters import STATE_NAMES, STATE_VARIANTS, task_url, worker_url
from tasks.models import TaskRun
from tasks.run_queries import find_last_ends

_EXCERPT = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task in a list."""

    id: str
    queue: str
    """The Redis queue."""
    url: str
    state: str
    """Its name, with the reason for an archived task."""
    reason: str
    """The name of the outcome with which it was archived, see `find_outcome`."""
    variant: str
    """The colour of its state."""
    time: RelativeTime | None
    attempts: str
    payload: str
    error: str
    """Of the last attempt that failed; empty for a completed task."""
    is_hidden: bool
    """Payload and error are hidden from the user."""
    run_time: str
    """Of a completed task, see `duration_of`."""
    worker_id: str
    worker_url: str


def task_rows(records: Sequence[TaskRecord], user: Any, *, now_ns: int) -> list[TaskRow]:
    """Return the rows of a list; payloads and errors are hidden from users who may not view them.

    The history is asked once how those that ended did so.
    """
    ended = [(record.queue, record.id) for record in records if record.state.is_final]
    last_ends = find_last_ends(ended) if ended else {}
    return [
        _task_row(
            record,
            last_ends.get((record.queue, record.id)),
            now_ns=now_ns,
            is_visible=can_view_payloads(user, record.queue),
        )
        for record in records
    ]


def _task_row(record: TaskRecord, last_end: TaskRun | None, *, now_ns: int, is_visible: bool) -> TaskRow:
    return TaskRow(
        id=record.id,
        queue=record.queue,
        state=state_label(record, last_end, now_ns=now_ns),
        url=task_url(record.id, record.queue),
        reason=_name_of(find_outcome(record, last_end, now_ns=now_ns)),
        variant=state_variant(record, last_end, now_ns=now_ns),
        time=_time(record, now_ns),
        attempts=f"{record.attempts} of {record.message.retry + 1}",
        payload=_excerpt(record.payload) if is_visible else "",
        error=_last_line(record.error if is_visible else HIDDEN) if has_error(record) else "",
        is_hidden=not is_visible,
        run_time=duration_of(record, last_end),
        worker_id=record.worker_id,
        worker_url=worker_url(record.worker_id),
    )


def has_error(record: TaskRecord) -> bool:
    """Return whether a task has an error to show: that of an earlier attempt does not concern one that completed."""
    return bool(record.error) and record.state is not TaskState.COMPLETED


def find_outcome(record: TaskRecord, last_end: TaskRun | None, *, now_ns: int) -> RunOutcome | None:
    """Return the outcome with which a task was archived; None if a user archived it, or it is not archived.

    It is that of the history, once that has the run that ended the task. `last_end` is the last one of its runs that
    did, if there is any.
    """
    if record.state is not TaskState.ARCHIVED:
        return None
    if last_end is not None and _is_of(last_end, record.archived_at_s):
        return RunOutcome(last_end.outcome)
    return find_archive_outcome(record, now_s=now_ns // 10**9)


def state_label(record: TaskRecord, last_end: TaskRun | None, *, now_ns: int) -> str:
    """Return the name of a task's state, with the outcome of an archived task."""
    outcome = find_outcome(record, last_end, now_ns=now_ns)
    return f"{STATE_NAMES[record.state]}: {_name_of(outcome)}" if outcome else STATE_NAMES[record.state]


def state_variant(record: TaskRecord, last_end: TaskRun | None, *, now_ns: int) -> str:
    """Return the colour of a task's state; of an archived task that of its outcome."""
    outcome = find_outcome(record, last_end, now_ns=now_ns)
    return OUTCOME_VARIANTS[outcome] if outcome else STATE_VARIANTS.get(record.state, labels.NEUTRAL)


def _name_of(outcome: RunOutcome | None) -> str:
    return OUTCOME_NAMES[outcome] if outcome else ""


def duration_of(record: TaskRecord, last_end: TaskRun | None) -> str:
    """Return how long a completed task ran; empty if it is unknown.

    Redis has the time of its dequeue; the history also when its child began.
    """
    if record.state is not TaskState.COMPLETED:
        return ""
    if last_end is not None and _is_of(last_end, record.completed_at_s):
        return humanize_ms(last_end.run_ms)
    if record.started_at_ns and record.completed_ns:
        return humanize_ms(max(record.completed_ns - record.started_at_ns, 0) // 1_000_000)
    return ""


def _is_of(last_end: TaskRun, ended_at_s: int | None) -> bool:
    """Return whether a run ended a task at this time: one that was run again has earlier ends too."""
    return ended_at_s is not None and last_end.ended_at.timestamp() >= ended_at_s - 1


def _time(record: TaskRecord, now_ns: int) -> RelativeTime | None:
    """Return the time for the column in TIME_COLUMNS."""
    if record.state is TaskState.PENDING:
        return RelativeTime.of_ns(record.pending_since_ns, now_ns)
    if record.state is TaskState.ACTIVE:
        return RelativeTime.of_ns(record.started_at_ns, now_ns)
    if record.state is TaskState.COMPLETED:
        return RelativeTime.of_s(record.completed_at_s, now_ns)
    if record.state is TaskState.ARCHIVED:
        return RelativeTime.of_s(record.archived_at_s, now_ns)
    return RelativeTime.of_s(record.score_s, now_ns, is_due=True)


def _excerpt(data: bytes) -> str:
    return data[:_EXCERPT].decode("utf-8", "ignore") + (" …" if len(data) > _EXCERPT else "")


def _last_line(text: str) -> str:
    """Return the last line that is not blank: a traceback ends with its message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_EXCERPT] if lines else ""
