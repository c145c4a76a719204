"""The admin site."""

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.sites import UnfoldAdminSite

from runqy.staff.looks import badge

if TYPE_CHECKING:
    _Site = AdminSite
else:
    _Site = UnfoldAdminSite


class StaffSite(_Site):
    """Unfold's site in our colours."""

    index_title = "Overview"
    empty_value_display = "-"

    def app_index(self, request: HttpRequest, app_label: str, extra_context: Any = None) -> HttpResponseRedirect:  # type: ignore[override]
        """Lead to the overview: the sidebar has subjects, not apps."""
        return HttpResponseRedirect(reverse("admin:index"))

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return what every page is given; the colours stand in our style sheet, for no page may have styles inline."""
        context = super().each_context(request)
        return context | {"colors": None, "environment": badge(settings.RUNQY_ENVIRONMENT)}

    def search(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Refuse: the theme's search keeps its finds in the cache, pickled, and workers may write to Redis."""
        raise Http404
