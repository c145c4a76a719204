"""Users and groups in the admin: lists, forms, and audit records of the changes."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.forms import AdminPasswordChangeForm, UserCreationForm

from runqy.accounts.logins import delete_sessions, log_out_everywhere
from runqy.accounts.operations import end_personal_keys, rename_personal_keys
from runqy.accounts.queries import list_accepted_keys_of
from runqy.accounts.users import (
    SUPERUSER,
    assign_role,
    get_role,
    grantable_roles,
    list_assignable_permissions,
    may_grant,
    may_manage,
    validate_role_change,
    validate_user_deletion,
)
from runqy.admin_site.base_admin import StyledModelForm, style_form
from runqy.admin_site.roles import ROLES
from runqy.admin_site.times import show_time
from runqy.audit.history import AuditedModelAdmin
from runqy.audit.operations import REDACTED, Changes, diff, record

if TYPE_CHECKING:
    from django.contrib.auth import forms as auth_forms

    _UserCreationForm = auth_forms.UserCreationForm[User]
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField[Permission]
else:
    _UserCreationForm = UserCreationForm
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField

_UNCHANGED = "as-it-is"
"""The choice that keeps permissions and groups of a user without a role."""
_MAKES_KEYS, _REVOKES_KEYS = "accounts.add_apikey", "accounts.change_apikey"


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


class AuditedAdmin(AuditedModelAdmin):
    """An admin of users or groups that records changes. Each request is one transaction."""

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change=change, **kwargs)  # a new class for each request
        form.request = request
        return form

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        old = {name: _plain(form.initial.get(name)) for name in form.changed_data}
        new = {name: _plain(form.cleaned_data.get(name)) for name in form.changed_data}
        secrets = [name for name in form.changed_data if "password" in name]
        if changes := diff(old, new, secrets=secrets):
            _record(form.instance, "updated" if change else "created", changes)
        end_personal_keys()

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        _record(obj, "deleted", {})
        super().delete_model(request, obj)
        end_personal_keys()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        with transaction.atomic():
            # One by one: a bulk deletion would record nothing.
            for row in queryset:
                self.delete_model(request, row)


def audited_password_change(get_user: Callable[[], Any], view: Callable[[], HttpResponse]) -> HttpResponse:
    """Call the view of a password form. A redirect means that it succeeded, and is recorded."""
    with transaction.atomic():
        response = view()
        if isinstance(response, HttpResponseRedirect):
            _record(get_user(), "updated", {"password": REDACTED})
    return response


def _record(row: Model, verb: str, changes: Changes) -> None:
    kind = str(row._meta.model_name)
    record(action=f"{kind}.{verb}", object_kind=kind, object_name=str(row), changes=changes)


def _plain(value: object) -> object:
    """Return a form's value as JSON can hold it: rows by their names."""
    if isinstance(value, (list, tuple, set, QuerySet)):
        return sorted(str(item) for item in value)
    return value


_ROLE_NAMES = tuple(role.name for role in ROLES)
_manageable: WeakKeyDictionary[HttpRequest, dict[Any, bool]] = WeakKeyDictionary()
"""Whether the user of a request may manage each user, by primary key. Weak: it ends with the request."""


class RoleFilter(admin.SimpleListFilter):
    """Filter users by their role."""

    title, parameter_name = "role", "role"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in (*_ROLE_NAMES, SUPERUSER)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if wanted in _ROLE_NAMES:
            return queryset.filter(Q(is_superuser=False), groups__name=wanted)
        return queryset.filter(is_superuser=True) if wanted == SUPERUSER else queryset


class AuditedUserAdmin(UserAdmin, AuditedAdmin):  # type: ignore[type-arg, misc]
    """Users, with a name, a role and a password."""

    form = UserForm
    add_form = UserAddForm
    change_password_form = AdminPasswordChangeForm
    add_form_template = "admin/change_form.html"  # Django's template announces more options after saving
    show_full_result_count = True
    audit_kind, audit_field = "user", "username"
    list_display = ("username", "role", "is_active", "last_login_time", "since")
    list_filter = (RoleFilter, "is_active")
    search_fields = ("username",)
    search_help_text = "Name"
    filter_horizontal = ()
    fieldsets = ((None, {"fields": ("username", "role", "is_active", "password_link", "last_login_time", "since")}),)
    add_fieldsets = ((None, {"fields": ("username", "role", "password1", "password2")}),)
    readonly_fields = ("password_link", "last_login_time", "since")
    actions_detail = ("log_out",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None or self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        return ((None, {"fields": ("username", "role_label", "is_active", "last_login_time", "since")}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return () if obj is None else (*self.readonly_fields, "role_label")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse users who have more permissions. Cached, because a page asks many times for each user."""
        if obj is None or not super().has_change_permission(request, obj):
            return super().has_change_permission(request, obj)
        manageable = _manageable.setdefault(request, {})
        if obj.pk not in manageable:
            manageable[obj.pk] = may_manage(request.user, obj)  # type: ignore[arg-type]
        return manageable[obj.pk]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save the user, who always gets access to the admin, and assign the role."""
        before = User.objects.filter(pk=obj.pk).first()
        could_make_keys = before is not None and before.has_perm(_MAKES_KEYS)
        if not change or form.gives_role:
            obj.is_staff, obj.is_superuser = True, form.cleaned_data["role"] == SUPERUSER
        super().save_model(request, obj, form, change)
        if not change or form.gives_role:
            assign_role(obj, form.cleaned_data["role"])
        if before is not None:
            after = User.objects.get(pk=obj.pk)  # a new object, without cached permissions
            is_deactivated = before.is_active and not after.is_active
            if is_deactivated:
                delete_sessions(after)  # else they become valid again when the user is activated again
            if before.username != after.username:
                rename_personal_keys(after)
            end_personal_keys()
            if is_deactivated or (could_make_keys and not after.has_perm(_MAKES_KEYS)):
                _report_keys(request, after)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        deletable, counts, lacking, protected = super().get_deleted_objects(objs, request)
        refused = [problem for user in objs if (problem := validate_user_deletion(request.user, user))]  # type: ignore[arg-type]
        return deletable, counts, lacking, [*protected, *refused]

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        # Again, under the lock of all admins: another one may have been deleted since the page was shown.
        if validate_user_deletion(request.user, obj):  # type: ignore[arg-type]
            raise PermissionDenied
        delete_sessions(obj)
        super().delete_model(request, obj)
        _report_keys(request, obj)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        view = partial(super().user_change_password, request, id, form_url)
        return audited_password_change(lambda: User.objects.get(pk=id), view)

    def has_log_out_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.has_change_permission(request, self.get_object(request, unquote(str(object_id))))

    @action(  # type: ignore[untyped-decorator]
        description="Log out everywhere", icon="logout", permissions=["log_out"], url_path="log-out-everywhere"
    )
    def log_out(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """End all sessions of the user of the page after confirmation."""
        user: Any = self.get_object(request, unquote(object_id))
        if user is None:
            raise PermissionDenied
        return _log_out_everywhere(request, user, back_url=reverse("admin:auth_user_change", args=[user.pk]))

    @admin.display(description="role")
    def role(self, row: User) -> str:
        name = get_role(row)
        context = {"text": name or "own permissions", "variant": "primary" if name in ("admin", SUPERUSER) else ""}
        return render_to_string("unfold/helpers/label.html", context)

    @admin.display(description="role")
    def role_label(self, row: User) -> str:
        return self.role(row)

    @admin.display(description="password")
    def password_link(self, row: User) -> str:
        return render_to_string("accounts/password_link.html", {"has_password": row.has_usable_password()})

    @admin.display(description="last login", ordering="last_login")
    def last_login_time(self, row: User) -> str:
        return show_time(row.last_login, "minute") or "never"

    @admin.display(description="since", ordering="date_joined")
    def since(self, row: User) -> str:
        return show_time(row.date_joined, "day")


class AuditedGroupAdmin(GroupAdmin, AuditedAdmin):
    """Groups. Those of roles cannot be renamed or deleted."""

    form = GroupForm  # type: ignore[assignment]
    audit_kind = "group"
    filter_horizontal = ()
    fields = ("name", "permissions")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("name",) if obj and obj.name in _ROLE_NAMES else ()

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        deletable, counts, lacking, protected = super().get_deleted_objects(objs, request)
        kept = [f"{group} is a role of runqy." for group in objs if group.name in _ROLE_NAMES]
        return deletable, counts, lacking, [*protected, *kept]


def change_own_password(request: HttpRequest) -> HttpResponse:
    return audited_password_change(lambda: request.user, partial(admin.site.password_change, request))


def log_out_own_sessions(request: HttpRequest) -> HttpResponse:
    """End all of the user's own sessions after confirmation."""
    return _log_out_everywhere(request, request.user, back_url=reverse("admin:index"))  # type: ignore[arg-type]


def _log_out_everywhere(request: HttpRequest, user: User, *, back_url: str) -> HttpResponse:
    if request.method != "POST":
        context = {**admin.site.each_context(request), "title": "Log out everywhere?", "back_url": back_url}
        return TemplateResponse(request, "accounts/log_out_everywhere.html", context | {"subject": user})
    log_out_everywhere(user)
    if user == request.user:
        return admin.site.logout(request)
    messages.success(request, f"{user} is logged out everywhere.")
    return HttpResponseRedirect(back_url)


def _report_keys(request: HttpRequest, user: User) -> None:
    """List the keys of a user that are still accepted, for a user who can no longer create any, and offer to revoke
    them.
    """
    if keys := list_accepted_keys_of(user.get_username()):
        context = {"user": user.get_username(), "keys": keys, "may_revoke": request.user.has_perm(_REVOKES_KEYS)}
        messages.warning(request, render_to_string("accounts/keys_of_user.html", context))
