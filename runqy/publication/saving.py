"""Lets Django's admin save through operations, and shows staff whether what they saved is published."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from runqy.audit.pages import AuditedModelAdmin
from runqy.errors import BrokerUnavailable, RunqyError
from runqy.publication.republishing import Comparison, compare_configuration

_REFUSAL = "runqy.refusal"
"""Where a request carries what an operation refused to the form that is to show it."""
_COMPARISON = "runqy.comparison"
"""Where a request keeps how Redis and the database differ."""


class PublishedModelAdmin(AuditedModelAdmin):
    """An admin of rows that are published; subclasses save and delete by calling operations."""

    refused_fields: ClassVar[Mapping[type[RunqyError], str]] = {}
    """The field beside which an operation's refusal is shown; any other stands on top of the form."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show or save one row; what an operation refuses is shown in the form, which keeps what was entered."""
        show: Callable[..., HttpResponse] = super().changeform_view
        try:
            return show(request, object_id, form_url, extra_context)
        except RunqyError as refusal:
            if request.method != "POST":
                raise
            request.META[_REFUSAL] = refusal
        return show(request, object_id, form_url, extra_context)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Return the form; after a refusal one that is not valid, and says why."""
        form: Any = super().get_form(request, obj, change, **kwargs)
        refusal: RunqyError | None = request.META.get(_REFUSAL)
        if refusal is None:
            return form
        place = next((field for kind, field in self.refused_fields.items() if isinstance(refusal, kind)), None)
        return _refused(form, refusal, place)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Delete one row."""
        show: Callable[..., HttpResponse] = super().delete_view
        return _shown_refusal(request, lambda: show(request, object_id, extra_context))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """List the rows, with a warning while Redis and the database differ."""
        if request.method == "GET" and (warning := _warning(compared(request))):
            messages.warning(request, warning)
        show: Callable[..., HttpResponse] = super().changelist_view
        return _shown_refusal(request, lambda: show(request, extra_context))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        """Delete rows one by one, each by its operation."""
        for row in queryset:
            self.delete_model(request, row)


def _refused(form: Any, refusal: RunqyError, place: str | None) -> type[forms.BaseForm]:
    """Return a form class that finds in its input what an operation refused."""

    class RefusedForm(form):  # type: ignore[misc]
        """The form, with the refusal."""

        def clean(self) -> Any:
            """Add the refusal to what else is wrong."""
            cleaned = super().clean()
            for sentence in refusal.errors:
                self.add_error(place if place in self.fields else None, sentence)
            return cleaned

    return RefusedForm


def _shown_refusal(request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
    """Run a view; say what an operation refused and show the page again."""
    try:
        return view()
    except RunqyError as error:
        for sentence in error.errors:
            messages.error(request, sentence)
        return HttpResponseRedirect(request.get_full_path())


def compared(request: HttpRequest) -> Comparison | None:
    """Return how Redis and the database differ, asked once for a request; None: Redis cannot be reached."""
    if _COMPARISON not in request.META:
        try:
            request.META[_COMPARISON] = compare_configuration()
        except BrokerUnavailable:
            request.META[_COMPARISON] = None
    comparison: Comparison | None = request.META[_COMPARISON]
    return comparison


def _warning(comparison: Comparison | None) -> str:
    """Return what staff should know about the published copy; empty when all is well."""
    if comparison is None:
        return "Redis cannot be reached: changes are kept and published once it is back."
    if comparison.is_ahead:
        return "Redis holds newer configuration than the database. See `manage.py publish_configuration --replace`."
    if comparison.is_tampered:
        return (
            "The published configuration was altered in Redis, or an older one was put back. Servers do not use it, "
            "and maintenance repairs it within seconds; the log says what it was."
        )
    if not comparison.is_agreed:
        return "Some changes are not published yet; maintenance will do it within seconds."
    return ""
