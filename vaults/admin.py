"""Vaults in the admin. Values go in and never come out."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from runqy.errors import VaultAlreadyExists
from runqy.publication.saving import PublishedModelAdmin
from runqy.staff.pages import StaffModelForm, StaffTabularInline
from vaults.models import Vault, VaultEntry
from vaults.names import problem_of_value, problem_of_variable, problem_of_vault_name
from vaults.operations import create_vault, delete_entry, delete_vault, describe_vault, set_entry


class VaultForm(StaffModelForm):
    """The name and description of a vault."""

    class Meta:
        model = Vault
        fields = ("name", "description")

    def clean_name(self) -> str:
        """Check the name by the rules of vaults."""
        name: str = self.cleaned_data["name"]
        if problem := problem_of_vault_name(name):
            raise forms.ValidationError(problem)
        return name


class EntryForm(StaffModelForm):
    """An entry; its value is entered anew with every change, so that taking the mask off shows nothing old."""

    value = forms.CharField(
        required=False, strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"})
    )

    class Meta:
        model = VaultEntry
        fields = ("key", "is_secret")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Keep the key of an entry that exists."""
        super().__init__(*args, **kwargs)
        self.fields["key"].disabled = self.instance.pk is not None

    def clean(self) -> dict[str, Any]:
        """Check key and value by the rules of vaults."""
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("DELETE") or not self.has_changed():
            return cleaned
        if problem := problem_of_variable(cleaned.get("key") or ""):
            self.add_error("key", problem)
        if problem := problem_of_value(cleaned.get("value") or ""):
            self.add_error("value", problem)
        return cleaned


class EntryInline(StaffTabularInline):
    """The entries of a vault."""

    model = VaultEntry
    form = EntryForm


@admin.register(Vault)
class VaultAdmin(PublishedModelAdmin):
    """Vaults: saving and deleting goes through the operations."""

    form = VaultForm
    refused_fields = {VaultAlreadyExists: "name"}
    inlines = (EntryInline,)
    list_display = ("name", "description", "updated_at")
    search_fields = ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Keep the name, to which the ciphertexts are bound."""
        return ("name",) if obj else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Create the vault, or change its description."""
        if change:
            describe_vault(name=obj.name, description=obj.description)
        else:
            obj.pk = create_vault(name=obj.name, description=obj.description).pk

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Set and delete entries."""
        formset.save(commit=False)  # notes what changed, for the history
        for entry in formset.deleted_objects:
            delete_entry(vault=form.instance.name, key=entry.key)
        for entry_form in formset.forms:
            cleaned = entry_form.cleaned_data
            if entry_form.has_changed() and not cleaned.get("DELETE"):
                values = {name: cleaned[name] for name in ("key", "value", "is_secret")}
                set_entry(vault=form.instance.name, **values)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete the vault."""
        delete_vault(name=obj.name)
