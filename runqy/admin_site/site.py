"""The admin site and its sidebar."""

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.sites import UnfoldAdminSite

from runqy.admin_site.theme import get_environment_badge

if TYPE_CHECKING:
    _Site = AdminSite
else:
    _Site = UnfoldAdminSite

_SECTIONS = (
    (
        None,
        (
            ("queues.queue", "Queues", "stacks"),
            ("tasks.task", "Tasks", "checklist"),
            ("schedules.schedule", "Schedules", "schedule"),
            ("batches.batch", "Batches", "package_2"),
            ("workers.worker", "Workers", "memory"),
            ("alerts.alert", "Alerts", "notifications"),
            ("webhooks.endpoint", "Webhooks", "webhook"),
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
"""Headings, each with models and their titles and icons."""

_BELOW = {"tasks.task": ("tasks.bulkaction",)}
"""Models without an item of their own, by the model whose pages link to theirs."""

_QUERIES = {"tasks.task": "?state=ended"}
"""The query of an item's link, if the list without a query shows something else, such as counts of tasks by queue."""


class RunqyAdminSite(_Site):
    """Unfold's site with our sidebar, colours and environment badge."""

    index_title = "Overview"
    empty_value_display = "-"
    login_template = "admin_site/login.html"

    def app_index(self, request: HttpRequest, app_label: str, extra_context: Any = None) -> HttpResponseRedirect:  # type: ignore[override]
        """Redirect to the overview, since apps have no pages."""
        return HttpResponseRedirect(reverse("admin:index"))

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context = super().each_context(request)
        # Colours are in our style sheet, since the content security policy forbids inline styles.
        return context | {"colors": None, "environment": get_environment_badge(settings.RUNQY_ENVIRONMENT)}

    def search(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        # The theme's search pickles its results into the cache, and workers may be able to write to Redis.
        raise Http404


def get_navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar for unfold, with the pages that the user may see."""
    groups: list[dict[str, Any]] = [
        {"title": None, "items": [{"title": "Overview", "icon": "dashboard", "link": reverse("admin:index")}]}
    ]
    for title, models in _SECTIONS:
        items = [
            {
                "title": name,
                "icon": icon,
                "link": reverse(f"admin:{label.replace('.', '_')}_changelist") + _QUERIES.get(label, ""),
                "active": _is_active(request, label),
            }
            for label, name, icon in models
            if _can_view(request, label)
        ]
        groups.append({"title": title, "items": items})
    return groups


def get_account_links(request: HttpRequest) -> list[dict[str, str]]:
    """Return the links of the user's menu for unfold, which adds *Log out*."""
    return [
        {"title": "My API keys", "link": reverse("admin_own_keys")},
        {"title": f"My settings ({timezone.get_current_timezone_name()})", "link": reverse("admin_own_settings")},
        {"title": "Change password", "link": reverse("admin:password_change")},
        {"title": "Log out everywhere", "link": reverse("admin_logout_everywhere")},
    ]


def _is_active(request: HttpRequest, label: str) -> bool:
    """Return whether the request is for a page of a model, or of one in `_BELOW`."""
    paths = [f"/{each.replace('.', '/')}/" for each in (label, *_BELOW.get(label, ()))]
    return any(path in request.path for path in paths)


def _can_view(request: HttpRequest, label: str) -> bool:
    model = apps.get_model(label)
    return admin.site.is_registered(model) and admin.site.get_model_admin(model).has_view_permission(request)
