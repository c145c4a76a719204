"""Audit records of changes to Django's users and groups."""

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from runqy.accounts.operations import end_personal_keys
from runqy.audit.changes import REDACTED, Changes, diff
from runqy.audit.history import AuditedModelAdmin
from runqy.audit.operations import record


class AuditedAdmin(AuditedModelAdmin):
    """An admin of users or groups that records changes. Each request is one transaction."""

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change=change, **kwargs)  # a new class for each request
        form.request = request
        return form

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        old = {name: _plain(form.initial.get(name)) for name in form.changed_data}
        new = {name: _plain(form.cleaned_data.get(name)) for name in form.changed_data}
        secrets = [name for name in form.changed_data if "password" in name]
        if changes := diff(old, new, secrets=secrets):
            _record(form.instance, "updated" if change else "created", changes)
        end_personal_keys()

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        _record(obj, "deleted", {})
        super().delete_model(request, obj)
        end_personal_keys()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        with transaction.atomic():
            # One by one: a bulk deletion would record nothing.
            for row in queryset:
                self.delete_model(request, row)


def audited_password_change(get_user: Callable[[], Any], view: Callable[[], HttpResponse]) -> HttpResponse:
    """Call the view of a password form. A redirect means that it succeeded, and is recorded."""
    with transaction.atomic():
        response = view()
        if isinstance(response, HttpResponseRedirect):
            _record(get_user(), "updated", {"password": REDACTED})
    return response


def _record(row: Model, verb: str, changes: Changes) -> None:
    kind = str(row._meta.model_name)
    record(action=f"{kind}.{verb}", object_kind=kind, object_name=str(row), changes=changes)


def _plain(value: object) -> object:
    """Return a form's value as JSON can hold it: rows by their names."""
    if isinstance(value, (list, tuple, set, QuerySet)):
        return sorted(str(item) for item in value)
    return value
