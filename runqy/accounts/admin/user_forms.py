"""What staff say about users and groups."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth.models import Group, Permission, User
from django.http import HttpRequest
from unfold.forms import UserCreationForm

from runqy.accounts.staff import grantable_roles, may_grant, permissions_to_offer, problem_of_change, role_of
from runqy.staff.pages import StaffModelForm, dress

if TYPE_CHECKING:
    from django.contrib.auth import forms as auth_forms

    _UserCreationForm = auth_forms.UserCreationForm[User]
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField[Permission]
else:
    _UserCreationForm = UserCreationForm
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField

_AS_IT_IS = "as-it-is"
"""The role of a user whose groups are none of ours."""


class UserAddForm(_UserCreationForm):
    """A new user."""

    request: HttpRequest
    """Set by the admin: who may give which role."""
    usable_password = None
    role = forms.ChoiceField(widget=forms.RadioSelect)

    class Meta:
        model = User
        fields = ("username",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Offer the roles that may be given."""
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = _choices(self.request)  # type: ignore[attr-defined]
        dress(self)


class UserForm(StaffModelForm):
    """A user who exists."""

    request: HttpRequest
    instance: User
    role = forms.ChoiceField(widget=forms.RadioSelect)

    class Meta:
        model = User
        fields = ("username", "is_active")
        labels = {"is_active": "Active"}
        help_texts = {"is_active": "Whether they may enter. Deactivate people instead of deleting them."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Offer the roles that may be given, beside the one that the user has."""
        super().__init__(*args, **kwargs)
        role = role_of(self.instance)
        self.initial["role"] = role or _AS_IT_IS
        if "role" not in self.fields:  # a page that only shows a user
            return
        kept = [] if role else [(_AS_IT_IS, "as it is: permissions and groups of their own")]
        self.fields["role"].choices = [*_choices(self.request), *kept]  # type: ignore[attr-defined]
        dress(self)

    def clean(self) -> dict[str, Any]:
        """Refuse what would lock people out."""
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            problem = problem_of_change(
                self.request.user,  # type: ignore[arg-type]
                User.objects.get(pk=self.instance.pk),  # as it is stored, the form's own instance has the new values
                role="" if cleaned["role"] == _AS_IT_IS else cleaned["role"],
                is_active=cleaned["is_active"],
            )
            if problem:
                self.add_error("role" if cleaned["is_active"] else "is_active", problem)
        return cleaned

    @property
    def gives_role(self) -> bool:
        """Tell whether one of our roles was chosen."""
        return bool(self.cleaned_data["role"] != _AS_IT_IS)


class _PermissionsField(_ModelMultipleChoiceField):
    """Permissions, told as what they allow."""

    def label_from_instance(self, obj: Any) -> str:
        """Leave out the app and the model, which the name has."""
        return str(obj.name)


class GroupForm(StaffModelForm):
    """A group: nobody gives or takes permissions that they lack."""

    request: HttpRequest
    instance: Group

    class Meta:
        model = Group
        fields = ("name", "permissions")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Offer the permissions that pages look for, and what the group has beside them."""
        super().__init__(*args, **kwargs)
        if "permissions" in self.fields:
            self.fields["permissions"] = _PermissionsField(
                queryset=permissions_to_offer(self.instance), required=False, widget=forms.CheckboxSelectMultiple
            )
            dress(self)

    def clean_permissions(self) -> Any:
        """Refuse a change of permissions that the user lacks."""
        chosen = self.cleaned_data["permissions"]
        before = set(self.instance.permissions.all()) if self.instance.pk else set()
        changed = before.symmetric_difference(chosen)
        spelled = [f"{permission.content_type.app_label}.{permission.codename}" for permission in changed]
        if not may_grant(self.request.user, spelled):  # type: ignore[arg-type]
            raise forms.ValidationError("You can give and take only permissions that you have yourself.")
        return chosen


def _choices(request: HttpRequest) -> list[tuple[str, str]]:
    """Return the roles that may be given, in words."""
    roles = grantable_roles(request.user)  # type: ignore[arg-type]
    return [(name, f"{name}: {sentence}") for name, sentence in roles.items()]
