"""Takes a vault along in a file under a passphrase, and makes one from such a file."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.widgets import UnfoldAdminPasswordWidget

from runqy.errors import PassphraseRefused, RunqyError, VaultAlreadyExists, VaultInvalid
from runqy.staff.pages import StaffForm
from vaults.export_file import PASSPHRASE_MIN
from vaults.models import Vault
from vaults.queries import Outcome
from vaults.transfer import export_vault, import_vault, preview_import

if TYPE_CHECKING:
    from vaults.admin.vaults import VaultAdmin


def _passphrase(label: str, autocomplete: str, help_text: str = "") -> forms.CharField:
    """Return the field for a passphrase; it is never given back."""
    widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": autocomplete})
    return forms.CharField(label=label, strip=False, widget=widget, help_text=help_text)


class ExportForm(StaffForm):
    """The passphrase, twice."""

    passphrase = _passphrase(
        "Passphrase", "new-password", f"At least {PASSPHRASE_MIN} characters. Without it nobody opens the file."
    )
    again = _passphrase("Passphrase again", "new-password")

    def clean(self) -> dict[str, Any]:
        """Compare."""
        cleaned = super().clean() or self.cleaned_data
        if not self.errors and cleaned["passphrase"] != cleaned["again"]:
            self.add_error("again", "It is not the same passphrase.")
        return cleaned


class ImportForm(StaffForm):
    """The file, and what becomes of it."""

    file = forms.FileField(label="File", help_text="An export of a vault of any runqy server.")
    passphrase = _passphrase("Passphrase", "off", "The one that it was exported under.")
    name = forms.CharField(
        required=False, max_length=64, label="Name here", help_text="Leave it empty to keep the name in the file."
    )
    replace = forms.BooleanField(
        required=False,
        label="Replace",
        help_text="Make the vault of this name as the file says: entries that are not in the file are removed.",
    )


def export_view(page: "VaultAdmin", request: HttpRequest, vault: Vault) -> HttpResponse:
    """Ask for a passphrase; send the file."""
    form = ExportForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            content = export_vault(name=vault.name, passphrase=form.cleaned_data["passphrase"])
        except RunqyError as error:
            form.add_error("passphrase" if isinstance(error, PassphraseRefused) else None, list(error.errors))
        else:
            answer = HttpResponse(content, content_type="application/octet-stream")
            answer["Content-Disposition"] = f'attachment; filename="{vault.name}.runqy-vault"'
            answer["Cache-Control"] = "no-store"
            return answer
    context = {
        **page.admin_site.each_context(request),
        "title": f"Export {vault.name}",
        "opts": page.opts,
        "original": vault,
        "vault": vault,
        "form": form,
        "back_url": page.page_url(vault),
    }
    return TemplateResponse(request, "vaults/export.html", context)


def import_view(page: "VaultAdmin", request: HttpRequest) -> HttpResponse:
    """Ask for a file; say what it would do; do it."""
    form = ImportForm(request.POST or None, request.FILES or None)
    context: dict[str, Any] = {}
    if request.method == "POST" and form.is_valid():
        cleaned = form.cleaned_data
        known = {name: cleaned[name] for name in ("passphrase", "name")} | {"content": cleaned["file"].read()}
        try:
            if "apply" in request.POST:
                done = import_vault(**known, replace=cleaned["replace"])
                messages.success(request, f"The vault {done.vault} was imported.")
                return _done(request, page.page_url(Vault.objects.get(name=done.vault)))
            found = preview_import(**known)
            changing = [entry for entry in found.entries if entry.outcome != Outcome.UNCHANGED]
            context = {"found": found, "changing": len(changing), "replace": cleaned["replace"]}
        except RunqyError as error:
            form.add_error(_field_of(error), list(error.errors))
    context["form"] = form
    if "fragment" in request.POST:
        return TemplateResponse(request, "vaults/import_preview.html", context)
    context |= {
        **page.admin_site.each_context(request),
        "title": "Import a vault",
        "opts": page.opts,
        "back_url": reverse("admin:vaults_vault_changelist"),
    }
    return TemplateResponse(request, "vaults/import.html", context)


def _field_of(error: RunqyError) -> str | None:
    """Return the field that an error belongs to."""
    if isinstance(error, VaultAlreadyExists):
        return "replace"
    if error.code == "export_not_opened":
        return "passphrase"
    if error.code == "export_unreadable":
        return "file"
    return "name" if isinstance(error, VaultInvalid) else None


def _done(request: HttpRequest, url: str) -> HttpResponse:
    """Lead on; the page's script follows the header, for a redirect it would fetch."""
    if "fragment" in request.POST:
        return HttpResponse(headers={"X-Runqy-Location": url})
    return HttpResponseRedirect(url)
