"""The page of Redis queues without a definition, with a link to define a queue for their tasks."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from queues.existing_queues import find_undefined_queues, suggest_definition
from queues.models import Queue
from queues.queries import get_fresh_catalog
from runqy.admin_site.views import AdminView
from runqy.broker.queues.stats import QueueCounts
from runqy.errors import BrokerUnavailable
from runqy.redis_connection import get_broker


@dataclass(frozen=True, slots=True, kw_only=True)
class UndefinedQueueRow:
    """A Redis queue, and what can be done about it."""

    counts: tuple[QueueCounts]
    adopt_url: str
    is_known: bool
    """A queue of this name exists. A sub-queue can be added to it."""


class UndefinedQueuesView(AdminView):
    """The Redis queues that no definition names."""

    title = "Undefined queues"
    template_name = "queues/admin/undefined.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        get_fresh_catalog(max_age_s=0)  # a queue that another process has just saved must not be listed
        shown = {"rows": _rows(), "opts": self.model_admin.opts, "media": self.model_admin.media}
        return super().get_context_data(**kwargs) | shown


def adopted_fields(redis_queue: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the initial fields of a queue for a Redis queue, and those of its sub-queues."""
    name, sub_queue = suggest_definition(redis_queue)
    return {"name": name}, [{"name": sub_queue, "priority": 1}] if sub_queue else []


def _rows() -> list[UndefinedQueueRow] | None:
    """Return the undefined queues; None while Redis is unavailable."""
    try:
        found = find_undefined_queues(get_broker())
    except BrokerUnavailable:
        return None
    known = set(Queue.objects.values_list("name", flat=True))
    rows = []
    for counts in found:
        name, _ = suggest_definition(counts.queue)
        add_url = f"{reverse('admin:queues_queue_add')}?{urlencode({'adopt': counts.queue})}"
        rows.append(
            UndefinedQueueRow(
                counts=(counts,),
                adopt_url=reverse("admin:queues_queue_by_name", args=[name]) if name in known else add_url,
                is_known=name in known,
            )
        )
    return rows
