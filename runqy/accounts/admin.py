"""API keys in the admin: created, shown once, revoked. Users and groups as Django has them, with a record."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.audit.changes import CHANGED, Changes, differences
from runqy.audit.operations import record
from runqy.errors import ApiKeyAlreadyRevoked
from runqy.publication.saving import PublishedModelAdmin
from runqy.staff.pages import StaffModelAdmin, StaffModelForm


class ApiKeyForm(StaffModelForm):
    """What staff say about a new key."""

    class Meta:
        model = ApiKey
        fields = ("name", "role", "queues", "expires_at")

    def clean_queues(self) -> list[str]:
        """Take a list of names."""
        queues = self.cleaned_data["queues"]
        if not isinstance(queues, list) or not all(isinstance(queue, str) and queue for queue in queues):
            raise forms.ValidationError('It is a list of names, such as ["inference"].')
        return queues


@admin.register(ApiKey)
class ApiKeyAdmin(PublishedModelAdmin):
    """Keys: what one may do is never changed, so that nobody wonders what it could do last week."""

    form = ApiKeyForm
    list_display = ("name", "prefix", "role", "queues", "expires_at", "revoked_at", "last_used_at")
    list_filter = ("role",)
    search_fields = ("name", "prefix")
    actions = ("revoke",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Leave keys as they were created."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Keep revoked keys on record."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Let those revoke who could change keys."""
        return request.user.has_perm("accounts.change_apikey")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Create the key."""
        created = create_api_key(name=obj.name, role=obj.role, queues=obj.queues, expires_at=obj.expires_at)
        obj.pk, obj.plain = created.row.pk, created.plain

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key in the answer itself: a message would pass through a cookie."""
        context = {
            **self.admin_site.each_context(request),
            "title": "API key created",
            "name": obj.name,
            "plain": obj.plain,
            "list_url": reverse("admin:accounts_apikey_changelist"),
        }
        template = "admin/accounts/apikey/created.html"
        return TemplateResponse(request, template, context, headers={"Cache-Control": "no-store"})

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """Revoke keys; those that were revoked before stay as they are."""
        for key in queryset:
            try:
                revoke_api_key(key_id=key.pk)
            except ApiKeyAlreadyRevoked:
                messages.info(request, f"{key} was revoked before.")


class RecordedAdmin(StaffModelAdmin):
    """An admin of Django's own rows that records what staff do to them; each request is one transaction."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save the last part, and record all."""
        super().save_related(request, form, formsets, change)
        old = {name: _plain(form.initial.get(name)) for name in form.changed_data}
        new = {name: _plain(form.cleaned_data.get(name)) for name in form.changed_data}
        secrets = [name for name in form.changed_data if "password" in name]
        if changes := differences(old, new, secrets=secrets):
            _record(form.instance, "updated" if change else "created", changes)

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Record that a row goes, and delete it."""
        _record(obj, "deleted", {})
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        """Delete rows one by one."""
        with transaction.atomic():
            for row in queryset:
                self.delete_model(request, row)


class RecordedUserAdmin(UserAdmin, RecordedAdmin):  # type: ignore[type-arg]
    """Users."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Change somebody's password."""
        show = partial(super().user_change_password, request, id, form_url)
        return _recorded_password(lambda: User.objects.get(pk=id), show)


class RecordedGroupAdmin(GroupAdmin, RecordedAdmin):
    """Groups."""


def change_own_password(request: HttpRequest) -> HttpResponse:
    """Change the password of whoever asks."""
    return _recorded_password(lambda: request.user, partial(admin.site.password_change, request))


def _recorded_password(find_user: Callable[[], Any], show: Callable[[], HttpResponse]) -> HttpResponse:
    """Show or save a form for a password, whose success leads elsewhere, and record that it was changed."""
    with transaction.atomic():
        answer = show()
        if isinstance(answer, HttpResponseRedirect):
            _record(find_user(), "updated", {"password": CHANGED})
    return answer


def _record(row: Model, verb: str, changes: Changes) -> None:
    """Record what became of one of Django's rows."""
    kind = str(row._meta.model_name)
    record(action=f"{kind}.{verb}", object_kind=kind, object_name=str(row), changes=changes)


def _plain(value: object) -> object:
    """Return a form's value as JSON can tell it: of rows their names."""
    if isinstance(value, (list, tuple, set, QuerySet)):
        return sorted(str(item) for item in value)
    return value


for model, recorded in ((User, RecordedUserAdmin), (Group, RecordedGroupAdmin)):
    admin.site.unregister(model)
    admin.site.register(model, recorded)
