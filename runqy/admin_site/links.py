"""URLs of the admin's lists."""

from urllib.parse import urlencode

from django.urls import reverse


def changelist_url(model: str, **query: str) -> str:
    """Return the URL of the list of a model, such as `tasks_task`, with filters."""
    url = reverse(f"admin:{model}_changelist")
    return f"{url}?{urlencode(query)}" if query else url
