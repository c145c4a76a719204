"""Narrows down the list of records: by object, action, actor and time."""

from collections.abc import Callable, Iterator
from datetime import date
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from runqy.audit import queries
from runqy.audit.actors import ActorKind
from runqy.audit.links import KIND, OBJECT
from runqy.audit.models import AuditRecord
from runqy.staff.pages import StaffForm, dress

if TYPE_CHECKING:
    _Records = QuerySet[AuditRecord]


class _FormFilter(admin.ListFilter):
    """A filter that is a form, sent with those of the others."""

    template = "unfold/filters/filters_field.html"
    parameters: tuple[str, ...] = ()

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        """Take what was chosen out of the parameters."""
        super().__init__(request, params, model, model_admin)
        self.chosen: dict[str, list[str]] = {name: params.pop(name) for name in self.parameters if name in params}
        self.form = self.build_form()

    def build_form(self) -> forms.Form:
        """Return the form, with what was chosen."""
        raise NotImplementedError

    def has_output(self) -> bool:
        """Stand in the list of filters."""
        return True

    def expected_parameters(self) -> list[str | None]:
        """Name what the form sends."""
        return list(self.parameters)

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Give the form to the template."""
        yield {"form": self.form}


class _ChoiceFilter(_FormFilter):
    """A choice among a few values."""

    def build_form(self) -> forms.Form:
        """Return a list to choose from; what is not in it, an address may still ask for."""
        (name,) = self.parameters
        values = self.values()
        values += [value for value in self.chosen.get(name, []) if value not in values]
        choices = [("", "All"), *((value, value.replace("_", " ")) for value in values)]
        form = StaffForm({name: self.chosen.get(name, [""])[-1]})
        form.fields[name] = forms.ChoiceField(label=self.title, choices=choices, required=False)
        dress(form)
        return form

    def values(self) -> list[str]:
        """Return the values."""
        raise NotImplementedError


class KindFilter(_ChoiceFilter):
    """By the kind of object; that of a whole includes its parts."""

    title, parameters = "Kind of object", (KIND,)

    def values(self) -> list[str]:
        """Return the kinds that there are."""
        return queries.object_kinds()

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        """Narrow down."""
        return _any_of(queryset, self.chosen.get(KIND, []), queries.of_kind)


class ActionFilter(_ChoiceFilter):
    """By what was done."""

    title, parameters = "Action", ("action",)

    def values(self) -> list[str]:
        """Return the actions that there are."""
        return queries.actions()

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        """Narrow down."""
        return _any_of(queryset, self.chosen.get("action", []), lambda action: Q(action=action))


class ActorKindFilter(_ChoiceFilter):
    """By what kind of actor did it."""

    title, parameters = "Done by a", ("by",)

    def values(self) -> list[str]:
        """Return all kinds."""
        return [kind.value for kind in ActorKind]

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        """Narrow down."""
        return _any_of(queryset, self.chosen.get("by", []), lambda kind: Q(actor_kind=kind))


class ObjectFilter(_FormFilter):
    """By an object's exact name; an object's page may ask for several."""

    title, parameters = "Object's exact name", (OBJECT,)

    def build_form(self) -> forms.Form:
        """Return a line for each name; those beyond the first are sent under the same parameter."""
        names = self.chosen.get(OBJECT, [])
        form = StaffForm({OBJECT: names[0] if names else ""})
        form.fields[OBJECT] = forms.CharField(label=self.title, required=False)
        dress(form)
        return form

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        """Narrow down."""
        return _any_of(queryset, self.chosen.get(OBJECT, []), queries.of_object)


class PeriodForm(StaffForm):
    """The first and the last day."""

    since = forms.DateField(
        label="From (UTC)", required=False, widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})
    )
    until = forms.DateField(
        label="To, that day included (UTC)",
        required=False,
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
    )


class PeriodFilter(_FormFilter):
    """By time."""

    title, parameters = "Time", ("since", "until")

    def build_form(self) -> forms.Form:
        """Return the form, checked: a day that is none is told so."""
        return PeriodForm({name: values[-1] for name, values in self.chosen.items()})

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        """Narrow down; a day that is none finds nothing."""
        if not self.form.is_valid():
            return queryset.none()
        days: dict[str, date | None] = self.form.cleaned_data
        return queryset.filter(queries.within(days["since"], days["until"]))


def _any_of(records: "_Records", values: list[str], condition: Callable[[str], Q]) -> "_Records":
    """Return the records that fit one of some values; all where there are no values."""
    return records.filter(reduce(or_, map(condition, values))) if values else records
