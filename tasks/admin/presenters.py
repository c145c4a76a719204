"""Render tasks for the admin: names and colours of states, URLs, times, payloads and results."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.urls import reverse

from runqy.admin_site import labels
from runqy.admin_site.relative_time import RelativeTime
from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from runqy.broker.tasks.reader import TaskLocation
from runqy.broker.tasks.record import TaskRecord
from tasks import payloads
from tasks.admin.json_tree import Node, parse_tree
from tasks.queries import find_gone

MAX_RENDERED_BYTES = 64 << 10
"""The page shows no more of a payload or result. The whole can be downloaded."""
_PRETTY_MAX_LENGTH = 1 << 20

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A payload or a result on a task's page."""

    text: str
    size: int
    is_truncated: bool = False
    is_text: bool = True
    """False: it is not UTF-8, and invalid bytes were replaced."""
    tree: Node | None = None
    """The tree of a JSON object or array that is not too large."""


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


def not_found_message(task_id: str) -> str:
    return f"Task {task_id[:128]} not found. It may have been deleted or have expired."


def worker_url(worker_id: str) -> str:
    """Return the URL of a worker; empty for an empty id."""
    return reverse("admin:workers_worker_change", args=[quote(worker_id)]) if worker_id else ""


def render_content(data: bytes) -> Content:
    """Return bytes as text: JSON indented, with unchanged values."""
    if len(data) > MAX_RENDERED_BYTES:
        return Content(text=data[:MAX_RENDERED_BYTES].decode("utf-8", "ignore"), size=len(data), is_truncated=True)
    pretty = payloads.format_pretty(data)
    if pretty is not None and len(pretty) <= _PRETTY_MAX_LENGTH:
        return Content(text=pretty, size=len(data), tree=parse_tree(pretty))
    try:
        return Content(text=data.decode(), size=len(data))
    except UnicodeDecodeError:
        return Content(text=data.decode("utf-8", "replace"), size=len(data), is_text=False)


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
