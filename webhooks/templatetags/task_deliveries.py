"""The webhook deliveries of a task, for templates of apps that must not import this one, and how bodies are shown."""

from typing import Any

from django import template

from tasks.payloads import format_pretty
from webhooks.queries import list_deliveries_of_task

register = template.Library()

_LIMIT = 20


@register.filter
def indented(body: str) -> str:
    """Return JSON on several lines; a text as it is."""
    return format_pretty(body.encode()) or body


@register.inclusion_tag("webhooks/of_task.html", takes_context=True)
def deliveries_of_task(context: Any, task_id: str) -> dict[str, Any]:
    """Render what was sent to webhooks about a task in the last seven days; nothing if that is nothing."""
    return {
        "deliveries": list_deliveries_of_task(task_id, limit=_LIMIT),
        "of_task": True,
        "perms": context.get("perms"),
    }
