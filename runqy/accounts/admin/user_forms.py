"""Forms of users and groups."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth.models import Group, Permission, User
from django.http import HttpRequest
from unfold.forms import UserCreationForm

from runqy.accounts.staff_rules import (
    get_role,
    grantable_roles,
    list_assignable_permissions,
    may_grant,
    validate_role_change,
)
from runqy.admin_site.base_admin import StyledModelForm, style_form

if TYPE_CHECKING:
    from django.contrib.auth import forms as auth_forms

    _UserCreationForm = auth_forms.UserCreationForm[User]
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField[Permission]
else:
    _UserCreationForm = UserCreationForm
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField

_UNCHANGED = "as-it-is"
"""The choice that keeps permissions and groups of a user without a role."""


class UserAddForm(_UserCreationForm):
    """A new user."""

    request: HttpRequest
    """Set by the admin. Its user determines which roles can be chosen."""
    usable_password = None
    role = forms.ChoiceField(widget=forms.RadioSelect)

    class Meta:
        model = User
        fields = ("username",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = _choices(self.request)  # type: ignore[attr-defined]
        style_form(self)


class UserForm(StyledModelForm):
    """An existing user."""

    request: HttpRequest
    instance: User
    role = forms.ChoiceField(widget=forms.RadioSelect)

    class Meta:
        model = User
        fields = ("username", "is_active")
        labels = {"is_active": "Active"}
        help_texts = {"is_active": "Whether the user may log in. Deactivate users instead of deleting them."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        role = get_role(self.instance)
        self.initial["role"] = role or _UNCHANGED
        if "role" not in self.fields:  # a read-only page
            return
        kept = [] if role else [(_UNCHANGED, "unchanged: own permissions and groups")]
        self.fields["role"].choices = [*_choices(self.request), *kept]  # type: ignore[attr-defined]
        style_form(self)

    def clean(self) -> dict[str, Any]:
        """Refuse a change that would lock users out of the admin."""
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            problem = validate_role_change(
                self.request.user,  # type: ignore[arg-type]
                User.objects.get(pk=self.instance.pk),  # as stored: the form's instance has the new values
                role="" if cleaned["role"] == _UNCHANGED else cleaned["role"],
                is_active=cleaned["is_active"],
            )
            if problem:
                self.add_error("role" if cleaned["is_active"] else "is_active", problem)
        return cleaned

    @property
    def gives_role(self) -> bool:
        return bool(self.cleaned_data["role"] != _UNCHANGED)


class _PermissionsField(_ModelMultipleChoiceField):
    """Permissions, labelled by their names."""

    def label_from_instance(self, obj: Any) -> str:
        return str(obj.name)


class GroupForm(StyledModelForm):
    """A group. Users can add and remove only permissions that they have."""

    request: HttpRequest
    instance: Group

    class Meta:
        model = Group
        fields = ("name", "permissions")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "permissions" in self.fields:
            self.fields["permissions"] = _PermissionsField(
                queryset=list_assignable_permissions(self.instance), required=False, widget=forms.CheckboxSelectMultiple
            )
            style_form(self)

    def clean_permissions(self) -> Any:
        """Refuse to add or remove permissions that the user lacks."""
        chosen = self.cleaned_data["permissions"]
        before = set(self.instance.permissions.all()) if self.instance.pk else set()
        changed = before.symmetric_difference(chosen)
        spelled = [f"{permission.content_type.app_label}.{permission.codename}" for permission in changed]
        if not may_grant(self.request.user, spelled):  # type: ignore[arg-type]
            raise forms.ValidationError("You can add and remove only permissions that you have yourself.")
        return chosen


def _choices(request: HttpRequest) -> list[tuple[str, str]]:
    roles = grantable_roles(request.user)  # type: ignore[arg-type]
    return [(name, f"{name}: {text}") for name, text in roles.items()]
