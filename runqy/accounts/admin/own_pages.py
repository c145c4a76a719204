"""The pages of a user's own: what they choose for themselves, and their API keys with at most their rights."""

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.forms import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse

from runqy.accounts.admin.key_forms import LIFETIMES, ON_A_DAY, ROLES, ApiKeyForm
from runqy.accounts.admin.keys import ApiKeyAdmin, get_server_url
from runqy.accounts.models import ApiKey, UserSettings
from runqy.accounts.operations import create_api_key
from runqy.accounts.queries import list_personal_keys
from runqy.accounts.users import find_time_zone, list_key_roles, save_time_zone
from runqy.admin_site.base_admin import StyledModelForm
from runqy.core.formats.timestamps import list_zones
from runqy.errors import ApiKeyInvalid


class OwnSettingsForm(StyledModelForm):
    """The time zone."""

    class Meta:
        model = UserSettings
        fields = ("time_zone",)
        # Browsers search the list of the page for what is typed.
        widgets = {"time_zone": forms.TextInput({"list": "time-zones", "autocomplete": "off", "spellcheck": "false"})}

    class Media:
        js = (Script("admin_site/time_zone.js", defer=True),)


def own_settings(request: HttpRequest) -> HttpResponse:
    """Show and save what the user chose."""
    user: Any = request.user
    form = OwnSettingsForm(request.POST or None, initial={"time_zone": find_time_zone(user) or "UTC"})
    if request.method == "POST" and form.is_valid():
        save_time_zone(user, form.cleaned_data["time_zone"])
        messages.success(request, f"Times are in {form.cleaned_data['time_zone']}.")
        return HttpResponseRedirect(reverse("admin_own_settings"))
    context = {**admin.site.each_context(request), "title": "My settings", "form": form, "zones": list_zones()}
    return TemplateResponse(request, "accounts/own_settings.html", context)


_URL_NAME = "admin_own_keys"


def _key_pages() -> ApiKeyAdmin:
    return cast(ApiKeyAdmin, admin.site.get_model_admin(ApiKey))


class OwnKeyForm(ApiKeyForm):
    """A new key of a user's own."""

    class Meta(ApiKeyForm.Meta):
        fields = ("name", "role")
        help_texts = {"name": "Where you use the key, such as “laptop”. The audit shows your name before it."}

    def __init__(self, *args: Any, user: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("queues", "vaults", "last_day"):
            del self.fields[name]
        roles = list_key_roles(user)
        role = self.fields["role"]
        role.choices = [(each.value, f"{each.value}: {ROLES[each]}") for each in reversed(roles)]  # type: ignore[attr-defined]
        role.initial = roles[-1].value if roles else None
        lifetimes = [(value, label) for value, label in LIFETIMES.items() if value != ON_A_DAY]
        self.fields["lifetime"].choices = lifetimes  # type: ignore[attr-defined]


def own_keys(request: HttpRequest) -> HttpResponse:
    """List the user's own keys, and create one."""
    user: Any = request.user
    form = OwnKeyForm(request.POST or None, user=user)
    if request.method == "POST" and form.is_valid():
        values = {name: form.cleaned_data[name] for name in ("name", "role", "expires_at")}
        try:
            created = create_api_key(**values, is_personal=True)
        except ApiKeyInvalid as error:
            form.add_error(None, error.detail)
        else:
            url = reverse(_URL_NAME)
            return _key_pages().show_created(request, created, page_url=url, list_url=url)
    context = {
        **admin.site.each_context(request),
        "title": "My API keys",
        "form": form,
        "keys": _key_pages().describe(list_personal_keys(user)),
        "server": get_server_url(request),
    }
    return TemplateResponse(request, "accounts/own_keys.html", context)


def revoke_own_key(request: HttpRequest, key_id: int) -> HttpResponse:
    """Revoke a key of the user's own after confirmation."""
    key = get_object_or_404(ApiKey, pk=key_id, is_personal=True, created_by_user=request.user)
    return _key_pages().revoke_confirmed(request, [key], reverse(_URL_NAME))
