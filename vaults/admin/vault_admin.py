"""The list of vaults, and the page of each with its entries, queues and workers."""

from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from unfold.enums import ActionVariant

from runqy.admin_site.base_admin import RunqyTabularInline
from runqy.admin_site.times import show_time
from runqy.configuration.admin import PublishedModelAdmin
from runqy.errors import BrokerUnavailable, VaultAlreadyExists
from runqy.redis_connection import get_broker
from vaults.access_log import list_vault_workers
from vaults.admin.forms import EntryForm, VaultForm
from vaults.admin.views import BulkEditView, DeleteView, DeliveriesView, VersionsView, queue_links
from vaults.models import Vault, VaultEntry
from vaults.operations import save_vault
from vaults.queries import is_unlocked, list_decrypt_errors, list_queues_by_vault

NAMED_QUEUES_MAX = 3


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


class VaultList(ChangeList):
    """Vaults with the queues that use them, in one query."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        used_by = list_queues_by_vault()
        self.result_list = list(self.result_list)
        for vault in self.result_list:
            vault.used_by = used_by.get(vault.name, [])


class VaultAdmin(PublishedModelAdmin):
    """Vaults. All changes go through the operations."""

    form = VaultForm
    audit_kind = "vault"
    refused_fields = {VaultAlreadyExists: "name"}
    inlines = (EntryInline,)
    list_display = ("name", "description_start", "entry_count", "queues", "updated")
    list_before_template = "vaults/list_before.html"
    change_form_outer_before_template = "vaults/form_before.html"
    change_form_outer_after_template = "vaults/form_after.html"
    search_fields = ("name", "description")
    search_help_text = "Name or description"
    empty_text = "Add a vault, set its entries, and list it in the vaults of a queue: its workers receive them."
    show_full_result_count = True
    actions = None

    class Media:
        css = {"all": ("vaults/vaults.css",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        counted: QuerySet[Any] = super().get_queryset(request).annotate(counted=Count("entries"))
        return counted

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return VaultList

    def get_urls(self) -> list[URLPattern]:
        own = [
            path("<path:object_id>/bulk-edit/", self.page(BulkEditView), name="vaults_vault_bulk_edit"),
            path("<path:object_id>/deliveries/", self.page(DeliveriesView), name="vaults_vault_deliveries"),
            path("<path:object_id>/entries/<str:key>/", self.page(VersionsView), name="vaults_vault_versions"),
        ]
        return [*own, *super().get_urls()]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        may_change = obj is not None and self.has_change_permission(request, obj)
        return ("name", "description", "replaces_at_once") if may_change else ("name", "description")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Ciphertexts are bound to the name.
        return ("name",) if obj else ()

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"is_locked": not is_unlocked()} | (extra_context or {}))

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        context["is_locked"] = not is_unlocked()
        if vault := context.get("original"):
            context["actions_detail"] = self._page_links(request, vault)
            context["decrypt_errors"] = [] if context["is_locked"] else list_decrypt_errors(vault)
            context |= {"used_by": queue_links(request, list_queues_by_vault().get(vault.name, [])), **_workers(vault)}
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Leave saving to `save_related`: a vault and its entries are one change."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        edits = []
        for formset in formsets:
            formset.save(commit=False)  # Django lists what changed for the history
            edits += [edit for entry_form in formset.forms if (edit := entry_form.to_edit())]
        vault = form.instance
        saved = save_vault(
            name=vault.name,
            description=vault.description,
            edits=edits,
            is_new=not change,
            replaces_at_once=bool(form.cleaned_data.get("replaces_at_once")),
        )
        vault.pk = saved.pk

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return cast("HttpResponse", DeleteView.as_view(model_admin=self)(request, object_id=object_id))

    def _page_links(self, request: HttpRequest, vault: Vault) -> list[dict[str, Any]]:
        """Return the buttons at the top of the page of a vault, as unfold renders its own detail actions."""
        # Not `actions_detail`, which registers URLs for methods of the admin: these are class-based views.
        pages = [("Bulk edit", "content_paste", "bulk_edit")] if self.has_change_permission(request, vault) else []
        pages.append(("Deliveries", "local_shipping", "deliveries"))
        return [
            {
                "title": title,
                "icon": icon,
                "variant": ActionVariant.DEFAULT,
                "path": reverse(f"admin:vaults_vault_{name}", args=[vault.pk]),
            }
            for title, icon, name in pages
        ]

    @admin.display(description="description", ordering="description")
    def description_start(self, row: Vault) -> str:
        words = " ".join(row.description.split())
        return words if len(words) <= 60 else f"{words[:60]}…"

    @admin.display(description="entries", ordering="counted")
    def entry_count(self, row: Any) -> int:
        count: int = row.counted
        return count

    @admin.display(description="used by")
    def queues(self, row: Any) -> str:
        named, rest = row.used_by[:NAMED_QUEUES_MAX], len(row.used_by) - NAMED_QUEUES_MAX
        return ", ".join(named) + (f" and {rest} more" if rest > 0 else "") or "no queue"

    @admin.display(description="changed", ordering="updated_at")
    def updated(self, row: Vault) -> str:
        return show_time(row.updated_at, "minute")


def _workers(vault: Vault) -> dict[str, Any]:
    """Return the workers that use a vault, and how many have its current values; `workers` is None while Redis is
    unavailable.
    """
    try:
        workers = list_vault_workers(get_broker(), vault.name)
    except BrokerUnavailable:
        return {"workers": None}
    return {"workers": workers, "current_count": sum(worker.is_current for worker in workers)}
