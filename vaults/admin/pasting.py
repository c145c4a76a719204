"""Sets many entries from pasted lines: shows first what would change, never a value.

The lines travel only in the form's own posts. The page previews and applies them from where they stand in the
browser, so that no answer, session or address has to carry them.
"""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from runqy.errors import PreconditionFailed, RunqyError
from runqy.staff.pages import StaffForm
from vaults import dotenv
from vaults.admin.entries import ValueInput
from vaults.models import Vault
from vaults.operations import compare_entries, set_entries
from vaults.queries import EntryPreview, Outcome

if TYPE_CHECKING:
    from vaults.admin.vaults import VaultAdmin


class PasteForm(StaffForm):
    """The lines; they are never given back."""

    lines = forms.CharField(strip=False, required=False, label="Lines", widget=ValueInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make room."""
        super().__init__(*args, **kwargs)
        self.fields["lines"].widget.attrs |= {
            "rows": 12,
            "placeholder": 'API_TOKEN=…\nexport PRIVATE_KEY="-----BEGIN …',
        }


def paste_view(page: "VaultAdmin", request: HttpRequest, vault: Vault) -> HttpResponse:
    """Show the form; say what its lines would change; change it."""
    context: dict[str, Any] = {"vault": vault, "back_url": page.page_url(vault)}
    if request.method == "POST":
        pasted = dotenv.parse(request.POST.get("lines", ""))
        if "apply" in request.POST and not pasted.problems and pasted.values:
            context["refusals"] = _apply(request, vault, pasted)
            if not context["refusals"]:
                return _done(request, page.page_url(vault))
            vault.refresh_from_db()
        context |= _preview(vault, pasted)
        if "fragment" in request.POST:
            return _unkept(TemplateResponse(request, "vaults/paste_preview.html", context))
    context |= {
        **page.admin_site.each_context(request),
        "title": f"Paste lines into {vault.name}",
        "opts": page.opts,
        "original": vault,
        "form": PasteForm(),
        "is_sent": request.method == "POST",
    }
    return _unkept(TemplateResponse(request, "vaults/paste.html", context))


def _preview(vault: Vault, pasted: dotenv.Pasted) -> dict[str, Any]:
    """Return what the lines would change; what is wrong with them instead where something is."""
    try:
        found = compare_entries(vault.name, pasted.values)
    except RunqyError as error:
        return {"refusals": error.errors}
    entries: list[tuple[int, EntryPreview]] = [(pasted.lines[entry.key], entry) for entry in found]
    changing = sum(entry.outcome in (Outcome.ADDED, Outcome.CHANGED) for entry in found)
    return {"entries": entries, "problems": pasted.problems, "changing": changing, "etag": vault.etag}


def _apply(request: HttpRequest, vault: Vault, pasted: dotenv.Pasted) -> tuple[str, ...]:
    """Set the entries; return why not."""
    seen = request.POST.get("etag", "")

    def check(etag: str) -> None:
        if seen and etag != seen:
            raise PreconditionFailed("The vault has changed since the preview; look again at what would change.")

    try:
        changed = set_entries(vault=vault.name, values=pasted.values, check=check)
    except RunqyError as error:
        return error.errors
    count = len(changed)
    messages.success(request, f"{count} {'entry was' if count == 1 else 'entries were'} set in {vault.name}.")
    return ()


def _done(request: HttpRequest, url: str) -> HttpResponse:
    """Lead on; the page's script follows the header, for a redirect it would fetch."""
    if "fragment" in request.POST:
        return HttpResponse(headers={"X-Runqy-Location": url})
    return HttpResponseRedirect(url)


def _unkept(answer: HttpResponse) -> HttpResponse:
    """Keep an answer out of caches."""
    answer["Cache-Control"] = "no-store"
    return answer
