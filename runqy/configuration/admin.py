"""Admin classes that save through operations, and show whether the configuration is published."""

from collections.abc import Callable
from typing import Any, cast

from django.contrib import messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from runqy.audit.history import AuditedModelAdmin
from runqy.configuration.publishing import SyncStatus, compare_configuration
from runqy.errors import BrokerUnavailable, RunqyError


class PublishedRequest(HttpRequest):
    """A request to these admin pages, with what they keep on it."""

    sync_status: SyncStatus | None
    """Set once Redis and the database were compared; None: Redis is unavailable."""


class PublishedModelAdmin(AuditedModelAdmin):
    """An admin of published rows; subclasses save and delete by calling operations."""

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        show: Callable[..., HttpResponse] = super().delete_view
        return _show_error(request, lambda: show(request, object_id, extra_context))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "GET" and (warning := _warning(compared(request))):
            messages.warning(request, warning)
        show: Callable[..., HttpResponse] = super().changelist_view
        return _show_error(request, lambda: show(request, extra_context))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        # One by one: only the operation publishes the deletion.
        for row in queryset:
            self.delete_model(request, row)


def _show_error(request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
    try:
        return view()
    except RunqyError as error:
        for sentence in error.errors:
            messages.error(request, sentence)
        return HttpResponseRedirect(request.get_full_path())


def compared(request: HttpRequest) -> SyncStatus | None:
    """Return how Redis and the database differ, read once for each request; None if Redis is unavailable."""
    page_request = cast(PublishedRequest, request)
    if not hasattr(page_request, "sync_status"):
        try:
            page_request.sync_status = compare_configuration()
        except BrokerUnavailable:
            page_request.sync_status = None
    return page_request.sync_status


def _warning(comparison: SyncStatus | None) -> str:
    if comparison is None:
        return "Redis cannot be reached. Changes are saved, and published when it is back."
    return comparison.detail
