"""Users and groups in the admin, each change on record."""

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from unfold.forms import AdminPasswordChangeForm

from runqy.accounts.admin.recorded import RecordedAdmin, recorded_password
from runqy.accounts.admin.user_forms import GroupForm, UserAddForm, UserForm
from runqy.accounts.staff import SUPERUSER, give_role, may_manage, problem_of_removal, role_of
from runqy.staff.roles import ROLES

_ROLE_NAMES = tuple(role.name for role in ROLES)
_manageable: WeakKeyDictionary[HttpRequest, dict[Any, bool]] = WeakKeyDictionary()
"""Request -> whether its user may manage each user, by primary key."""


class RoleFilter(admin.SimpleListFilter):
    """What users may do."""

    title, parameter_name = "role", "role"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer all."""
        return [(name, name) for name in (*_ROLE_NAMES, SUPERUSER)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow down."""
        wanted = self.value()
        if wanted in _ROLE_NAMES:
            return queryset.filter(Q(is_superuser=False), groups__name=wanted)
        return queryset.filter(is_superuser=True) if wanted == SUPERUSER else queryset


class RecordedUserAdmin(UserAdmin, RecordedAdmin):  # type: ignore[type-arg]
    """Users: a name, a role, a password."""

    form = UserForm
    add_form = UserAddForm
    change_password_form = AdminPasswordChangeForm
    add_form_template = "admin/change_form.html"  # Django's own promises more options after saving
    show_full_result_count = True
    audit_kind = "user"
    list_display = ("username", "role", "is_active", "entered", "since")
    list_filter = (RoleFilter, "is_active")
    search_fields = ("username",)
    search_help_text = "Name"
    filter_horizontal = ()
    fieldsets = ((None, {"fields": ("username", "role", "is_active", "password_link", "entered", "since")}),)
    add_fieldsets = ((None, {"fields": ("username", "role", "password1", "password2")}),)
    readonly_fields = ("password_link", "entered", "since")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """Fetch the groups along."""
        return super().get_queryset(request).prefetch_related("groups")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show the role in a word to those who may not change it."""
        if obj is None or self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        return ((None, {"fields": ("username", "shown_role", "is_active", "entered", "since")}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Add the role in a word."""
        return () if obj is None else (*self.readonly_fields, "shown_role")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Tell the form who asks."""
        form: Any = super().get_form(request, obj, change=change, **kwargs)  # a class of this request's own
        form.request = request
        return form

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allow nobody to change users with more permissions; a page asks this many times for each."""
        if obj is None or not super().has_change_permission(request, obj):
            return super().has_change_permission(request, obj)
        manageable = _manageable.setdefault(request, {})
        if obj.pk not in manageable:
            manageable[obj.pk] = may_manage(request.user, obj)  # type: ignore[arg-type]
        return manageable[obj.pk]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save the user, who is staff: nobody else has anything to do here."""
        if not change or form.gives_role:
            obj.is_staff, obj.is_superuser = True, form.cleaned_data["role"] == SUPERUSER
        super().save_model(request, obj, form, change)
        if not change or form.gives_role:
            give_role(obj, form.cleaned_data["role"])

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Keep those who must not go, and say why."""
        deletable, counts, lacking, protected = super().get_deleted_objects(objs, request)
        refused = [problem for user in objs if (problem := problem_of_removal(request.user, user))]  # type: ignore[arg-type]
        return deletable, counts, lacking, [*protected, *refused]

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Look again where the admins are locked: another may have gone since the page was made."""
        if problem_of_removal(request.user, obj):  # type: ignore[arg-type]
            raise PermissionDenied
        super().delete_model(request, obj)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Change somebody's password."""
        show = partial(super().user_change_password, request, id, form_url)
        return recorded_password(lambda: User.objects.get(pk=id), show)

    @admin.display(description="role")
    def role(self, row: User) -> str:
        """Return a badge."""
        name = role_of(row)
        context = {"text": name or "own permissions", "variant": "primary" if name in ("admin", SUPERUSER) else ""}
        return render_to_string("unfold/helpers/label.html", context)

    @admin.display(description="role")
    def shown_role(self, row: User) -> str:
        """Return the badge, on a page without the form's field of this name."""
        return self.role(row)

    @admin.display(description="password")
    def password_link(self, row: User) -> str:
        """Link to the form for a new one."""
        return render_to_string("accounts/password_link.html", {"has_one": row.has_usable_password()})

    @admin.display(description="last login (UTC)", ordering="last_login")
    def entered(self, row: User) -> str:
        """Return the minute."""
        return f"{row.last_login:%Y-%m-%d %H:%M}" if row.last_login else "never"

    @admin.display(description="since", ordering="date_joined")
    def since(self, row: User) -> str:
        """Return the day."""
        return f"{row.date_joined:%Y-%m-%d}"


class RecordedGroupAdmin(GroupAdmin, RecordedAdmin):
    """Groups; those of our roles keep their names and are never deleted."""

    form = GroupForm  # type: ignore[assignment]
    audit_kind = "group"
    filter_horizontal = ()
    fields = ("name", "permissions")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Tell the form who asks."""
        form: Any = super().get_form(request, obj, change=change, **kwargs)  # a class of this request's own
        form.request = request
        return form

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Keep the name of a role."""
        return ("name",) if obj and obj.name in _ROLE_NAMES else ()

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Keep the groups of roles, and say why."""
        deletable, counts, lacking, protected = super().get_deleted_objects(objs, request)
        kept = [f"{group} is a role of runqy." for group in objs if group.name in _ROLE_NAMES]
        return deletable, counts, lacking, [*protected, *kept]


def change_own_password(request: HttpRequest) -> HttpResponse:
    """Change the password of whoever asks."""
    return recorded_password(lambda: request.user, partial(admin.site.password_change, request))


for model, recorded in ((User, RecordedUserAdmin), (Group, RecordedGroupAdmin)):
    admin.site.unregister(model)
    admin.site.register(model, recorded)
