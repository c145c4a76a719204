"""Pages of a vault beside its form: deletion, bulk edit, versions, deliveries."""

from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from runqy.errors import PreconditionFailed, RunqyError
from vaults import dotenv
from vaults.access_log import list_deliveries
from vaults.admin.forms import EnvForm
from vaults.models import Vault
from vaults.operations import compare_entries, delete_vault, set_entries
from vaults.queries import EntryPreview, PreviewOutcome, list_queues_by_vault, list_versions

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class QueueLink:
    """The name of a queue and the URL of its page; the URL is empty if the user may not view it."""

    name: str
    url: str


def queue_links(request: HttpRequest, names: list[str]) -> list[QueueLink]:
    """Return links to queues. Their app is above this one, so its pages are known by the names of their URLs only."""
    may_view = request.user.has_perm("queues.view_queue")
    return [QueueLink(name, reverse("admin:queues_queue_by_name", args=[name]) if may_view else "") for name in names]


def deletion_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, vault: Vault) -> HttpResponse:
    """Show which queues use a vault, and delete it if its name was entered."""
    error = ""
    if request.method == "POST":
        if request.POST.get("name", "").strip() == vault.name:
            return _delete(model_admin, request, vault)
        error = f"Enter {vault.name} to delete the vault."
    context = {
        **_context(model_admin, request, f"Delete the vault {vault.name}?", vault),
        "queues": queue_links(request, list_queues_by_vault().get(vault.name, [])),
        "error": error,
    }
    return TemplateResponse(request, "vaults/delete.html", context)


def bulk_edit_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, vault: Vault) -> HttpResponse:
    """Set many entries from pasted `KEY=value` lines, after a preview without values.

    The lines are only in the submitted form: no response, session or URL contains them.
    """
    context: dict[str, Any] = {"vault": vault, "back_url": vault_url(vault)}
    if request.method == "POST":
        pasted = dotenv.parse_env(request.POST.get("lines", ""))
        if "apply" in request.POST and not pasted.errors and pasted.values:
            context["refusals"] = _apply(request, vault, pasted)
            if not context["refusals"]:
                return _redirect(request, vault_url(vault))
            vault.refresh_from_db()
        context |= _preview(vault, pasted)
        if "fragment" in request.POST:
            return _no_store(TemplateResponse(request, "vaults/bulk_edit_preview.html", context))
    context |= {
        **_context(model_admin, request, f"Bulk edit of {vault.name}", vault),
        "form": EnvForm(),
        "is_sent": request.method == "POST",
    }
    return _no_store(TemplateResponse(request, "vaults/bulk_edit.html", context))


def _preview(vault: Vault, pasted: dotenv.ParsedEnv) -> dict[str, Any]:
    try:
        found = compare_entries(vault.name, pasted.values)
    except RunqyError as error:
        return {"refusals": error.errors}
    entries: list[tuple[int, EntryPreview]] = [(pasted.lines[entry.key], entry) for entry in found]
    changing = sum(entry.outcome in (PreviewOutcome.ADDED, PreviewOutcome.CHANGED) for entry in found)
    return {"entries": entries, "errors": pasted.errors, "changing": changing, "etag": vault.etag}


def _apply(request: HttpRequest, vault: Vault, pasted: dotenv.ParsedEnv) -> tuple[str, ...]:
    seen = request.POST.get("etag", "")

    def refuse_change(etag: str | None) -> None:
        if seen and etag != seen:
            raise PreconditionFailed("The vault has changed since the preview. Check the changes again.")

    try:
        changed = set_entries(vault=vault.name, values=pasted.values, precondition=refuse_change)
    except RunqyError as error:
        return error.errors
    count = len(changed)
    messages.success(request, f"{count} {'entry was' if count == 1 else 'entries were'} set in {vault.name}.")
    return ()


def versions_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, vault: Vault, key: str) -> HttpResponse:
    try:
        versions = list_versions(vault.name, key, before=_number(request, "before"), limit=PAGE_SIZE + 1)
    except RunqyError as error:
        messages.error(request, error.detail)
        return HttpResponseRedirect(vault_url(vault))
    context: dict[str, Any] = {
        **_context(model_admin, request, f"{vault.name}/{key}", vault),
        "versions": versions[:PAGE_SIZE],
        "older": versions[PAGE_SIZE - 1].pk if len(versions) > PAGE_SIZE else None,
    }
    return TemplateResponse(request, "vaults/versions.html", context)


def deliveries_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, vault: Vault) -> HttpResponse:
    """Show which worker received which versions, newest first."""
    worker = request.GET.get("worker", "").strip()
    found = list_deliveries(vault.name, limit=PAGE_SIZE, worker_id=worker, after=_number(request, "before"))
    context: dict[str, Any] = {
        **_context(model_admin, request, f"Deliveries of {vault.name}", vault),
        "worker": worker,
        "deliveries": found.deliveries,
        "older": found.end,
    }
    return TemplateResponse(request, "vaults/deliveries.html", context)


def _number(request: HttpRequest, parameter: str) -> int | None:
    text = request.GET.get(parameter, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _redirect(request: HttpRequest, url: str) -> HttpResponse:
    if "fragment" in request.POST:
        # The script follows this header. It would fetch a redirect itself.
        return HttpResponse(headers={"X-Runqy-Location": url})
    return HttpResponseRedirect(url)


def _no_store(response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    return response


def _delete(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, vault: Vault) -> HttpResponse:
    try:
        delete_vault(name=vault.name)
    except RunqyError as error:
        messages.error(request, error.detail)
        return HttpResponseRedirect(vault_url(vault))
    model_admin.log_deletions(request, [vault])  # type: ignore[arg-type]  # Django only iterates over it
    messages.success(request, f"The vault {vault.name} was deleted.")
    return HttpResponseRedirect(reverse("admin:vaults_vault_changelist"))


def vault_url(vault: Vault) -> str:
    return reverse("admin:vaults_vault_change", args=[vault.pk])


def _context(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, title: str, vault: Vault) -> dict[str, Any]:
    return {
        **model_admin.admin_site.each_context(request),
        "title": title,
        "opts": model_admin.opts,
        "original": vault,
        "vault": vault,
        "back_url": vault_url(vault),
    }
