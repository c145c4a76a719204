"""The page of what users choose for themselves."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.forms import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from runqy.accounts.models import UserSettings
from runqy.accounts.user_settings import find_time_zone, save_time_zone
from runqy.admin_site.base_admin import StyledModelForm
from runqy.core.formats.time_zones import list_zones


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
