"""Pages of a vault beside its form: deletion, bulk edit, versions, deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.functional import cached_property
from django.views.decorators.cache import cache_control

from runqy.admin_site.views import AdminView
from runqy.errors import PreconditionFailed, RunqyError
from vaults import dotenv
from vaults.access_log import list_deliveries
from vaults.admin.forms import EnvForm
from vaults.models import EntryVersion, Vault, VaultDelivery
from vaults.operations import EntryPreview, PreviewOutcome, compare_entries, delete_vault, set_entries
from vaults.queries import list_queues_by_vault, list_versions

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class QueueLink:
    name: str
    url: str


class VaultView(AdminView):
    """A page of a vault."""

    @cached_property
    def vault(self) -> Vault:
        found = self.model_admin.get_object(self.request, unquote(self.kwargs["object_id"]))
        if found is None:
            raise Http404
        return cast("Vault", found)

    @property
    def vault_url(self) -> str:
        return reverse("admin:vaults_vault_change", args=[self.vault.pk])

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        vault = {"original": self.vault, "vault": self.vault, "back_url": self.vault_url}
        return super().get_context_data(**kwargs) | {"opts": self.model_admin.opts} | vault

    def before(self) -> int | None:
        """Return the id of the last row of the previous page, which has the newer rows."""
        text = self.request.GET.get("before", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def redirect_with(self, error: RunqyError) -> HttpResponse:
        messages.error(self.request, error.detail)
        return HttpResponseRedirect(self.vault_url)


class DeleteView(VaultView):
    """Which queues use a vault. A POST with the vault's name deletes it."""

    permission = "delete"
    template_name = "vaults/delete.html"

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        vault = self.vault
        if request.POST.get("name", "").strip() != vault.name:
            return self.render_to_response(self.get_context_data(error=f"Enter {vault.name} to delete the vault."))
        try:
            delete_vault(name=vault.name)
        except RunqyError as error:
            return self.redirect_with(error)
        self.model_admin.log_deletions(request, [vault])  # type: ignore[arg-type]  # Django only iterates over it
        messages.success(request, f"The vault {vault.name} was deleted.")
        return HttpResponseRedirect(reverse("admin:vaults_vault_changelist"))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        queues = queue_links(self.request, list_queues_by_vault().get(self.vault.name, []))
        title = f"Delete the vault {self.vault.name}?"
        return super().get_context_data(**kwargs) | {"title": title, "queues": queues}


@method_decorator(cache_control(no_store=True), name="dispatch")
class BulkEditView(VaultView):
    """Sets many entries from pasted `KEY=value` lines, after a preview without values.

    The lines are only in the submitted form: no response, session or URL contains them.
    """

    permission = "change"
    template_name = "vaults/bulk_edit.html"

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        pasted = dotenv.parse_env(request.POST.get("lines", ""))
        refusals: tuple[str, ...] = ()
        if "apply" in request.POST and not pasted.errors and pasted.values:
            refusals = self._apply(pasted)
            if not refusals:
                return self._redirect()
            self.vault.refresh_from_db()
        preview = {"refusals": refusals} | self._preview(pasted)
        if "fragment" in request.POST:
            self.template_name = "vaults/bulk_edit_preview.html"
        return self.render_to_response(self.get_context_data(is_sent=True, **preview))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        title = f"Bulk edit of {self.vault.name}"
        return super().get_context_data(**kwargs) | {"title": title, "form": EnvForm()}

    def _preview(self, pasted: dotenv.ParsedEnv) -> dict[str, Any]:
        try:
            found = compare_entries(self.vault.name, pasted.values)
        except RunqyError as error:
            return {"refusals": error.errors}
        entries: list[tuple[int, EntryPreview]] = [(pasted.lines[entry.key], entry) for entry in found]
        changing = sum(entry.outcome in (PreviewOutcome.ADDED, PreviewOutcome.CHANGED) for entry in found)
        return {"entries": entries, "errors": pasted.errors, "changing": changing, "etag": self.vault.etag}

    def _apply(self, pasted: dotenv.ParsedEnv) -> tuple[str, ...]:
        """Set the entries; return why they were refused."""
        seen = self.request.POST.get("etag", "")

        def refuse_change(etag: str | None) -> None:
            if seen and etag != seen:
                raise PreconditionFailed("The vault has changed since the preview. Check the changes again.")

        try:
            changed = set_entries(
                vault=self.vault.name,
                values=pasted.values,
                replaces_at_once="replaces_at_once" in self.request.POST,
                precondition=refuse_change,
            )
        except RunqyError as error:
            return error.errors
        were_set = "1 entry was" if len(changed) == 1 else f"{len(changed)} entries were"
        messages.success(self.request, f"{were_set} set in {self.vault.name}.")
        return ()

    def _redirect(self) -> HttpResponse:
        if "fragment" in self.request.POST:
            # The script follows this header. It would fetch a redirect itself.
            return HttpResponse(headers={"X-Runqy-Location": self.vault_url})
        return HttpResponseRedirect(self.vault_url)


class VersionsView(VaultView):
    """The versions of an entry, newest first."""

    template_name = "vaults/versions.html"

    def get(self, request: HttpRequest, object_id: str, key: str) -> HttpResponse:
        try:
            versions = list_versions(self.vault.name, key, before=self.before(), limit=PAGE_SIZE + 1)
        except RunqyError as error:
            return self.redirect_with(error)
        context = self.get_context_data(versions=versions[:PAGE_SIZE], older=_older(versions))
        return self.render_to_response(context | {"title": f"{self.vault.name}/{key}"})


class DeliveriesView(VaultView):
    """Which worker received which versions, newest first."""

    template_name = "vaults/deliveries.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        name, worker = self.vault.name, self.request.GET.get("worker", "").strip()
        found = list_deliveries(name, worker_id=worker, before=self.before(), limit=PAGE_SIZE + 1)
        shown = {"worker": worker, "deliveries": found[:PAGE_SIZE], "older": _older(found)}
        return super().get_context_data(**kwargs) | {"title": f"Deliveries of {name}"} | shown


def _older(rows: Sequence[EntryVersion] | Sequence[VaultDelivery]) -> int | None:
    """Return the id after which the next page begins; None if these are the last rows."""
    return rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None


def queue_links(request: HttpRequest, names: list[str]) -> list[QueueLink]:
    """Return links to queues. Their app is above this one, so its pages are known by the names of their URLs only."""
    may_view = request.user.has_perm("queues.view_queue")
    return [QueueLink(name, reverse("admin:queues_queue_by_name", args=[name]) if may_view else "") for name in names]
