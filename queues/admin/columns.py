"""The columns of the list of queues, and how it is sorted by them. `status` is read once for the whole list."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString

from queues.health import Health, HealthLevel
from queues.models import Queue
from queues.status import QueueStatus
from runqy.admin_site import labels
from runqy.admin_site.labels import changelist_url
from runqy.broker.states import TaskState
from runqy.core.formats import durations

if TYPE_CHECKING:

    class QueueWithStatus(Queue):
        """A queue with the status that the page reads."""

        status: QueueStatus
        is_being_deleted: bool
        may_view_tasks: bool
        may_view_workers: bool
        may_view_alerts: bool

else:
    QueueWithStatus = Queue

UNKNOWN = "-"
_VARIANTS = {
    HealthLevel.CRITICAL: labels.DANGER,
    HealthLevel.WARNING: labels.WARNING,
    HealthLevel.UNKNOWN: labels.NEUTRAL,
    HealthLevel.STOPPED: labels.NEUTRAL,
}
PROBLEMS_FIRST = ("health", "-pending", "name")


def list_labels(queue: QueueWithStatus) -> list[dict[str, Any]]:
    """Return the context of a label for each thing that differs from a working queue; empty if nothing does."""
    return [
        {
            "text": health.text,
            "variant": labels.STATES.get(health.text, _VARIANTS[health.level]),
            # The messages of alerts are for those who may read alerts.
            "label_title": health.detail if queue.may_view_alerts or health.level > HealthLevel.WARNING else "",
        }
        for health in _list_health(queue)
        if health.level is not HealthLevel.OK
    ]


def _list_health(queue: QueueWithStatus) -> list[Health]:
    return queue.status.list_health(is_enabled=queue.is_enabled, is_being_deleted=queue.is_being_deleted)


# Numbers begin with the largest when they are sorted, health with the most urgent, texts with A.
@admin.display(description="Health", ordering="health")
def health(queue: QueueWithStatus) -> str:
    return render_to_string("queues/admin/labels.html", {"labels": list_labels(queue)})


@admin.display(description="Oldest", ordering="-oldest")
def oldest(queue: QueueWithStatus) -> SafeString | str:
    """Return how long the oldest pending task has been waiting."""
    if not queue.status.oldest_s:
        return UNKNOWN
    return format_html('<span class="rq-nowrap">{}</span>', durations.humanize(queue.status.oldest_s))


@admin.display(description="Pending", ordering="-pending")
def pending(queue: QueueWithStatus) -> SafeString | str:
    """Return the number of pending tasks and how it changes."""
    number = _task_count(queue, TaskState.PENDING)
    if queue.status.counts is None or not (trend := queue.status.trend):
        return number
    return format_html('{} <small class="rq-trend">{}</small>', number, trend)


@admin.display(description="Active", ordering="-active")
def active(queue: QueueWithStatus) -> SafeString | str:
    """Return the number of active tasks, of the slots of the workers."""
    if queue.status.counts is None:
        return UNKNOWN
    number = _task_count(queue, TaskState.ACTIVE)
    return format_html('{} <span class="rq-nowrap">of {}</span>', number, f"{queue.status.slots:,}")


@admin.display(description="Started/min", ordering="-started")
def started(queue: QueueWithStatus) -> str:
    return _rate(queue, queue.status.activity.started_per_minute)


@admin.display(description="Failed/min", ordering="-failing")
def failing(queue: QueueWithStatus) -> SafeString | str:
    """Return how many attempts failed a minute, with a link to the failures of the last hour."""
    rate = _rate(queue, queue.status.activity.failed_per_minute)
    if not queue.status.activity.failed_per_minute or not queue.may_view_tasks or rate == UNKNOWN:
        return rate
    url = changelist_url("tasks_task", queue=queue.name, outcome="failure", period="hour")
    return format_html('<a class="rq-number rq-nonzero" href="{}">{}</a>', url, rate)


def _rate(queue: QueueWithStatus, rate: float) -> str:
    # What maintenance does not record is unknown.
    if queue.status.counts is None or not queue.status.is_watched:
        return UNKNOWN
    return f"{rate:.1f}" if 0 < rate < 10 else f"{rate:,.0f}"


@admin.display(description="Workers", ordering="-workers")
def workers(queue: QueueWithStatus) -> SafeString | str:
    """Return how many worker processes are ready, of how many, with a link to them."""
    if queue.status.counts is None:
        return UNKNOWN
    counts = queue.status.worker_counts
    text = f"{counts.ready:,} of {counts.total:,} ready" if counts.not_ready else f"{counts.ready:,} ready"
    if not counts.total or not queue.may_view_workers:
        return text
    url = changelist_url("workers_worker", queue=queue.name)
    return format_html('<a class="rq-number rq-nonzero" href="{}">{}</a>', url, text)


@admin.display(description="Retry", ordering="-retry")
def retry(queue: QueueWithStatus) -> SafeString | str:
    return _task_count(queue, TaskState.RETRY)


@admin.display(description="Archived", ordering="-archived")
def archived(queue: QueueWithStatus) -> SafeString | str:
    return _task_count(queue, TaskState.ARCHIVED)


def _task_count(queue: QueueWithStatus, task_state: TaskState) -> SafeString | str:
    """Return the number of tasks in a state, with a link to them."""
    if queue.status.counts is None:
        return UNKNOWN
    count = queue.status.tasks[task_state]
    if not count or not queue.may_view_tasks:
        kind = "rq-number rq-nonzero" if count else "rq-number"
        return format_html('<span class="{}">{}</span>', kind, f"{count:,}")
    url = changelist_url("tasks_task", parent=queue.name, state=task_state)
    return format_html('<a class="rq-number rq-nonzero" href="{}">{}</a>', url, f"{count:,}")


@admin.display(description="Published", ordering="published")
def published(queue: QueueWithStatus) -> str:
    """Return whether workers use the latest definition."""
    # Only what needs attention is coloured.
    if queue.status.is_published is False:
        return labels.render_state("not published")
    return "yes" if queue.status.is_published else "unknown"


@admin.display(description="Source", ordering="source")
def source(queue: QueueWithStatus) -> SafeString:
    return format_html('<span class="rq-nowrap">{}</span>', queue.get_source_display())


COLUMNS = (health, "name", oldest, pending, active, started, failing, workers)
OPTIONAL_COLUMNS: dict[str, Any] = {
    "retry": retry,
    "archived": archived,
    "priority": "priority",
    "mode": "mode",
    "source": source,
    "published": published,
}
"""By name, the columns that a user may add."""

_SORT_KEYS: dict[str, Callable[[QueueWithStatus], Any]] = {
    "health": lambda queue: _list_health(queue)[0].level,
    "oldest": lambda queue: queue.status.oldest_s,
    "pending": lambda queue: queue.status.tasks[TaskState.PENDING],
    "active": lambda queue: queue.status.tasks[TaskState.ACTIVE],
    "started": lambda queue: queue.status.activity.started_per_minute,
    "failing": lambda queue: queue.status.activity.failed_per_minute,
    "workers": lambda queue: queue.status.worker_counts.ready,
    "retry": lambda queue: queue.status.tasks[TaskState.RETRY],
    "archived": lambda queue: queue.status.tasks[TaskState.ARCHIVED],
    "published": lambda queue: bool(queue.status.is_published),
    "name": lambda queue: queue.name,
    "priority": lambda queue: queue.priority,
    "mode": lambda queue: queue.mode,
    "source": lambda queue: queue.source,
    "pk": lambda queue: queue.pk,
}


def sort_queues(queues: Iterable[QueueWithStatus], ordering: Iterable[str]) -> list[QueueWithStatus]:
    """Return queues in the order of fields, as Django spells it; `-` before a field reverses it."""
    found = list(queues)
    for field in reversed(list(ordering)):
        found.sort(key=_SORT_KEYS[field.removeprefix("-")], reverse=field.startswith("-"))
    return found
