"""What happened to an entry, and what workers were handed out of a vault."""

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from runqy.errors import RunqyError
from vaults.delivery_queries import list_deliveries
from vaults.models import Vault
from vaults.queries import list_versions

if TYPE_CHECKING:
    from vaults.admin.vaults import VaultAdmin

_PAGE = 50


def versions_view(page: "VaultAdmin", request: HttpRequest, vault: Vault, key: str) -> HttpResponse:
    """Show the versions of an entry, never a value."""
    try:
        versions = list_versions(vault.name, key, before=_number(request, "before"), limit=_PAGE + 1)
    except RunqyError as error:
        messages.error(request, error.detail)
        return HttpResponseRedirect(page.page_url(vault))
    context: dict[str, Any] = {
        **page.admin_site.each_context(request),
        "title": f"{vault.name}/{key}",
        "opts": page.opts,
        "original": vault,
        "versions": versions[:_PAGE],
        "older": versions[_PAGE - 1].pk if len(versions) > _PAGE else None,
        "back_url": page.page_url(vault),
    }
    return TemplateResponse(request, "vaults/versions.html", context)


def deliveries_view(page: "VaultAdmin", request: HttpRequest, vault: Vault) -> HttpResponse:
    """Show which worker was handed out which versions, the newest first."""
    worker = request.GET.get("worker", "").strip()
    found = list_deliveries(vault.name, limit=_PAGE, worker_id=worker, after=_number(request, "before"))
    context: dict[str, Any] = {
        **page.admin_site.each_context(request),
        "title": f"Deliveries of {vault.name}",
        "opts": page.opts,
        "original": vault,
        "worker": worker,
        "deliveries": found.deliveries,
        "older": found.end,
        "back_url": page.page_url(vault),
    }
    return TemplateResponse(request, "vaults/deliveries.html", context)


def _number(request: HttpRequest, parameter: str) -> int | None:
    """Return the number in a parameter, or None."""
    text = request.GET.get(parameter, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
