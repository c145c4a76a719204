"""The admin site."""

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.http import HttpRequest
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

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return what every page is given; the colours stand in our style sheet, for no page may have styles inline."""
        context = super().each_context(request)
        return context | {"colors": None, "environment": badge(settings.RUNQY_ENVIRONMENT)}
