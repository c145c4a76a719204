"""The columns of the list of queues; what Redis knows is read for the whole page at once and stands in `standing`."""

from typing import TYPE_CHECKING

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from queues.models import Queue
from queues.standing import QueueStanding

if TYPE_CHECKING:

    class SeenQueue(Queue):
        """A queue on a page that shows how it stands."""

        standing: QueueStanding
        is_being_removed: bool

else:
    SeenQueue = Queue

__all__ = ["COLUMNS", "SeenQueue", "badges"]


def badges(queue: SeenQueue) -> list[tuple[str, str, str]]:
    """Return what there is to say about the state of a queue: kinds of badges, their words and explanations."""
    standing = queue.standing
    found = []
    if queue.is_being_removed:
        found.append(("danger", "being deleted", "Its tasks are being removed."))
    elif queue.is_enabled:
        found.append(("success", "enabled", "It takes tasks."))
    else:
        found.append(("muted", "disabled", "It takes neither tasks nor workers."))
    if standing.is_paused:
        words = "paused" if standing.is_wholly_paused else "partly paused"
        found.append(("warning", words, "Its workers are handed no tasks."))
    if standing.vault_problems:
        found.append(("danger", "vault problem", " ".join(standing.vault_problems)))
    return found


@admin.display(description="State", ordering="is_enabled")
def state(queue: SeenQueue) -> SafeString:
    """Return the badges of a queue."""
    return format_html_join(" ", '<span class="rq-badge rq-{}" title="{}">{}</span>', _reordered(badges(queue)))


def _reordered(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Return badges in the order of the template: kind, explanation, words."""
    return [(kind, explanation, words) for kind, words, explanation in found]


def _count(queue: SeenQueue, name: str) -> SafeString | str:
    """Return a number of tasks, or a dash while Redis cannot be reached."""
    if queue.standing.counts is None:
        return "-"
    value = getattr(queue.standing, name)
    kind = "rq-number rq-some" if value else "rq-number"
    return format_html('<span class="{}">{}</span>', kind, f"{value:,}")


@admin.display(description="Waiting")
def waiting(queue: SeenQueue) -> SafeString | str:
    """Return how many tasks wait."""
    return _count(queue, "waiting")


@admin.display(description="Running")
def running(queue: SeenQueue) -> SafeString | str:
    """Return how many tasks run."""
    return _count(queue, "running")


@admin.display(description="Failed")
def failed(queue: SeenQueue) -> SafeString | str:
    """Return how many tasks were given up."""
    return _count(queue, "failed")


@admin.display(description="Workers")
def workers(queue: SeenQueue) -> str:
    """Return how many workers serve the queue."""
    return "-" if queue.standing.counts is None else str(len(queue.standing.workers))


@admin.display(description="Published")
def published(queue: SeenQueue) -> SafeString:
    """Return whether workers and clients see the queue as it is here."""
    kind, words = {True: ("success", "yes"), False: ("warning", "not yet"), None: ("muted", "unknown")}[
        queue.standing.is_published
    ]
    return format_html('<span class="rq-badge rq-{}">{}</span>', kind, words)


@admin.display(description="Source", ordering="source")
def source(queue: SeenQueue) -> SafeString:
    """Return where the queue was saved last."""
    return format_html('<span class="rq-nowrap">{}</span>', queue.get_source_display())


COLUMNS = ("name", state, "mode", "priority", waiting, running, failed, workers, source, published)
