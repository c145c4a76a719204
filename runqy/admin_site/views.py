"""Base classes of admin pages other than the lists and forms that Django creates for a model, and pages that show a
secret once: that of an API key or a webhook.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib.admin import ModelAdmin
from django.contrib.auth.mixins import PermissionRequiredMixin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.views.generic import TemplateView, View
from django.views.generic.base import ContextMixin
from unfold.views import UnfoldModelAdminViewMixin

from runqy.admin_site.error_pages import render_error
from runqy.errors import RunqyError

if TYPE_CHECKING:

    class _ViewMixin(PermissionRequiredMixin, ContextMixin, View):
        model_admin: ModelAdmin[Model]
else:
    _ViewMixin = UnfoldModelAdminViewMixin


class AdminViewMixin(_ViewMixin):
    """A page of a ModelAdmin, which registers it in `get_urls` with `page`. RunqyErrors are rendered as pages."""

    title = ""
    permission = "view"
    """The `has_…_permission` of the ModelAdmin that a user needs."""

    def has_permission(self) -> bool:
        return bool(getattr(self.model_admin, f"has_{self.permission}_permission")(self.request))

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return super().dispatch(request, *args, **kwargs)
        except RunqyError as error:
            return render_error(request, error, self.model_admin.admin_site.each_context(request))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        may_add = self.model_admin.has_add_permission(self.request)
        # without `model_admin` unfold adds no breadcrumbs: pages have tabs, and breadcrumbs of their own
        return super().get_context_data(**kwargs) | {"has_add_permission": may_add, "model_admin": None}


class AdminView(AdminViewMixin, TemplateView):
    """A page that is a template and its context."""


def render_shown_once(model_admin: Any, request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """Show a secret in this response only: a message would store it in the session, and a URL would leak it.

    `page_url` in the context is the URL that the browser shows, for a reload.
    """
    shown = {**model_admin.admin_site.each_context(request), "opts": model_admin.opts, **context}
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return TemplateResponse(request, template, shown, headers=headers)


def render_rotation(
    model_admin: Any, request: HttpRequest, *, signed_by: str, page_url: str, previous_until: datetime | None
) -> HttpResponse:
    """Ask before the secret of a webhook is rotated. The form repeats the request's `verb`, with `confirmed`.

    `previous_until` is when the secret before the present one ends, if it is valid: a rotation ends it at once.
    """
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": "Rotate the secret?",
        "signed_by": signed_by,
        "page_url": page_url,
        "previous_until": previous_until,
    }
    return TemplateResponse(request, "admin_site/rotate_secret.html", context)


def render_webhook_secret(  # noqa: PLR0913 (what the page shows)
    model_admin: Any,
    request: HttpRequest,
    *,
    secret: str,
    signed_by: str,
    page_url: str,
    page_label: str,
    is_rotated: bool,
    hook_url: str = "",
) -> HttpResponse:
    """Show the secret of a webhook once. `signed_by` is what has it: an endpoint, or a queue.

    `hook_url` is the URL of a webhook that this server receives.
    """
    context = {
        "title": "Secret of the webhook",
        "secret": secret,
        "signed_by": signed_by,
        "page_url": page_url,
        "page_label": page_label,
        "is_rotated": is_rotated,
        "hook_url": hook_url,
    }
    return render_shown_once(model_admin, request, "admin_site/webhook_secret.html", context)
