"""Base classes of the admin pages, with fields in unfold's style."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Model
from django.db.models.constants import LOOKUP_SEP
from django.forms import Script
from django.forms.widgets import Input
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.text import capfirst
from unfold import widgets
from unfold.admin import ModelAdmin, TabularInline

from runqy.admin_site.views import AdminViewMixin
from runqy.errors import RunqyError

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
"""CSS classes by widget class. The first class that matches applies."""

NEW_ROWS_MAX = 200
"""How many rows a form may add to a table. Each costs the server milliseconds but the client only a few bytes."""

LIVE = Script("admin_site/live.js", defer=True)
"""The script of lists whose `list_before_template` includes `admin_site/live_changelist.html`."""
_UNSTYLED = (forms.HiddenInput, forms.MultipleHiddenInput)


class StyledForm(forms.Form):
    """A form in unfold's style."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        style_form(self)


class StyledModelForm(_ModelForm):
    """A model form in unfold's style, also for fields that it declares itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        style_form(self)


class RunqyModelAdmin(_ModelAdmin):
    """Admin pages of a model."""

    form = StyledModelForm
    list_per_page = 50
    show_full_result_count = False
    empty_title = ""
    """The heading of an empty list. By default it says that there are no objects yet."""
    empty_text = ""
    """What to do next, shown on an empty list."""
    counted_relations: tuple[str, ...] = ()
    """Relations whose rows the confirmation of a deletion counts, since they are too many to list. If there are any,
    nothing else is deleted with a row."""
    show_all_query = ""
    """The query of the list of all objects, if the list without a query has only some."""

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
            request.operation_error = error  # type: ignore[attr-defined]
        return show(request, object_id, form_url, extra_context)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        error: RunqyError | None = getattr(request, "operation_error", None)
        if error is None:
            return form
        field_name = next((field for kind, field in self.refused_fields.items() if isinstance(error, kind)), None)
        # Django shows the form again, with its input, only if it is invalid.
        return _refused(form, error, field_name)

    def page(self, view: type[AdminViewMixin]) -> Callable[..., HttpResponseBase]:
        """Return a view for `get_urls` that requires a login."""
        return self.admin_site.admin_view(view.as_view(model_admin=self))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        # Django's title is "Select … to change"; `live.js` updates the element with the class.
        context: dict[str, Any] = {
            "title": capfirst(self.opts.verbose_name_plural),
            "element_classes": {"pagination": "list-pagination"},
        }
        return super().changelist_view(request, context | (extra_context or {}))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        if not self.counted_relations:
            return super().get_deleted_objects(objs, request)
        counts: dict[str, int | str] = {str(self.opts.verbose_name_plural): len(objs)}
        for name in self.counted_relations:
            rows = [getattr(obj, name).all() for obj in objs]
            counts[str(rows[0].model._meta.verbose_name_plural)] = f"{sum(each.count() for each in rows):,}"
        is_allowed = all(self.has_delete_permission(request, obj) for obj in objs)
        return [str(obj) for obj in objs], counts, set() if is_allowed else {self.opts.verbose_name}, []

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow lookups only in fields of `list_filter`."""
        # Django allows them in all fields of the model: `?env_vars__startswith=` would reveal masked values.
        name = lookup.partition(LOOKUP_SEP)[0]
        allowed = {_filter_name(item) for item in self.list_filter}
        if name not in allowed and name in {field.name for field in self.model._meta.get_fields()}:
            return False
        return super().lookup_allowed(lookup, value, request)


class ReadOnlyModelAdmin(RunqyModelAdmin):
    """Admin pages of objects that cannot be edited. They have no forms and no history."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().render_change_form(request, context | {"show_history": False}, *args, **kwargs)


class RunqyTabularInline(_TabularInline):
    """Rows of a related model."""

    form = StyledModelForm
    extra = 0
    rows_name = ""
    """The attribute of the page's object that has the rows."""

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        most = (getattr(obj, self.rows_name).count() if obj else 0) + NEW_ROWS_MAX
        return super().get_formset(request, obj, **kwargs | {"max_num": most, "absolute_max": most})


def _filter_name(list_filter: Any) -> str:
    """Return the field of an item in `list_filter`, or the parameter of a filter without a field."""
    if isinstance(list_filter, str):
        return list_filter
    return str(list_filter[0] if isinstance(list_filter, tuple) else list_filter.parameter_name)


def style_form(form: forms.BaseForm) -> None:
    """Give the fields of a form unfold's style, unless their widgets are unfold's already."""
    for field in form.fields.values():
        field.widget = _replaced(field.widget)
        if not type(field.widget).__module__.startswith("unfold") and not isinstance(field.widget, _UNSTYLED):
            _add_classes(field.widget)


def _replaced(widget: forms.Widget) -> forms.Widget:
    """Return unfold's widget if CSS classes alone are not enough, otherwise the widget."""
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
    wanted = next((names for kind, names in _CLASSES.items() if isinstance(widget, kind)), [])
    present = str(widget.attrs.get("class", "")).split()
    widget.attrs["class"] = " ".join(dict.fromkeys([*wanted, *present]))


def _refused(form: Any, error: RunqyError, field_name: str | None) -> type[forms.BaseForm]:
    """Return a form class whose validation adds an operation's error."""

    class RefusedForm(form):  # type: ignore[misc]
        def clean(self) -> Any:
            cleaned = super().clean()
            for sentence in error.errors:
                self.add_error(field_name if field_name in self.fields else None, sentence)
            return cleaned

    return RefusedForm
