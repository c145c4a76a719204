"""Lets Django's admin save through operations, and shows staff whether what they saved is published."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from runqy.errors import BrokerUnavailable, RunqyError
from runqy.publication.republishing import compare_configuration

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Model]
else:
    _ModelAdmin = admin.ModelAdmin


class PublishedModelAdmin(_ModelAdmin):
    """An admin of rows that are published; subclasses save and delete by calling operations."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show or save one row; what an operation refuses is shown, and nothing of it is kept."""
        show: Callable[..., HttpResponse] = super().changeform_view
        return _shown_refusal(request, lambda: show(request, object_id, form_url, extra_context))

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Delete one row."""
        show: Callable[..., HttpResponse] = super().delete_view
        return _shown_refusal(request, lambda: show(request, object_id, extra_context))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """List the rows, with a warning while Redis and the database differ."""
        if request.method == "GET" and (warning := _warning()):
            messages.warning(request, warning)
        show: Callable[..., HttpResponse] = super().changelist_view
        return _shown_refusal(request, lambda: show(request, extra_context))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        """Delete rows one by one, each by its operation."""
        for row in queryset:
            self.delete_model(request, row)


def _shown_refusal(request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
    """Run a view; say what an operation refused and show the page again."""
    try:
        return view()
    except RunqyError as error:
        for sentence in error.errors:
            messages.error(request, sentence)
        return HttpResponseRedirect(request.get_full_path())


def _warning() -> str:
    """Return what staff should know about the published copy; empty when all is well."""
    try:
        comparison = compare_configuration()
    except BrokerUnavailable:
        return "Redis cannot be reached: changes are kept and published once it is back."
    if comparison.ahead or comparison.unknown:
        return "Redis holds newer configuration than the database. See `manage.py publish_configuration --replace`."
    if not comparison.is_agreed:
        return "Some changes are not published yet; maintenance will do it within seconds."
    return ""
