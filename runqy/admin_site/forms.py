"""The login form."""

from typing import TYPE_CHECKING

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.models import User
from django.forms import Script
from unfold.forms import AuthenticationForm

if TYPE_CHECKING:
    _Form = AdminAuthenticationForm
else:
    _Form = AuthenticationForm


class LoginForm(_Form):
    """Refuse user names that are too long. Django does not check the length, and PostgreSQL raises an error."""

    # The theme's template renders the other fields only: this one stands outside of its form.
    time_zone = forms.CharField(
        required=False, widget=forms.HiddenInput({"form": "login-form", "data-browser-zone": True})
    )

    class Media:
        js = (Script("admin_site/time_zone.js", defer=True),)

    def clean_username(self) -> str:
        username: str = self.cleaned_data["username"]
        if len(username) > (User._meta.get_field("username").max_length or 0):
            raise self.get_invalid_login_error()
        return username
