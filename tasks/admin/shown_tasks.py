"""A task in Redis, as pages show it to a user."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runqy.admin_site import labels
from runqy.admin_site.relative_time import RelativeTime
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.tasks.archive_reasons import find_archive_outcome
from runqy.broker.tasks.record import TaskRecord
from runqy.formats.durations import humanize_ms
from runqy.redis_connection import get_broker
from tasks.admin.filters import OUTCOME_NAMES, OUTCOME_VARIANTS
from tasks.admin.permissions import HIDDEN, can_view_payloads
from tasks.admin.presenters import STATE_NAMES, STATE_VARIANTS, TIME_COLUMNS, task_url, worker_url
from tasks.history.queries import find_last_ends
from tasks.models import TaskRun

_EXCERPT = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTask:
    """A task as a user may see it, with the last run that ended it, if the history has one."""

    record: TaskRecord
    last_end: TaskRun | None
    now_ns: int
    is_visible: bool
    """False: payload and error are hidden from the user."""

    @property
    def url(self) -> str:
        return task_url(self.record.id, self.record.queue)

    @property
    def outcome(self) -> RunOutcome | None:
        """Return the outcome with which the task was archived; None if a user archived it, or it is not archived.

        The history has precedence, once it has the run that ended the task.
        """
        if self.record.state is not TaskState.ARCHIVED:
            return None
        if self.last_end is not None and self._is_ended_by_run(self.record.archived_at_s):
            return RunOutcome(self.last_end.outcome)
        return find_archive_outcome(self.record, now_s=self.now_ns // 10**9)

    @property
    def reason(self) -> str:
        return OUTCOME_NAMES[self.outcome] if self.outcome else ""

    @property
    def state(self) -> str:
        name = STATE_NAMES[self.record.state]
        return f"{name}: {self.reason}" if self.reason else name

    @property
    def variant(self) -> str:
        """Return the colour of the state; an archived task has that of its outcome."""
        outcome = self.outcome
        return OUTCOME_VARIANTS[outcome] if outcome else STATE_VARIANTS.get(self.record.state, labels.NEUTRAL)

    @property
    def time_column(self) -> str:
        return TIME_COLUMNS.get(self.record.state, "Since")

    @property
    def time(self) -> RelativeTime | None:
        record = self.record
        if record.state in (TaskState.PENDING, TaskState.ACTIVE):
            since_ns = record.pending_since_ns if record.state is TaskState.PENDING else record.started_at_ns
            return RelativeTime.of_ns(since_ns, self.now_ns)
        if record.state is TaskState.COMPLETED:
            return RelativeTime.of_s(record.completed_at_s, self.now_ns)
        if record.state is TaskState.ARCHIVED:
            return RelativeTime.of_s(record.archived_at_s, self.now_ns)
        return RelativeTime.of_s(record.score_s, self.now_ns, is_due=True)

    @property
    def attempts(self) -> str:
        return f"{self.record.attempts} of {self.record.message.retry + 1}"

    @property
    def payload_start(self) -> str:
        data = self.record.payload if self.is_visible else b""
        return data[:_EXCERPT].decode("utf-8", "ignore") + (" …" if len(data) > _EXCERPT else "")

    @property
    def has_error(self) -> bool:
        """Return whether there is an error to show. That of an earlier attempt does not concern a completed task."""
        return bool(self.record.error) and self.record.state is not TaskState.COMPLETED

    @property
    def error_line(self) -> str:
        """Return the last line that is not blank, since a traceback ends with its message."""
        text = (self.record.error if self.is_visible else HIDDEN) if self.has_error else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:_EXCERPT] if lines else ""

    @property
    def run_time(self) -> str:
        """Return how long a completed task ran; empty if it is unknown."""
        record = self.record
        if record.state is not TaskState.COMPLETED:
            return ""
        if self.last_end is not None and self._is_ended_by_run(record.completed_at_s):
            # More exact: it begins when the child began, while Redis has only the time of the dequeue.
            return humanize_ms(self.last_end.run_ms)
        if record.started_at_ns and record.completed_ns:
            return humanize_ms(max(record.completed_ns - record.started_at_ns, 0) // 1_000_000)
        return ""

    @property
    def worker_url(self) -> str:
        return worker_url(self.record.worker_id)

    def _is_ended_by_run(self, ended_at_s: int | None) -> bool:
        # A task that was run again has earlier ends too. Redis has some times to the second only.
        ended_at = self.last_end.ended_at.timestamp() if self.last_end else 0
        return ended_at_s is not None and ended_at >= ended_at_s - 1


def shown_tasks(records: Sequence[TaskRecord], user: Any) -> list[ShownTask]:
    """Return tasks as a user may see them. One query reads how ended tasks ended."""
    ended = [(record.queue, record.id) for record in records if record.state.is_final]
    last_ends = find_last_ends(ended) if ended else {}
    return [shown_task(record, user, last_ends.get((record.queue, record.id))) for record in records]


def shown_task(record: TaskRecord, user: Any, last_end: TaskRun | None) -> ShownTask:
    """Return a task as a user may see it. Raise ConfigurationUnavailable."""
    is_visible = can_view_payloads(user, record.queue)
    return ShownTask(record=record, last_end=last_end, now_ns=get_broker().now_ns(), is_visible=is_visible)
