"""Sub-queues on the page of their queue."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest

from queues.definitions import SubQueueSpec
from queues.models import Queue, SubQueue
from runqy.admin_site.base_admin import RunqyTabularInline, StyledModelForm

_CELLS = {"name", "priority"}


class SubQueueForm(StyledModelForm):
    """A sub-queue. Empty new rows are ignored."""

    class Meta:
        model = SubQueue
        fields = ("name", "priority", "position")
        widgets = {"name": forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "position" in self.fields:
            self.fields["position"].required = False
        if self.instance.pk is None:
            self.initial["position"] = None
            for name in _CELLS & self.fields.keys():
                self.fields[name].required = False  # the page would mark the blank row, which may stay blank

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for name in sorted(_CELLS - self.errors.keys()):
            if cleaned.get(name) in (None, ""):
                self.add_error(name, self.fields[name].error_messages["required"])
        return cleaned

    def has_changed(self) -> bool:
        if self.instance.pk is not None:
            return super().has_changed()
        # A clone's rows are submitted as they were rendered: Django would take them for unchanged, and not save them.
        priority = SubQueue._meta.get_field("priority").default
        return bool(self["name"].data) or str(self["priority"].data or priority) != str(priority)


class SubQueueFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    def rows(self) -> "list[forms.ModelForm[Any]]":
        """Return the rows that remain, by position. Those without a position come last."""
        kept = [
            form
            for form in self.forms
            if form not in self.deleted_forms and (form.instance.pk is not None or form.has_changed())
        ]
        return sorted(kept, key=_position)


class SubQueueInline(RunqyTabularInline):
    """The sub-queues of a queue. Users who may change the queue may change them."""

    model = SubQueue
    form = SubQueueForm
    formset = SubQueueFormSet
    fields = ("name", "priority", "position")
    verbose_name, verbose_name_plural = "sub-queue", "Sub-queues"
    extra = 1
    rows_name = "sub_queues"
    ordering_field = "position"
    hide_ordering_field = True
    hide_title = True

    def get_extra(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> int:
        clone = None if obj else Queue.objects.filter(name=request.GET.get("clone", "")).first()
        return self.extra + (clone.sub_queues.count() if clone else 0)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("queues.view_queue") or request.user.has_perm("queues.change_queue")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("queues.change_queue" if obj else "queues.add_queue")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request, obj)


def read_sub_queues(formsets: Iterable[Any]) -> tuple[SubQueueSpec, ...]:
    return tuple(
        SubQueueSpec(name=form.instance.name, priority=form.instance.priority)
        for formset in formsets
        for form in formset.rows()
    )


def _position(form: "forms.ModelForm[Any]") -> tuple[bool, int]:
    position = form.cleaned_data.get("position")
    return (position is None, position or 0)
