"""URLs of the admin's lists."""

from urllib.parse import urlencode

from django.urls import reverse


def changelist_url(model: str, **query: str) -> str:
    """Return the URL of the list of a model, `tasks_task`, with the filters of a query."""
    url = reverse(f"admin:{model}_changelist")
    return f"{url}?{urlencode(query)}" if query else url
