"""Says how a task looks to staff: a row of a list, its times, and the bytes that they may see."""

from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.urls import reverse

from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from runqy.staff.moments import Moment
from tasks import payloads
from tasks.admin.rights import HIDDEN

SHOWN_BYTES = 64 << 10
"""More of a payload or result than this is only downloaded."""
_LONGEST_PRETTY = 1 << 20
_EXCERPT = 160

VARIANTS = {
    TaskState.ACTIVE: "info",
    TaskState.SCHEDULED: "primary",
    TaskState.RETRY: "warning",
    TaskState.ARCHIVED: "danger",
    TaskState.COMPLETED: "success",
}
"""The colours of the states' labels, by unfold's names; the others are grey."""

TIME_COLUMNS = {
    TaskState.PENDING: "Waiting since",
    TaskState.ACTIVE: "Running since",
    TaskState.SCHEDULED: "Starts",
    TaskState.RETRY: "Next run",
    TaskState.ARCHIVED: "Archived",
    TaskState.COMPLETED: "Completed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task in a list."""

    id: str
    url: str
    when: Moment | None
    attempts: str
    payload: str
    error: str
    worker_id: str
    worker_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A payload or a result on a task's page."""

    text: str
    size: int
    is_cut: bool = False
    is_text: bool = True
    """It is UTF-8; what is not is shown as well as can be."""


def task_url(task_id: str, redis_queue: str = "") -> str:
    """Return where a task's page is; the queue tells it from others of the same id.

    An id may be empty where a worker made it up: then the list of the queue's tasks.
    """
    if not task_id:
        return queue_tasks_url(redis_queue)
    path = reverse("admin:tasks_task_change", args=[quote(task_id)])
    return f"{path}?{urlencode({'queue': redis_queue})}" if redis_queue else path


def queue_tasks_url(redis_queue: str, state: TaskState = TaskState.PENDING) -> str:
    """Return where the tasks of a Redis queue in a state are."""
    query = urlencode({"queue": redis_queue, "state": state.value})
    return f"{reverse('admin:tasks_task_changelist')}?{query}"


def no_such_task(task_id: str) -> str:
    """Return what is said of an id that no task has."""
    return f"There is no task {task_id[:128]}. It may have been deleted, or its time is over."


def worker_url(worker_id: str) -> str:
    """Return where a worker's page is; empty for none."""
    return reverse("admin:workers_worker_change", args=[quote(worker_id)]) if worker_id else ""


def task_row(record: TaskRecord, *, now_ns: int, sees_payloads: bool) -> TaskRow:
    """Return a task as a list shows it."""
    return TaskRow(
        id=record.id,
        url=task_url(record.id, record.queue),
        when=_when(record, now_ns),
        attempts=f"{record.attempts} of {record.message.retry + 1}",
        payload=_excerpt(record.payload) if sees_payloads else "",
        error=_last_line(record.error if sees_payloads else HIDDEN) if record.error else "",
        worker_id=record.worker_id,
        worker_url=worker_url(record.worker_id),
    )


def content(data: bytes) -> Content:
    """Return bytes to be read: JSON with a line for each member and every value as it stands, all else as text."""
    if len(data) > SHOWN_BYTES:
        return Content(text=data[:SHOWN_BYTES].decode("utf-8", "ignore"), size=len(data), is_cut=True)
    pretty = payloads.pretty(data)
    if pretty is not None and len(pretty) <= _LONGEST_PRETTY:
        return Content(text=pretty, size=len(data))
    try:
        return Content(text=data.decode(), size=len(data))
    except UnicodeDecodeError:
        return Content(text=data.decode("utf-8", "replace"), size=len(data), is_text=False)


def timeline(record: TaskRecord, now_ns: int) -> list[tuple[str, Moment]]:
    """Return what happened to a task and what will, in order of time, of which some know but the second."""
    message, is_active = record.message, record.state is TaskState.ACTIVE
    times = [
        ("Queued", Moment.of_ns(record.enqueued_at_ns, now_ns)),
        ("Pending", Moment.of_ns(record.pending_since_ns, now_ns)),
        ("Last run started", Moment.of_ns(record.started_at_ns, now_ns)),
        ("Last run failed", Moment.of_s(message.last_failed_at, now_ns)),
        ("Cancel asked for", Moment.of_ns(record.cancel_asked_at_ns, now_ns)),
        ("Next run", Moment.of_s(record.next_process_at_s, now_ns)),
        ("Lease ends, unless renewed", Moment.of_s(record.score_s if is_active else None, now_ns)),
        ("Completed", Moment.of_s(record.completed_at_s, now_ns)),
        ("Archived", Moment.of_s(record.archived_at_s, now_ns)),
        ("Deadline", Moment.of_s(message.deadline, now_ns)),
        ("Forgotten", Moment.of_s(record.expires_at_s, now_ns)),
    ]
    return sorted(((said, at) for said, at in times if at), key=lambda time: time[1].at_ns // 10**9)


def _when(record: TaskRecord, now_ns: int) -> Moment | None:
    """Return the time that matters in a task's state."""
    if record.state is TaskState.PENDING:
        return Moment.of_ns(record.pending_since_ns, now_ns)
    if record.state is TaskState.ACTIVE:
        return Moment.of_ns(record.started_at_ns, now_ns)
    if record.state is TaskState.COMPLETED:
        return Moment.of_s(record.completed_at_s, now_ns)
    return Moment.of_s(record.score_s, now_ns)


def _excerpt(data: bytes) -> str:
    """Return the beginning of a payload."""
    return data[:_EXCERPT].decode("utf-8", "ignore") + (" …" if len(data) > _EXCERPT else "")


def _last_line(text: str) -> str:
    """Return the line of an error that says most: the last that is not blank, for a traceback ends with it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_EXCERPT] if lines else ""
