"""The columns of the list of queues; `status` is read once for the whole page."""

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from queues.models import Queue
from queues.status import QueueStatus

if TYPE_CHECKING:

    class QueueWithStatus(Queue):
        """A queue with the status that the page reads."""

        status: QueueStatus
        is_being_deleted: bool
        may_view_tasks: bool

else:
    QueueWithStatus = Queue

__all__ = ["COLUMNS", "QueueWithStatus", "badges"]


def badges(queue: QueueWithStatus) -> list[tuple[str, str, str]]:
    """Return the badges of a queue: kind, label and explanation of each."""
    status = queue.status
    found = []
    if queue.is_being_deleted:
        found.append(("danger", "being deleted", "Its tasks are being deleted."))
    elif queue.is_enabled:
        found.append(("success", "enabled", "Accepts tasks."))
    else:
        found.append(("muted", "disabled", "Rejects tasks and workers."))
    if status.is_paused:
        label = "paused" if status.is_wholly_paused else "partly paused"
        found.append(("warning", label, "Workers get no tasks."))
    if status.vault_errors:
        found.append(("danger", "vault problem", " ".join(status.vault_errors)))
    return found


@admin.display(description="State", ordering="is_enabled")
def state(queue: QueueWithStatus) -> SafeString:
    return format_html_join(" ", '<span class="rq-badge rq-{}" title="{}">{}</span>', _reordered(badges(queue)))


def _reordered(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return badges in the order of the format: kind, explanation, label."""
    return [(kind, explanation, label) for kind, label, explanation in found]


def _count(queue: QueueWithStatus, name: str) -> SafeString | str:
    """Return a number of tasks, or a dash while Redis is unavailable."""
    if queue.status.counts is None:
        return "-"
    value = getattr(queue.status, name)
    if not value or not queue.may_view_tasks:
        kind = "rq-number rq-nonzero" if value else "rq-number"
        return format_html('<span class="{}">{}</span>', kind, f"{value:,}")
    url = f"{reverse('admin:tasks_task_changelist')}?{urlencode({'parent': queue.name, 'state': name})}"
    return format_html('<a class="rq-number rq-nonzero" href="{}">{}</a>', url, f"{value:,}")


@admin.display(description="Pending")
def pending(queue: QueueWithStatus) -> SafeString | str:
    return _count(queue, "pending")


@admin.display(description="Retry")
def retry(queue: QueueWithStatus) -> SafeString | str:
    return _count(queue, "retry")


@admin.display(description="Active")
def active(queue: QueueWithStatus) -> SafeString | str:
    return _count(queue, "active")


@admin.display(description="Archived")
def archived(queue: QueueWithStatus) -> SafeString | str:
    return _count(queue, "archived")


@admin.display(description="Workers")
def workers(queue: QueueWithStatus) -> str:
    """Return the number of worker processes, those that are ready and the others."""
    if queue.status.counts is None:
        return "-"
    counts = queue.status.worker_counts
    return f"{counts.ready:,} ready, {counts.not_ready:,} not ready" if counts.not_ready else f"{counts.ready:,} ready"


@admin.display(description="Published")
def published(queue: QueueWithStatus) -> SafeString:
    kind, label = {True: ("success", "yes"), False: ("warning", "not yet"), None: ("muted", "unknown")}[
        queue.status.is_published
    ]
    return format_html('<span class="rq-badge rq-{}">{}</span>', kind, label)


@admin.display(description="Source", ordering="source")
def source(queue: QueueWithStatus) -> SafeString:
    return format_html('<span class="rq-nowrap">{}</span>', queue.get_source_display())


COLUMNS = ("name", state, "mode", "priority", pending, active, retry, archived, workers, source, published)
