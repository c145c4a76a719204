"""What every admin page is derived from, so that all fields look and behave like unfold's."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import Model
from django.db.models.constants import LOOKUP_SEP
from django.forms.widgets import Input
from django.http import HttpRequest
from unfold import widgets
from unfold.admin import ModelAdmin, TabularInline

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Model]
    _TabularInline = admin.TabularInline[Model, Model]
    _ModelForm = forms.ModelForm[Model]
else:
    _ModelAdmin, _TabularInline, _ModelForm = ModelAdmin, TabularInline, forms.ModelForm

_CLASSES: dict[type[forms.Widget], list[str]] = {
    forms.CheckboxInput: widgets.SWITCH_CLASSES,
    forms.Textarea: widgets.TEXTAREA_CLASSES,
    forms.Select: widgets.SELECT_CLASSES,
    Input: widgets.INPUT_CLASSES,
}
"""The CSS classes of Django's own widgets; the first that a widget is an instance of counts."""

_UNTOUCHED = (forms.HiddenInput, forms.MultipleHiddenInput)


class StaffForm(forms.Form):
    """A form of a page of ours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Dress the fields."""
        super().__init__(*args, **kwargs)
        dress(self)


class StaffModelForm(_ModelForm):
    """A form for a row, whose declared fields look like those that the model gives."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Dress the fields."""
        super().__init__(*args, **kwargs)
        dress(self)


class StaffModelAdmin(_ModelAdmin):
    """The pages of one model."""

    form = StaffModelForm
    list_per_page = 50
    show_full_result_count = False
    empty_says = ""
    """What an empty list tells to do next."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow lookups only in fields that the list's filters offer.

        Django allows those in every field of the row: `?env_vars__startswith=` would read what the pages mask.
        """
        name = lookup.partition(LOOKUP_SEP)[0]
        offered = {name for offer in self.list_filter for name in getattr(offer, "parameters", (offer,))}
        if name not in offered and name in {field.name for field in self.model._meta.get_fields()}:
            return False
        return super().lookup_allowed(lookup, value, request)


class StaffTabularInline(_TabularInline):
    """Rows of another model on the page of the one they belong to."""

    form = StaffModelForm
    extra = 0


def dress(form: forms.BaseForm) -> None:
    """Give each field of a form the looks of unfold's; those that have them already stay as they are."""
    for field in form.fields.values():
        field.widget = _replaced(field.widget)
        if not type(field.widget).__module__.startswith("unfold") and not isinstance(field.widget, _UNTOUCHED):
            _add_classes(field.widget)


def _replaced(widget: forms.Widget) -> forms.Widget:
    """Return a widget, or unfold's in its place where classes alone do not make it look right."""
    if type(widget) is forms.RadioSelect:
        return widgets.UnfoldAdminRadioSelectWidget(attrs=widget.attrs, choices=widget.choices)  # type: ignore[no-any-return]
    if type(widget) is forms.Select:
        return widgets.UnfoldAdminSelectWidget(attrs=widget.attrs, choices=widget.choices)  # type: ignore[no-any-return]
    if type(widget) is forms.CheckboxSelectMultiple:
        return widgets.UnfoldAdminCheckboxSelectMultipleWidget(attrs=widget.attrs, choices=widget.choices)  # type: ignore[no-any-return]
    if type(widget) is forms.SplitDateTimeWidget:
        return widgets.UnfoldAdminSplitDateTimeWidget(attrs=widget.attrs)  # type: ignore[no-any-return]
    return widget


def _add_classes(widget: forms.Widget) -> None:
    """Add unfold's classes to a widget that may have its own."""
    wanted = next((names for kind, names in _CLASSES.items() if isinstance(widget, kind)), [])
    present = str(widget.attrs.get("class", "")).split()
    widget.attrs["class"] = " ".join(dict.fromkeys([*wanted, *present]))
