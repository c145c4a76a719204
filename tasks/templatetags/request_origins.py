"""A template filter for request IDs: what the server enqueues by itself has one that says why."""

from django import template
from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.http import urlencode

register = template.Library()


@register.filter
def origin_url(request_id: str) -> str:
    """Return the page of the batch or schedule that enqueued a task; empty for other requests."""
    kind, _, name = request_id.partition("-")
    if kind == "batch":
        return reverse("admin:batches_batch_change", args=[quote(name)])
    if kind == "schedule":
        return f"{reverse('admin:schedules_schedule_changelist')}?{urlencode({'q': name})}"
    return ""
