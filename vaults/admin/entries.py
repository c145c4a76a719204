"""Entries on the page of their vault: the values of secrets are only ever entered, never shown."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string

from runqy.staff.pages import StaffModelForm, StaffTabularInline
from vaults.entries import narrows
from vaults.models import VaultEntry
from vaults.names import EntryUsage, normalize_git_hosts, problem_of_usage, problem_of_value, problem_of_variable
from vaults.operations import Condition, delete_entry, narrow_entry, set_entry
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


class GitHostsField(forms.CharField):
    """The hosts of a git token, separated by blanks or commas."""

    def __init__(self) -> None:
        attrs = {"placeholder": "none", "autocomplete": "off", "spellcheck": "false", "aria-label": "Git hosts"}
        help_text = "Hosts that a git token may be sent to, separated by commas, such as github.com."
        super().__init__(required=False, widget=forms.TextInput(attrs), empty_value="", help_text=help_text)

    def prepare_value(self, value: Any) -> Any:
        """Return the text for a list."""
        return ", ".join(value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Return whether other hosts are there, in whichever spelling."""
        try:
            return self.clean(data) != list(initial or [])
        except forms.ValidationError:
            return True

    def clean(self, value: Any) -> list[str]:
        """Return the hosts in their one spelling."""
        try:
            return normalize_git_hosts(str(value or "").replace(",", " ").split())
        except ValueError as error:
            raise forms.ValidationError(_sentence(str(error))) from error


class EntryForm(StaffModelForm):
    """An entry; an empty value keeps what there is, except where the mask is to come off."""

    instance: VaultEntry
    value = forms.CharField(required=False, strip=False, widget=ValueInput)
    known_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    """Of the entry when its page was made: nobody overwrites what they have not seen."""

    git_hosts = GitHostsField()

    class Meta:
        model = VaultEntry
        fields = ("key", "is_secret", "usage", "git_hosts")
        labels = {"is_secret": "Secret"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Show what there is, as far as it may be shown."""
        super().__init__(*args, **kwargs)
        self.stored: ShownEntry | None = show_entry(self.instance) if self.instance.pk else None
        self.instance.stored = self.stored  # type: ignore[attr-defined]  # a refused form has changed the instance
        self.fields["key"].widget.attrs["autocomplete"] = "off"
        if "usage" in self.fields:
            self.fields["usage"].required = False
            _add_class(self.fields["usage"], "runqy-usage")
            _add_class(self.fields["git_hosts"], "runqy-hosts")
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

    def clean_usage(self) -> str:
        """Keep the usage where none is stated."""
        return self.cleaned_data["usage"] or str(self.initial.get("usage") or EntryUsage.ENVIRONMENT)

    def clean_git_hosts(self) -> list[str]:
        """Keep the hosts where none are stated."""
        is_stated = self.add_prefix("git_hosts") in self.data
        hosts: list[str] = self.cleaned_data["git_hosts"] if is_stated else self.initial.get("git_hosts") or []
        return hosts

    def clean_value(self) -> str:
        """Take line ends as they were typed, not as browsers send them."""
        value: str = self.cleaned_data["value"]
        return value.replace("\r\n", "\n")

    @property
    def changed_data(self) -> list[str]:
        """Return the fields that somebody changed: neither the version, nor line ends."""
        changed = [name for name in super().changed_data if name != "known_version"]
        stated = {name for name in ("usage", "git_hosts") if self.add_prefix(name) in self.data}
        changed = [name for name in changed if name in stated or name not in ("usage", "git_hosts")]
        entered = str(self.data.get(self.add_prefix("value"), "")).replace("\r\n", "\n")
        if self.stored and entered == self.initial.get("value", "") and "value" in changed:
            changed.remove("value")
        return changed

    def clean(self) -> dict[str, Any]:
        """Check the entry by the rules of vaults."""
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("DELETE") or not self.has_changed():
            return cleaned
        self._clean_declaration(cleaned)
        if problem := problem_of_variable(cleaned.get("key") or ""):
            self.add_error("key", _sentence(problem))
        if self.keeps_value:
            if not cleaned.get("is_secret") and self.instance.pk and self.initial.get("is_secret"):
                self.add_error("value", "Enter the value again to take its mask off.")
        elif problem := problem_of_value(cleaned.get("value") or ""):
            self.add_error("value", _sentence(problem))
        return cleaned

    def _clean_declaration(self, cleaned: dict[str, Any]) -> None:
        """Check usage and hosts; more than before needs the value, so that only a known value can be sent out."""
        if "usage" not in cleaned or "git_hosts" not in cleaned:
            return
        usage, git_hosts = EntryUsage(cleaned["usage"]), cleaned["git_hosts"]
        if problem := problem_of_usage(usage, git_hosts):
            self.add_error("git_hosts", _sentence(problem))
        elif self.stored and self.keeps_value and not narrows(self._known(), usage, git_hosts):
            self.add_error("value", "Enter the value again to let it be used for more, or sent to other hosts.")

    def _known(self) -> VaultEntry:
        """Return what the entry is used for before the form changes it."""
        return VaultEntry(usage=self.initial["usage"], git_hosts=self.initial["git_hosts"])

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
        elif self.has_changed():
            declared = {"usage": EntryUsage(cleaned["usage"]), "git_hosts": cleaned["git_hosts"], "only_if": only_if}
            if self.keeps_value:
                narrow_entry(vault=vault, key=self.instance.key, **declared)
            else:
                set_entry(
                    vault=vault,
                    key=cleaned["key"],
                    value=cleaned["value"],
                    is_secret=cleaned["is_secret"],
                    **declared,
                )


class EntryInline(StaffTabularInline):
    """The entries of a vault; who may change the vault may change them."""

    model = VaultEntry
    form = EntryForm
    verbose_name, verbose_name_plural = "entry", "Entries"
    hide_title = True
    readonly_fields = ("hosts", "stands", "changed")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Fetch the vault along: its name is needed to open an entry."""
        return super().get_queryset(request).select_related("vault")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Leave out the fields for values where they cannot be changed."""
        if not self.has_change_permission(request, obj):
            return ("key", "is_secret", "usage", "hosts", "stands", "changed")
        return ("key", "value", "is_secret", "usage", "git_hosts", "stands", "changed", "known_version")

    @admin.display(description="git hosts")
    def hosts(self, row: Any) -> str:
        """Return the hosts that it may be sent to."""
        return ", ".join(row.git_hosts)

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
    _add_class(field, _SECRET if is_secret else _READABLE)
    field.widget.attrs["placeholder"] = placeholder
    field.widget.attrs["aria-label"] = "Value"


def _add_class(field: Any, names: str) -> None:
    field.widget.attrs["class"] = f"{field.widget.attrs.get('class', '')} {names}".strip()


def _sentence(problem: str) -> str:
    """Return a rule's words as a sentence."""
    return f"{problem[:1].upper()}{problem[1:]}."
