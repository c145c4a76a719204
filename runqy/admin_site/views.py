"""Base classes of admin pages other than the lists and forms that Django creates for a model."""

from typing import TYPE_CHECKING, Any

from django.contrib.admin import ModelAdmin
from django.contrib.auth.mixins import PermissionRequiredMixin
from django.db.models import Model
from django.http import HttpRequest, HttpResponseBase
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
