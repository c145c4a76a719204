"""The sidebar: pages by subject, each shown to those who may see it."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse

_SUBJECTS = (
    (
        None,
        (
            ("queues.queue", "Queues", "stacks"),
            ("tasks.task", "Tasks", "checklist"),
            ("workers.worker", "Workers", "memory"),
        ),
    ),
    ("Secrets", (("vaults.vault", "Vaults", "lock"),)),
    (
        "Access",
        (
            ("accounts.apikey", "API keys", "key"),
            ("auth.user", "Users", "person"),
            ("auth.group", "Groups", "group"),
        ),
    ),
    ("History", (("audit.auditrecord", "Audit", "history"),)),
)
"""Titles, and under each the models with their own titles and icons."""


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar as unfold wants it."""
    admins = {model._meta.label_lower: model_admin for model, model_admin in admin.site._registry.items()}
    groups: list[dict[str, Any]] = [
        {"title": None, "items": [{"title": "Overview", "icon": "dashboard", "link": reverse("admin:index")}]}
    ]
    for title, models in _SUBJECTS:
        items = [
            {"title": name, "icon": icon, "link": reverse(f"admin:{label.replace('.', '_')}_changelist")}
            for label, name, icon in models
            if label in admins and admins[label].has_view_permission(request)
        ]
        groups.append({"title": title, "items": items})
    return groups
