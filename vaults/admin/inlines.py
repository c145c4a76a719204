"""The entries on the page of their vault."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string

from runqy.admin_site.base_admin import RunqyTabularInline
from vaults.admin.forms import EntryForm
from vaults.models import VaultEntry


class EntryInline(RunqyTabularInline):
    """The entries of a vault. Users who may change the vault may change them."""

    model = VaultEntry
    form = EntryForm
    rows_name = "entries"
    verbose_name, verbose_name_plural = "entry", "Entries"
    hide_title = True
    readonly_fields = ("secrecy", "hosts", "stored_value")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("vault")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        if not self.has_change_permission(request, obj):
            return ("key", "secrecy", "usage", "hosts", "stored_value")
        return ("key", "value", "is_secret", "usage", "git_hosts", "stored_value", "known_version")

    @admin.display(description="secret")
    def secrecy(self, row: VaultEntry) -> str:
        # In words: Django's red cross for False would look like an error.
        return "yes" if row.is_secret else "no"

    @admin.display(description="git hosts")
    def hosts(self, row: Any) -> str:
        return ", ".join(row.git_hosts)

    @admin.display(description="stored value")
    def stored_value(self, row: Any) -> str:
        return render_to_string("vaults/stored_value.html", {"entry": row, "stored": row.stored})

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("vaults.view_vault") or request.user.has_perm("vaults.change_vault")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("vaults.change_vault" if obj else "vaults.add_vault")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("vaults.change_vault" if obj else "vaults.add_vault")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("vaults.change_vault")
