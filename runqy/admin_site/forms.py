"""The login form."""

from typing import TYPE_CHECKING

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.models import User
from unfold.forms import AuthenticationForm

if TYPE_CHECKING:
    _Form = AdminAuthenticationForm
else:
    _Form = AuthenticationForm


class LoginForm(_Form):
    """Refuse user names that are too long. Django does not check the length, and PostgreSQL raises an error."""

    def clean_username(self) -> str:
        username: str = self.cleaned_data["username"]
        if len(username) > (User._meta.get_field("username").max_length or 0):
            raise self.get_invalid_login_error()
        return username
