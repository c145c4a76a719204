"""The pages of vaults: a list, and one page for each with its entries and who uses it."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.decorators import action

from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable, RunqyError, VaultAlreadyExists
from runqy.publication.saving import PublishedModelAdmin
from runqy.staff.pages import StaffModelForm
from vaults.admin.entries import EntryInline
from vaults.admin.links import queue_links
from vaults.admin.pasting import paste_view
from vaults.admin.records import deliveries_view, versions_view
from vaults.admin.transfer import export_view, import_view
from vaults.delivery_queries import vault_holders
from vaults.models import Vault
from vaults.names import problem_of_vault_name
from vaults.operations import create_vault, delete_vault, describe_vault
from vaults.queries import is_unlocked, problems_of_vault, queues_of_vaults

_MOST_NAMED = 3


class VaultForm(StaffModelForm):
    """The name and description of a vault."""

    class Meta:
        model = Vault
        fields = ("name", "description")
        widgets = {"description": forms.Textarea(attrs={"rows": 2})}
        help_texts = {
            "name": "Queues name it among their vaults. It cannot be changed later.",
            "description": "For people: what is in it, who keeps it.",
        }

    def clean_name(self) -> str:
        """Check the name by the rules of vaults."""
        name: str = self.cleaned_data["name"]
        if problem := problem_of_vault_name(name):
            raise forms.ValidationError(f"{problem[:1].upper()}{problem[1:]}.")
        return name


class VaultList(ChangeList):
    """Vaults with the queues that use them, asked for once."""

    def get_results(self, request: HttpRequest) -> None:
        """Add the queues to each row."""
        super().get_results(request)
        used_by = queues_of_vaults()
        self.result_list = list(self.result_list)
        for vault in self.result_list:
            vault.used_by = used_by.get(vault.name, [])


@admin.register(Vault)
class VaultAdmin(PublishedModelAdmin):
    """Vaults: saving and deleting goes through the operations."""

    form = VaultForm
    audit_kind = "vault"
    refused_fields = {VaultAlreadyExists: "name"}
    fields = ("name", "description")
    inlines = (EntryInline,)
    list_display = ("name", "description_begin", "entry_count", "queues", "updated")
    list_before_template = "vaults/above_list.html"
    change_form_outer_before_template = "vaults/above_vault.html"
    change_form_outer_after_template = "vaults/below_vault.html"
    search_fields = ("name", "description")
    search_help_text = "Name or description"
    empty_says = "Make one, put secrets into it, and name it among a queue's vaults: its workers get them."
    show_full_result_count = True
    actions = None
    actions_list = ("import_vault",)
    actions_detail = ("paste", "deliveries", "export")

    class Media:
        css = {"all": ("vaults/vaults.css",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Count the entries."""
        counted: QuerySet[Any] = super().get_queryset(request).annotate(counted=Count("entries"))
        return counted

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Add the queues."""
        return VaultList

    def get_urls(self) -> list[URLPattern]:
        """Add the versions of an entry."""
        versions = self.admin_site.admin_view(self.versions)
        own = [path("<path:object_id>/entries/<str:key>/", versions, name="vaults_vault_versions")]
        return [*own, *super().get_urls()]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Keep the name, to which the ciphertexts are bound."""
        return ("name",) if obj else ()

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Say when vaults are locked."""
        return super().changelist_view(request, {"is_locked": not is_unlocked()} | (extra_context or {}))

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Add what does not open, who uses the vault, and which workers have its values."""
        context["is_locked"] = not is_unlocked()
        if vault := context.get("original"):
            context["unopened"] = [] if context["is_locked"] else problems_of_vault(vault)
            context |= {"used_by": queue_links(request, queues_of_vaults().get(vault.name, [])), **_holders(vault)}
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Create the vault, or change its description."""
        if change:
            describe_vault(name=obj.name, description=obj.description)
        else:
            obj.pk = create_vault(name=obj.name, description=obj.description).pk

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Set and delete entries."""
        formset.save(commit=False)  # notes what changed, for the history
        for entry_form in formset.forms:
            entry_form.apply(form.instance.name)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Say which queues would stop, and ask for the vault's name."""
        vault = self.require(request, object_id, "delete")
        problem = ""
        if request.method == "POST":
            if request.POST.get("name", "").strip() == vault.name:
                return self._deleted(request, vault)
            problem = f"Enter {vault.name} to delete it."
        context = {
            **self.admin_site.each_context(request),
            "title": f"Delete the vault {vault.name}?",
            "opts": self.opts,
            "original": vault,
            "vault": vault,
            "queues": queue_links(request, queues_of_vaults().get(vault.name, [])),
            "problem": problem,
            "back_url": self.page_url(vault),
        }
        return TemplateResponse(request, "vaults/delete.html", context)

    def _deleted(self, request: HttpRequest, vault: Vault) -> HttpResponse:
        """Delete a vault."""
        try:
            delete_vault(name=vault.name)
        except RunqyError as error:
            messages.error(request, error.detail)
            return HttpResponseRedirect(self.page_url(vault))
        self.log_deletions(request, [vault])  # type: ignore[arg-type]
        messages.success(request, f"The vault {vault.name} is deleted.")
        return HttpResponseRedirect(reverse("admin:vaults_vault_changelist"))

    @action(description="Paste lines", icon="content_paste", permissions=["change"], url_path="paste")  # type: ignore[untyped-decorator]
    def paste(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Set many entries at once."""
        return paste_view(self, request, self.require(request, object_id, "change"))

    @action(description="Deliveries", icon="local_shipping", permissions=["view"], url_path="deliveries")  # type: ignore[untyped-decorator]
    def deliveries(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show which worker was handed out what."""
        return deliveries_view(self, request, self.require(request, object_id, "view"))

    @action(description="Export", icon="download", permissions=["export"], url_path="export")  # type: ignore[untyped-decorator]
    def export(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Take the vault along, under a passphrase."""
        return export_view(self, request, self.require(request, object_id, "export"))

    @action(description="Import", icon="upload", permissions=["import"], url_path="import")  # type: ignore[untyped-decorator]
    def import_vault(self, request: HttpRequest) -> HttpResponse:
        """Make a vault from an export."""
        return import_view(self, request)

    def has_export_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Let only those export who may have every value."""
        return request.user.has_perm("vaults.export_vault")

    def has_import_permission(self, request: HttpRequest) -> bool:
        """Let those import who may add and change vaults: an import may replace one."""
        return request.user.has_perms(["vaults.add_vault", "vaults.change_vault"])

    def versions(self, request: HttpRequest, object_id: str, key: str) -> HttpResponse:
        """Show what happened to an entry."""
        return versions_view(self, request, self.require(request, object_id, "view"), key)

    def require(self, request: HttpRequest, object_id: str, verb: str) -> Vault:
        """Return a vault that the user may use in a way. Raises PermissionDenied, also where there is none."""
        vault: Any = self.get_object(request, unquote(object_id))
        if vault is None or not getattr(self, f"has_{verb}_permission")(request, vault):
            raise PermissionDenied
        return vault  # type: ignore[no-any-return]

    def page_url(self, vault: Vault) -> str:
        """Return the path of a vault's page."""
        return reverse("admin:vaults_vault_change", args=[vault.pk])

    @admin.display(description="description", ordering="description")
    def description_begin(self, row: Vault) -> str:
        """Return the first words."""
        words = " ".join(row.description.split())
        return words if len(words) <= 60 else f"{words[:60]}…"

    @admin.display(description="entries", ordering="counted")
    def entry_count(self, row: Any) -> int:
        """Return how many there are."""
        count: int = row.counted
        return count

    @admin.display(description="used by")
    def queues(self, row: Any) -> str:
        """Return the queues that use it, the first few by name."""
        named, rest = row.used_by[:_MOST_NAMED], len(row.used_by) - _MOST_NAMED
        return ", ".join(named) + (f" and {rest} more" if rest > 0 else "") or "no queue"

    @admin.display(description="changed (UTC)", ordering="updated_at")
    def updated(self, row: Vault) -> str:
        """Return the minute."""
        return f"{row.updated_at:%Y-%m-%d %H:%M}"


def _holders(vault: Vault) -> dict[str, Any]:
    """Return the workers that use a vault, and how many have its current values; nothing while Redis is away."""
    try:
        holders = vault_holders(get_broker(), vault.name)
    except BrokerUnavailable:
        return {"holders": None}
    return {"holders": holders, "current_count": sum(holder.is_current for holder in holders)}
