"""Labels of states, in the same colours on all pages of the admin."""

from collections.abc import Mapping
from typing import Any

from django.template.loader import render_to_string

__all__ = ["LABEL_TEMPLATE", "render_state", "state_context"]

LABEL_TEMPLATE = "unfold/helpers/label.html"
STATES: Mapping[str, str] = {
    "enabled": "success",
    "disabled": "",
    "paused": "warning",
    "partly paused": "warning",
    "being deleted": "danger",
    "vault problem": "danger",
    "not published": "warning",
    "current": "success",
    "outdated": "warning",
}
"""Variants of unfold's label: `success` works, `warning` needs attention or is held, `danger` is broken, `info` is
under way, and an empty one is switched off or over."""


def state_context(state: str, title: str = "", size: str = "") -> dict[str, Any]:
    """Return the context of unfold's label; `title` explains the state."""
    return {"text": state, "variant": STATES[state], "label_title": title, "size": size}


def render_state(state: str, title: str = "") -> str:
    return render_to_string(LABEL_TEMPLATE, state_context(state, title))
