"""Records what staff do to Django's own rows."""

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from runqy.audit.changes import CHANGED, Changes, differences
from runqy.audit.operations import record
from runqy.audit.pages import AuditedModelAdmin


class RecordedAdmin(AuditedModelAdmin):
    """An admin of Django's own rows that records what staff do to them; each request is one transaction."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save the last part, and record all."""
        super().save_related(request, form, formsets, change)
        old = {name: _plain(form.initial.get(name)) for name in form.changed_data}
        new = {name: _plain(form.cleaned_data.get(name)) for name in form.changed_data}
        secrets = [name for name in form.changed_data if "password" in name]
        if changes := differences(old, new, secrets=secrets):
            _record(form.instance, "updated" if change else "created", changes)

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Record that a row goes, and delete it."""
        _record(obj, "deleted", {})
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        """Delete rows one by one."""
        with transaction.atomic():
            for row in queryset:
                self.delete_model(request, row)


def recorded_password(find_user: Callable[[], Any], show: Callable[[], HttpResponse]) -> HttpResponse:
    """Show or save a form for a password, whose success leads elsewhere, and record that it was changed."""
    with transaction.atomic():
        answer = show()
        if isinstance(answer, HttpResponseRedirect):
            _record(find_user(), "updated", {"password": CHANGED})
    return answer


def _record(row: Model, verb: str, changes: Changes) -> None:
    """Record what became of one of Django's rows."""
    kind = str(row._meta.model_name)
    record(action=f"{kind}.{verb}", object_kind=kind, object_name=str(row), changes=changes)


def _plain(value: object) -> object:
    """Return a form's value as JSON can tell it: of rows their names."""
    if isinstance(value, (list, tuple, set, QuerySet)):
        return sorted(str(item) for item in value)
    return value
