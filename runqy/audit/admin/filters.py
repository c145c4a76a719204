"""Filters of the list of records: by time, object, action and actor."""

from datetime import date
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
    """A choice of values. A value that is only in the URL is offered too."""

    def values(self) -> list[str]:
        raise NotImplementedError

    def condition(self, value: str) -> Q:
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: "ModelAdmin[Any]") -> list[tuple[str, str]]:
        selected = [value for value in request.GET.getlist(str(self.parameter_name)) if value]
        return [(value, value.replace("_", " ")) for value in dict.fromkeys([*self.values(), *selected])]

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        value = self.value()
        return queryset.filter(self.condition(value)) if value else queryset


class KindFilter(_ValueFilter):
    """The kind of object, including its parts."""

    title, parameter_name = "kind of object", KIND

    def values(self) -> list[str]:
        return queries.list_object_kinds()

    def condition(self, value: str) -> Q:
        return queries.kind_condition(value)


class ActionFilter(_ValueFilter):
    """The action."""

    title, parameter_name = "action", "action"

    def values(self) -> list[str]:
        return queries.list_actions()

    def condition(self, value: str) -> Q:
        return Q(action=value)


class ActorKindFilter(_ValueFilter):
    """The kind of actor."""

    title, parameter_name = "kind of actor", "by"

    def values(self) -> list[str]:
        return [kind.value for kind in ActorKind]

    def condition(self, value: str) -> Q:
        return Q(actor_kind=value)


class ObjectFilter(_Text):
    """The exact name of an object; several names in the URL find the records of any."""

    title, parameter_name = "exact name of object", OBJECT

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        names = [name for name in request.GET.getlist(OBJECT) if name]
        return queryset.filter(reduce(or_, map(queries.object_condition, names))) if names else queryset


class PeriodForm(RangeDateForm):  # type: ignore[misc] # unfold has no types
    """Two days, entered with the browser's own date picker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field, label in zip(self.fields.values(), ("From (UTC)", "To, that day included (UTC)"), strict=True):
            field.widget.input_type = "date"
            field.widget.attrs |= {"aria-label": label, "title": label}


class PeriodFilter(_RangeDate):
    """A period of days in UTC, both included. An invalid date finds nothing."""

    form_class = PeriodForm

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "day (UTC)"

    def queryset(self, request: HttpRequest, queryset: "_Records") -> "_Records":
        try:
            first, last = self._day("at_from"), self._day("at_to")
        except ValueError:
            return queryset.none()
        return queryset.filter(queries.period_condition(first, last))

    def _day(self, parameter: str) -> date | None:
        text = self.used_parameters.get(parameter)
        if not text:
            return None
        day = parse_date(str(text))
        if day is None:
            raise ValueError(text)
        return day
