"""Entries on the page of their vault: the values of secrets are only ever entered, never shown."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string

from runqy.staff.pages import StaffModelForm, StaffTabularInline
from vaults.models import VaultEntry
from vaults.names import problem_of_value, problem_of_variable
from vaults.operations import Condition, delete_entry, set_entry
from vaults.queries import ShownEntry, show_entry

_SECRET, _READABLE = "runqy-value runqy-secret", "runqy-value"


class ValueInput(forms.Textarea):
    """Takes a value of one or many lines, and gives back none that was entered."""

    shown = ""
    """The value as it is stored, of an entry that is no secret."""

    def __init__(self) -> None:
        """Keep browsers from storing, completing or checking it."""
        super().__init__({"rows": 1, "autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"})

    def format_value(self, value: Any) -> str:
        """Return what may be shown, whatever was entered."""
        return self.shown


class EntryForm(StaffModelForm):
    """An entry; an empty value keeps what there is, except where the mask is to come off."""

    instance: VaultEntry
    value = forms.CharField(required=False, strip=False, widget=ValueInput)
    known_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    """Of the entry when its page was made: nobody overwrites what they have not seen."""

    class Meta:
        model = VaultEntry
        fields = ("key", "is_secret")
        labels = {"is_secret": "Secret"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Show what there is, as far as it may be shown."""
        super().__init__(*args, **kwargs)
        self.stored: ShownEntry | None = show_entry(self.instance) if self.instance.pk else None
        self.instance.stored = self.stored  # type: ignore[attr-defined]  # a refused form has changed the instance
        self.fields["key"].widget.attrs["autocomplete"] = "off"
        if self.stored is None or "value" not in self.fields:
            if "value" in self.fields:
                _dress_value(self.fields["value"], is_secret=True, placeholder="its value")
            return
        self.fields["key"].disabled = True
        is_secret = self.instance.is_secret or bool(self.stored.problem)
        _dress_value(self.fields["value"], is_secret=is_secret, placeholder="keep it, or enter a new one")
        if not is_secret:
            self.initial["value"] = self.stored.value
            self.fields["value"].widget.shown = self.stored.value
        self.initial["known_version"] = self.instance.version

    def clean_value(self) -> str:
        """Take line ends as they were typed, not as browsers send them."""
        value: str = self.cleaned_data["value"]
        return value.replace("\r\n", "\n")

    @property
    def changed_data(self) -> list[str]:
        """Return the fields that somebody changed: neither the version, nor line ends."""
        changed = [name for name in super().changed_data if name != "known_version"]
        entered = str(self.data.get(self.add_prefix("value"), "")).replace("\r\n", "\n")
        if self.stored and entered == self.initial.get("value", "") and "value" in changed:
            changed.remove("value")
        return changed

    def clean(self) -> dict[str, Any]:
        """Check key and value by the rules of vaults."""
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("DELETE") or not self.has_changed():
            return cleaned
        if problem := problem_of_variable(cleaned.get("key") or ""):
            self.add_error("key", _sentence(problem))
        if self.keeps_value:
            if not cleaned.get("is_secret") and self.instance.pk and self.initial.get("is_secret"):
                self.add_error("value", "Enter the value again to take its mask off.")
        elif problem := problem_of_value(cleaned.get("value") or ""):
            self.add_error("value", _sentence(problem))
        return cleaned

    @property
    def keeps_value(self) -> bool:
        """Tell whether the value stays: nothing was entered for a secret that exists."""
        return bool(self.stored and self.initial.get("is_secret") and not self.cleaned_data.get("value"))

    def apply(self, vault: str) -> None:
        """Do what was asked for. Raises what the operations raise."""
        cleaned = self.cleaned_data
        only_if = Condition(expected_version=cleaned.get("known_version") if self.stored else 0)
        if cleaned.get("DELETE"):
            if self.stored:
                delete_entry(vault=vault, key=self.instance.key, only_if=only_if)
        elif self.has_changed() and not self.keeps_value:
            set_entry(
                vault=vault,
                key=cleaned["key"],
                value=cleaned["value"],
                is_secret=cleaned["is_secret"],
                only_if=only_if,
            )


class EntryInline(StaffTabularInline):
    """The entries of a vault; who may change the vault may change them."""

    model = VaultEntry
    form = EntryForm
    verbose_name, verbose_name_plural = "entry", "Entries"
    hide_title = True
    readonly_fields = ("stands", "changed")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Fetch the vault along: its name is needed to open an entry."""
        return super().get_queryset(request).select_related("vault")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Leave out the fields for values where they cannot be changed."""
        if not self.has_change_permission(request, obj):
            return ("key", "is_secret", "stands", "changed")
        return ("key", "value", "is_secret", "stands", "changed", "known_version")

    @admin.display(description="value now")
    def stands(self, row: Any) -> str:
        """Return the stored value as it may be shown, and its fingerprint."""
        return render_to_string("vaults/entry_now.html", {"entry": row.stored})

    @admin.display(description="last change")
    def changed(self, row: VaultEntry) -> str:
        """Return version, time and person, with a link to all."""
        return render_to_string("vaults/entry_changed.html", {"entry": row if row.pk else None})

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Ask for the vault's."""
        return request.user.has_perm("vaults.view_vault") or request.user.has_perm("vaults.change_vault")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Ask for the vault's."""
        return request.user.has_perm("vaults.change_vault" if obj else "vaults.add_vault")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Ask for the vault's."""
        return request.user.has_perm("vaults.change_vault" if obj else "vaults.add_vault")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Ask for the vault's."""
        return request.user.has_perm("vaults.change_vault")


def _dress_value(field: Any, *, is_secret: bool, placeholder: str) -> None:
    """Say how a value is entered."""
    field.widget.attrs["class"] = f"{field.widget.attrs.get('class', '')} {_SECRET if is_secret else _READABLE}".strip()
    field.widget.attrs["placeholder"] = placeholder
    field.widget.attrs["aria-label"] = "Value"


def _sentence(problem: str) -> str:
    """Return a rule's words as a sentence."""
    return f"{problem[:1].upper()}{problem[1:]}."
