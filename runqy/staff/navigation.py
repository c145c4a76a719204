"""The sidebar: pages by subject, each shown to those who may see it."""

from typing import Any

from django.apps import apps
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
    groups: list[dict[str, Any]] = [
        {"title": None, "items": [{"title": "Overview", "icon": "dashboard", "link": reverse("admin:index")}]}
    ]
    for title, models in _SUBJECTS:
        items = [
            {"title": name, "icon": icon, "link": reverse(f"admin:{label.replace('.', '_')}_changelist")}
            for label, name, icon in models
            if _can_view(request, label)
        ]
        groups.append({"title": title, "items": items})
    return groups


def _can_view(request: HttpRequest, label: str) -> bool:
    """Return whether a model has pages in the admin that the user may see."""
    model = apps.get_model(label)
    return admin.site.is_registered(model) and admin.site.get_model_admin(model).has_view_permission(request)
