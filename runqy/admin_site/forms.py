"""The login form, and form fields for durations and sizes with a unit."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.models import User
from django.forms import Script
from unfold.forms import AuthenticationForm

from runqy.core.formats import durations, sizes

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


class LimitFormField(forms.CharField):
    """A limit that is entered with a unit. Empty for the server's default."""

    parse: Callable[[str], int]
    format: Callable[[int], str]

    def __init__(self, *, min_value: Any = None, max_value: Any = None, **options: Any) -> None:
        super().__init__(**options | {"empty_value": None, "widget": forms.TextInput(attrs={"autocomplete": "off"})})

    def prepare_value(self, value: Any) -> Any:
        return self.format(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> int | None:  # type: ignore[override]
        text = super().to_python(value)
        try:
            return None if text is None else self.parse(text)
        except ValueError as error:
            raise forms.ValidationError(f"{error}.") from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except forms.ValidationError:
            return True


class DurationFormField(LimitFormField):
    """A limit in seconds, entered as a duration such as 10m."""

    parse = staticmethod(durations.parse_s)
    format = staticmethod(durations.format_short)


class SizeFormField(LimitFormField):
    """A limit in bytes, entered as a size such as 1MiB."""

    parse = staticmethod(sizes.parse_bytes)
    format = staticmethod(sizes.format_short)
