"""The columns of the list of queues. `status` is read once for the whole page."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.contrib import admin
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString

from queues.models import Queue
from queues.status import QueueStatus
from runqy.admin_site.labels import render_state
from runqy.admin_site.links import changelist_url
from runqy.broker.states import TaskState

if TYPE_CHECKING:

    class QueueWithStatus(Queue):
        """A queue with the status that the page reads."""

        status: QueueStatus
        is_being_deleted: bool
        may_view_tasks: bool
        may_view_workers: bool

else:
    QueueWithStatus = Queue


def list_states(queue: QueueWithStatus) -> list[tuple[str, str]]:
    """Return the labels for the states of a queue, each with an explanation."""
    status = queue.status
    found = []
    if queue.is_being_deleted:
        found.append(("being deleted", "Its tasks are being deleted."))
    elif queue.is_enabled:
        found.append(("enabled", "Accepts tasks."))
    else:
        found.append(("disabled", "Rejects tasks and workers."))
    if status.is_paused:
        label = "paused" if status.is_wholly_paused else "partly paused"
        found.append((label, "Workers get no tasks."))
    if status.vault_errors:
        found.append(("vault problem", " ".join(status.vault_errors)))
    return found


@admin.display(description="State", ordering="is_enabled")
def state(queue: QueueWithStatus) -> str:
    return render_to_string("queues/admin/labels.html", {"labels": list_states(queue)})


def _task_count(task_state: TaskState) -> Callable[[QueueWithStatus], SafeString | str]:
    """Return the column with the number of tasks in a state, which is a dash while Redis is unavailable."""

    @admin.display(description=task_state.capitalize())
    def column(queue: QueueWithStatus) -> SafeString | str:
        if queue.status.counts is None:
            return "-"
        count = queue.status.tasks[task_state]
        if not count or not queue.may_view_tasks:
            kind = "rq-number rq-nonzero" if count else "rq-number"
            return format_html('<span class="{}">{}</span>', kind, f"{count:,}")
        url = changelist_url("tasks_task", parent=queue.name, state=task_state)
        return format_html('<a class="rq-number rq-nonzero" href="{}">{}</a>', url, f"{count:,}")

    column.__name__ = task_state  # the CSS class of its cells
    return column


@admin.display(description="Workers")
def workers(queue: QueueWithStatus) -> SafeString | str:
    """Return the numbers of worker processes that are ready and not ready, with a link to them."""
    if queue.status.counts is None:
        return "-"
    counts = queue.status.worker_counts
    text = f"{counts.ready:,} ready, {counts.not_ready:,} not ready" if counts.not_ready else f"{counts.ready:,} ready"
    if not counts.total or not queue.may_view_workers:
        return text
    url = changelist_url("workers_worker", queue=queue.name)
    return format_html('<a class="rq-number rq-nonzero" href="{}">{}</a>', url, text)


@admin.display(description="Published")
def published(queue: QueueWithStatus) -> str:
    """Return whether workers use the latest definition."""
    # Only what needs attention is coloured.
    if queue.status.is_published is False:
        return render_state("not published", "Maintenance, if it runs, publishes the latest changes within seconds.")
    return "yes" if queue.status.is_published else "unknown"


@admin.display(description="Source", ordering="source")
def source(queue: QueueWithStatus) -> SafeString:
    return format_html('<span class="rq-nowrap">{}</span>', queue.get_source_display())


_TASK_COUNTS = map(_task_count, (TaskState.PENDING, TaskState.ACTIVE, TaskState.RETRY, TaskState.ARCHIVED))
COLUMNS = ("name", state, *_TASK_COUNTS, workers, "priority", "mode", source, published)
