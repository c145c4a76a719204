"""Labels of states, and URLs of lists. A colour has the same meaning on all pages of the admin."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.template.loader import render_to_string
from django.urls import reverse

SUCCESS = "success"
"""Something completed, or works as it should. This and the following are names of unfold's variants."""
INFO = "info"
"""Something is in progress."""
WARNING = "warning"
"""Something works, but only for a while or in part: paused, retried."""
DANGER = "danger"
"""Something failed, or cannot work."""
NEUTRAL = ""
"""Something waits, or a user has stopped it: pending, scheduled, cancelled, disabled."""

LABEL_TEMPLATE = "unfold/helpers/label.html"
STATES: Mapping[str, str] = {
    "enabled": SUCCESS,
    "disabled": NEUTRAL,
    "failing": WARNING,
    "paused": WARNING,
    "partly paused": WARNING,
    "being deleted": DANGER,
    "vault problem": DANGER,
    "not published": WARNING,
    "current": SUCCESS,
    "outdated": WARNING,
    "delivered": SUCCESS,
    "failed": DANGER,
    "pending": NEUTRAL,
}


def state_context(state: str, title: str = "", size: str = "") -> dict[str, Any]:
    """Return the context of unfold's label. `title` explains the state."""
    return {"text": state, "variant": STATES[state], "label_title": title, "size": size}


def render_state(state: str, title: str = "") -> str:
    return render_to_string(LABEL_TEMPLATE, state_context(state, title))


def changelist_url(model: str, **query: str) -> str:
    """Return the URL of the list of a model, such as `tasks_task`, with filters."""
    url = reverse(f"admin:{model}_changelist")
    return f"{url}?{urlencode(query)}" if query else url
