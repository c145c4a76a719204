"""Tasks and runs as pages show them to a user: names and colours, URLs, times, and a class for each of the two."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.urls import reverse

from queues.queries import HIDDEN
from runqy.admin_site import labels
from runqy.admin_site.times import RelativeTime, format_absolute
from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.run_log import ERROR_MAX_BYTES, TRACEBACK_MAX_BYTES, is_cut
from runqy.broker.tasks.archive_reasons import find_archive_outcome
from runqy.broker.tasks.reader import TaskLocation
from runqy.broker.tasks.record import TaskRecord
from runqy.core.formats.durations import humanize_ms
from runqy.core.formats.error_texts import find_error_line
from runqy.redis_connection import get_broker
from tasks.admin.permissions import can_view_payloads
from tasks.history.queries import find_last_ends
from tasks.models import TaskRun
from tasks.queries import find_gone
from tasks.search import TaskQuery

STATE_NAMES = {state: state.value.capitalize() for state in TaskState}

STATE_VARIANTS = {
    TaskState.ACTIVE: labels.INFO,
    TaskState.RETRY: labels.WARNING,
    TaskState.COMPLETED: labels.SUCCESS,
}
"""Colours of states. Other states are neutral; an archived task has the colour of its outcome."""

TIME_COLUMNS = {
    TaskState.PENDING: "Pending since",
    TaskState.ACTIVE: "Active since",
    TaskState.SCHEDULED: "Scheduled for",
    TaskState.RETRY: "Next run",
    TaskState.ARCHIVED: "Archived",
    TaskState.COMPLETED: "Completed",
}

ENDED = "ended"
ANY_FAILURE = "failure"

OUTCOME_NAMES = {
    RunOutcome.COMPLETED: "Completed",
    RunOutcome.RETRIED: "Failed, retried",
    RunOutcome.FAILED: "Failed",
    RunOutcome.TIMED_OUT: "Timed out",
    RunOutcome.CANCELED: "Cancelled",
    RunOutcome.EXPIRED: "Expired",
    RunOutcome.LOST: "Worker lost",
}
OUTCOME_VARIANTS = {
    RunOutcome.COMPLETED: labels.SUCCESS,
    RunOutcome.RETRIED: labels.WARNING,
    RunOutcome.FAILED: labels.DANGER,
    RunOutcome.TIMED_OUT: labels.DANGER,
    RunOutcome.CANCELED: labels.NEUTRAL,
    RunOutcome.EXPIRED: labels.DANGER,
    RunOutcome.LOST: labels.DANGER,
}
_EXCERPT = 160


def task_url(task_id: str, redis_queue: str = "") -> str:
    """Return the URL of a task. The queue distinguishes it from others with the same id.

    For an empty id, which a worker may report, return the URL of the queue's tasks.
    """
    if not task_id:
        return queue_tasks_url(redis_queue)
    path = reverse("admin:tasks_task_change", args=[quote(task_id)])
    return f"{path}?{urlencode({'queue': redis_queue})}" if redis_queue else path


def task_urls(broker: Broker, tasks: Iterable[TaskLocation]) -> dict[TaskLocation, str]:
    """Return the URL of each task; empty if neither Redis nor the history has it. Raise BrokerUnavailable."""
    tasks = [*tasks]
    gone = find_gone(broker, tasks)
    return {(queue, task_id): "" if (queue, task_id) in gone else task_url(task_id, queue) for queue, task_id in tasks}


def queue_tasks_url(redis_queue: str, state: TaskState = TaskState.PENDING) -> str:
    query = urlencode({"queue": redis_queue, "state": state.value})
    return f"{reverse('admin:tasks_task_changelist')}?{query}"


def tasks_url(query: TaskQuery | None = None, **fields: str) -> str:
    """Return the URL of the list of tasks with these fields of the form, or with those of a filter."""
    values = {**(as_fields(query) if query else {}), **fields}
    return f"{reverse('admin:tasks_task_changelist')}?{urlencode(values)}"


def as_fields(query: TaskQuery) -> dict[str, str]:
    """Return a filter as fields of the form, with absolute times."""
    outcomes = query.outcomes
    values = {
        "state": query.state.value if query.state else ENDED,
        "queue": query.queue,
        "text": query.text,
        "outcome": ANY_FAILURE if len(outcomes) > 1 else "".join(outcomes),
        "worker": query.worker_id,
        "commit": query.commit,
        "error": query.fingerprint,
        "since": format_absolute(query.since) if query.since else "",
        "until": format_absolute(query.until) if query.until else "",
    }
    return {name: value for name, value in values.items() if value}


def not_found_message(task_id: str) -> str:
    return f"Task {task_id[:128]} not found. It may have been deleted or have expired."


def worker_url(worker_id: str) -> str:
    """Return the URL of a worker; empty for an empty id."""
    return reverse("admin:workers_worker_change", args=[quote(worker_id)]) if worker_id else ""


def timeline(record: TaskRecord, now_ns: int) -> list[tuple[str, RelativeTime]]:
    """Return the times of a task in order. Some are known to the second only."""
    message, is_active = record.message, record.state is TaskState.ACTIVE
    times = [
        ("Enqueued", RelativeTime.of_ns(record.enqueued_at_ns, now_ns)),
        ("Pending", RelativeTime.of_ns(record.pending_since_ns, now_ns)),
        ("Last run started", RelativeTime.of_ns(record.started_at_ns, now_ns)),
        ("Last run failed", RelativeTime.of_s(message.last_failed_at, now_ns)),
        ("Cancellation requested", RelativeTime.of_ns(record.cancel_requested_at_ns, now_ns)),
        ("Next run", RelativeTime.of_s(record.next_process_at_s, now_ns, is_due=True)),
        (
            "Lease expires, unless extended",
            RelativeTime.of_s(record.score_s if is_active else None, now_ns, is_due=True),
        ),
        ("Completed", RelativeTime.of_s(record.completed_at_s, now_ns)),
        ("Archived", RelativeTime.of_s(record.archived_at_s, now_ns)),
        ("Deadline", RelativeTime.of_s(message.deadline, now_ns, is_due=not record.state.is_final)),
        ("Expires", RelativeTime.of_s(record.expires_at_s, now_ns, is_due=True)),
    ]
    # By second, since some have no more: sorting is stable, so times of one second keep the order above.
    return sorted(((label, at) for label, at in times if at), key=lambda time: time[1].at_ns // 10**9)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRun:
    """An attempt, or the end of a task without one, as a user may see it."""

    run: TaskRun
    now_ns: int
    is_visible: bool
    """False: payload and error are hidden from the user."""
    earlier: int = 0
    """The number of earlier attempts of the task that match, in a list with one row for each task."""

    @classmethod
    def of(cls, run: TaskRun, user: Any) -> "ShownRun":
        """Return a run as a user may see it. Raise ConfigurationUnavailable."""
        return cls(run=run, now_ns=get_broker().now_ns(), is_visible=can_view_payloads(user, run.redis_queue))

    @property
    def url(self) -> str:
        return task_url(self.run.task_id, self.run.redis_queue)

    @property
    def outcome(self) -> str:
        return OUTCOME_NAMES[RunOutcome(self.run.outcome)]

    @property
    def variant(self) -> str:
        return OUTCOME_VARIANTS[RunOutcome(self.run.outcome)]

    @property
    def ended(self) -> RelativeTime:
        return RelativeTime.of_datetime(self.run.ended_at, self.now_ns)

    @property
    def run_time(self) -> str:
        return humanize_ms(self.run.run_ms)

    @property
    def wait_time(self) -> str:
        return humanize_ms(self.run.wait_ms)

    @property
    def worker_url(self) -> str:
        return worker_url(self.run.worker_id)

    @property
    def commit_url(self) -> str:
        return tasks_url(queue=self.run.queue, commit=self.run.commit, state="ended")

    @property
    def error_url(self) -> str:
        """Return the URL of the list of tasks with the same error; empty without an error."""
        error = self.run.fingerprint
        return tasks_url(queue=self.run.queue, error=error, state="ended") if error else ""

    @property
    def payload_start(self) -> str:
        return self.run.payload[:_EXCERPT] if self.is_visible else ""

    @property
    def error(self) -> str:
        error = self.run.exception_line
        return (error if self.is_visible else HIDDEN) if error else ""

    @property
    def error_start(self) -> str:
        return self.error[:_EXCERPT]

    @property
    def traceback(self) -> str:
        return self.run.traceback if self.is_visible else ""

    @property
    def error_limits(self) -> str:
        """Return an explanation of what is kept of a long error; empty if the whole error is."""
        if not self.is_visible:
            return ""
        if is_cut(self.run.traceback):
            return (
                "An excerpt: the history keeps only the end of a long traceback, "
                f"{ERROR_MAX_BYTES} to {TRACEBACK_MAX_BYTES:,} bytes; a shorter payload leaves room for more."
            )
        if is_cut(self.run.exception_line):
            return f"An excerpt: the history keeps the first {ERROR_MAX_BYTES} bytes of a long message."
        return ""


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
        text = (self.record.error if self.is_visible else HIDDEN) if self.has_error else ""
        return find_error_line(text)[:_EXCERPT]

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
