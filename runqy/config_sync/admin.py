"""Admin classes that save through operations, and show whether the configuration is published."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from runqy.audit.history import AuditedModelAdmin
from runqy.config_sync.publishing import SyncStatus, compare_configuration
from runqy.errors import BrokerUnavailable, RunqyError


class PublishedRequest(HttpRequest):
    """A request to these admin pages, with what they keep on it."""

    operation_error: RunqyError
    """Set after an operation failed, for the form that shows it."""
    sync_status: SyncStatus | None
    """Set once Redis and the database were compared; None: Redis is unavailable."""


class PublishedModelAdmin(AuditedModelAdmin):
    """An admin of published rows; subclasses save and delete by calling operations."""

    refused_fields: ClassVar[Mapping[type[RunqyError], str]] = {}
    """By error class, the field that shows the error; other errors are shown on top of the form."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show or save a row. An operation's error is shown in the form, which keeps its input."""
        show: Callable[..., HttpResponse] = super().changeform_view
        try:
            return show(request, object_id, form_url, extra_context)
        except RunqyError as error:
            if request.method != "POST":
                raise
            cast(PublishedRequest, request).operation_error = error
        return show(request, object_id, form_url, extra_context)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        error: RunqyError | None = getattr(request, "operation_error", None)
        if error is None:
            return form
        field_name = next((field for kind, field in self.refused_fields.items() if isinstance(error, kind)), None)
        # Django shows the form again, with its input, only if it is invalid.
        return _refused(form, error, field_name)

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


def _refused(form: Any, error: RunqyError, field_name: str | None) -> type[forms.BaseForm]:
    """Return a form class whose validation adds an operation's error."""

    class RefusedForm(form):  # type: ignore[misc]
        def clean(self) -> Any:
            cleaned = super().clean()
            for sentence in error.errors:
                self.add_error(field_name if field_name in self.fields else None, sentence)
            return cleaned

    return RefusedForm


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
