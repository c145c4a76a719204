"""Filters of the list of records: by time, object, action and actor."""

from datetime import date, timedelta
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.options import ModelAdmin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.dateparse import parse_date
from unfold.contrib.filters.admin import DropdownFilter, RangeDateFilter, TextFilter
from unfold.contrib.filters.forms import RangeDateForm

from runqy.admin_site.times import start_of_day, zone_label
from runqy.audit import queries
from runqy.audit.actors import ActorKind
from runqy.audit.history import KIND, OBJECT
from runqy.audit.models import AuditRecord

if TYPE_CHECKING:
    _Records = QuerySet[AuditRecord]
    _Dropdown = admin.SimpleListFilter
    _Text = admin.SimpleListFilter
    _RangeDate = admin.FieldListFilter
else:
    _Dropdown = DropdownFilter
    _Text = TextFilter
    _RangeDate = RangeDateFilter


class _ValueFilter(_Dropdown):
    """The values of a column. One that is only in the URL is offered too."""

    column: str

    def values(self) -> list[str]:
        return queries.list_values(self.column)

    def condition(self, value: str) -> Q:
        return Q((self.column, value))

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> list[tuple[str, str]]:
        selected = [value for value in request.GET.getlist(str(self.parameter_name)) if value]
        return [(value, value.replace("_", " ")) for value in dict.fromkeys([*self.values(), *selected])]

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        value = self.value()
        return queryset.filter(self.condition(value)) if value else queryset


class KindFilter(_ValueFilter):
    """The kind of object, including its parts: `vault` also finds `vault_entry`."""

    title, parameter_name, column = "kind of object", KIND, "object_kind"

    def condition(self, value: str) -> Q:
        return queries.kind_condition(value)


class ActionFilter(_ValueFilter):
    """The action."""

    title, parameter_name, column = "action", "action", "action"


class ActorKindFilter(_ValueFilter):
    """The kind of actor."""

    title, parameter_name, column = "kind of actor", "by", "actor_kind"

    def values(self) -> list[str]:
        return [kind.value for kind in ActorKind]


class ObjectFilter(_Text):
    """The exact name of an object and its parts: `api-keys` also finds `api-keys/TOKEN`.

    Several names in the URL find the records of any.
    """

    title, parameter_name = "exact name of object", OBJECT

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        names = [name for name in request.GET.getlist(OBJECT) if name]
        conditions = [queries.object_condition(name) for name in names]
        return queryset.filter(reduce(or_, conditions)) if conditions else queryset


class PeriodForm(RangeDateForm):  # type: ignore[misc] # unfold has no types
    """Two days, entered with the browser's own date picker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field, name in zip(self.fields.values(), ("From", "To and including"), strict=True):
            label = zone_label(name)
            field.widget.input_type = "date"
            field.widget.attrs |= {"aria-label": label, "title": label}


class PeriodFilter(_RangeDate):
    """A period of days of the reader, both included. An invalid date finds nothing."""

    form_class = PeriodForm

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = zone_label("day")

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        try:
            first, last = self._day("at_from"), self._day("at_to")
        except ValueError:
            return queryset.none()
        if first:
            queryset = queryset.filter(at__gte=start_of_day(first))
        if last and last < date.max:
            queryset = queryset.filter(at__lt=start_of_day(last + timedelta(days=1)))
        return queryset

    def _day(self, parameter: str) -> date | None:
        text = self.used_parameters.get(parameter)
        if not text:
            return None
        day = parse_date(str(text))
        if day is None:
            raise ValueError(text)
        return day
