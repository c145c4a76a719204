"""API keys in the admin: created, shown once, revoked."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten_fieldsets, unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.timesince import timesince
from unfold.decorators import action

from runqy.accounts.admin.key_forms import ROLES, ApiKeyForm
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import CreatedKey, audited_name, count_waiting_members, create_api_key, revoke_api_key
from runqy.accounts.queries import (
    INACTIVE,
    KeyStatus,
    filter_by_creator,
    get_key_status,
    is_limited_in_redis,
    list_accepted_descendants,
    list_accepted_keys_of,
    list_creators,
    list_environment_variables,
    status_filter,
)
from runqy.admin_site.labels import changelist_url
from runqy.admin_site.times import show_time
from runqy.admin_site.views import render_shown_once
from runqy.audit.actors import ActorKind
from runqy.configuration.admin import PublishedModelAdmin
from runqy.core.api_keys import STAFF_ROLES, Role
from runqy.errors import ApiKeyAlreadyRevoked

_BADGES = {
    KeyStatus.ACTIVE: "success",
    KeyStatus.UNUSED: "info",
    KeyStatus.EXPIRED: "warning",
    KeyStatus.REVOKED: "",
}
_MAX_LISTED = 3
_REVOKE_TITLES = {0: "There are no accepted keys", 1: "Revoke this key?"}  # by the number of keys


class StatusFilter(admin.SimpleListFilter):
    """Filter keys by their status."""

    title, parameter_name = "status", "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in KeyStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        return queryset.filter(status_filter(KeyStatus(wanted))) if wanted in list(KeyStatus) else queryset


class CreatorFilter(admin.SimpleListFilter):
    """Filter keys by the user who created them."""

    title, parameter_name = "created by user", "creator"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(INACTIVE, "users who may no longer create keys"), *((name, name) for name in list_creators())]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        creator = self.value()
        return queryset.filter(filter_by_creator(creator)) if creator else queryset


class ApiKeyAdmin(PublishedModelAdmin):
    """API keys. The rights of a key never change, so that it is known what it could do in the past."""

    form = ApiKeyForm
    audit_kind = "api_key"
    list_display = ("name", "status", "role", "limited_to", "expires", "last_used", "creator", "prefix_start")
    list_filter = (StatusFilter, "role", CreatorFilter)
    list_select_related = ("created_by_key", "created_by_user")
    list_before_template = "accounts/above_keys.html"
    search_fields = ("name", "prefix")
    search_help_text = "Name or prefix"
    empty_text = "Create one with role client for a program that enqueues tasks, or with role worker for workers."
    ordering = ("-pk",)
    show_full_result_count = True
    actions = ("revoke",)
    actions_detail = ("revoke_one",)
    conditional_fields = {"last_day": "lifetime == 'day'"}
    add_fieldsets = (
        (
            None,
            {
                "fields": (
                    *("name", "role", "queues", "allow_shared_redis", "vaults", "rate_limit"),
                    *("lifetime", "last_day"),
                )
            },
        ),
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("name_text", "status", "prefix_start", "role_text"),
                    *("limited_to", "in_redis", "limited_to_vaults", "rate"),
                )
            },
        ),
        ("Times", {"fields": ("created", "expires", "last_used", "revoked")}),
        ("Origin", {"fields": ("creator", "descendants")}),
    )

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        return (audited_name(obj),)

    def find_audited_object(self, name: str) -> Model | None:
        key_id = name.partition(" ")[0]
        return ApiKey.objects.filter(pk=key_id).first() if key_id.isascii() and key_id.isdigit() else None

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.revoke_keys_of_creator)
        return [path("of/<str:creator>/revoke/", view, name="accounts_apikey_revoke_of"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        extra = {"title": "API keys", "environment_variables": list_environment_variables()}
        return super().changelist_view(request, extra | (extra_context or {}))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return tuple(flatten_fieldsets(self.fieldsets)) if obj else ()

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # One button, after which the new key is shown.
        context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Revoked keys are kept: the audit and other keys refer to them.
        return False

    def has_revoke_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("accounts.change_apikey")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        actions: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]
        key: Any = self.get_object(request, unquote(str(object_id))) if object_id else None
        return actions if key is not None and key.revoked_at is None else []

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        names = ("name", "role", "queues", "vaults", "expires_at", "rate_limit", "allow_shared_redis")
        values = {name: form.cleaned_data[name] for name in names}
        obj.created = create_api_key(**values)
        obj.pk = obj.created.row.pk

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        page_url = reverse("admin:accounts_apikey_change", args=[obj.pk])
        list_url = reverse("admin:accounts_apikey_changelist")
        return self.show_created(request, obj.created, page_url=page_url, list_url=list_url)

    def show_created(self, request: HttpRequest, created: CreatedKey, *, page_url: str, list_url: str) -> HttpResponse:
        key = created.row
        context = {
            "title": "API key created",
            "key": key,
            "plain": created.plain,
            "role_description": ROLES[Role(key.role)],
            "is_for_a_person": key.is_personal or key.role in STAFF_ROLES,
            "server": get_server_url(request),
            "page_url": page_url,
            "list_url": list_url,
        }
        return render_shown_once(self, request, "accounts/key_created.html", context)

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse:
        return self.revoke_confirmed(request, list(queryset), request.get_full_path())

    @action(description="Revoke", icon="block", permissions=["revoke"], url_path="revoke")  # type: ignore[untyped-decorator]
    def revoke_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.get_object(request, unquote(object_id))
        if key is None:
            raise PermissionDenied
        return self.revoke_confirmed(request, [key], reverse("admin:accounts_apikey_change", args=[key.pk]))

    def revoke_keys_of_creator(self, request: HttpRequest, creator: str) -> HttpResponse:
        """Revoke the accepted keys of a user, and those that were created with them."""
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        page = changelist_url("accounts_apikey", creator=creator)
        return self.revoke_confirmed(request, list_accepted_keys_of(creator), page)

    def revoke_confirmed(self, request: HttpRequest, keys: list[Any], back_url: str) -> HttpResponse:
        """Revoke keys, or first ask for confirmation and list the keys that these created."""
        is_action = "action" in request.POST
        if request.method == "POST" and (not is_action or "confirmed" in request.POST):
            self._revoke(request, keys)
            return HttpResponseRedirect(back_url)
        chosen = {key.pk for key in keys}
        descendants = [key for key in list_accepted_descendants(chosen) if key.pk not in chosen]
        context = {
            **self.admin_site.each_context(request),
            "title": _REVOKE_TITLES.get(len(keys), f"Revoke these {len(keys)} keys?"),
            "opts": self.opts,
            "original": keys[0] if len(keys) == 1 else None,
            "keys": self.describe(keys),
            "descendants": self.describe(descendants),
            "waiting_members": count_waiting_members([key.pk for key in (*keys, *descendants)]),
            "back_url": back_url,
            "is_action": is_action,
        }
        return TemplateResponse(request, "accounts/revoke.html", context)

    def describe(self, keys: Sequence[ApiKey]) -> list[tuple[ApiKey, str, str, str]]:
        """Return keys, each with its status, queues and last use."""
        return [(key, self.status(key), self.limited_to(key), self.last_used(key)) for key in keys]

    @staticmethod
    def _revoke(request: HttpRequest, keys: list[Any]) -> None:
        chosen = {name: name in request.POST for name in ("descendants", "cancel_batches")}
        for key in keys:
            try:
                revoked = revoke_api_key(
                    key_id=key.pk, with_descendants=chosen["descendants"], cancel_batches=chosen["cancel_batches"]
                )
            except ApiKeyAlreadyRevoked:
                messages.info(request, f"{key} was already revoked.")
                continue
            for row in (key, *revoked.revoked_descendants):
                messages.success(request, f"{row} revoked. All servers refuse it within two seconds.")
            if revoked.canceled_batches:
                messages.success(request, f"{revoked.canceled_batches:,} batches are being cancelled.")

    @admin.display(description="status")
    def status(self, row: ApiKey) -> str:
        status = get_key_status(row)
        return render_to_string("unfold/helpers/label.html", {"text": status.value, "variant": _BADGES[status]})

    @admin.display(description="prefix")
    def prefix_start(self, row: ApiKey) -> str:
        return f"{row.prefix}…"

    @admin.display(description="role")
    def role_text(self, row: ApiKey) -> str:
        return f"{row.role}: {ROLES[Role(row.role)]}"

    @admin.display(description="queues")
    def limited_to(self, row: ApiKey) -> str:
        return _join_names(row.queues)

    @admin.display(description="queues that its workers reach in Redis")
    def in_redis(self, row: ApiKey) -> str:
        # Workers without a Redis user of their own share one, which reaches all queues.
        if row.role in (Role.CLIENT, Role.METRICS):
            return "none"
        if is_limited_in_redis(row):
            return "the same"
        return render_to_string("accounts/not_limited_in_redis.html")

    @admin.display(description="vaults")
    def limited_to_vaults(self, row: ApiKey) -> str:
        if row.role == Role.ADMIN:
            return "all"
        return f"{_join_names(row.vaults)}, of the queues that its workers serve" if row.role == Role.WORKER else "none"

    @admin.display(description="rate limit")
    def rate(self, row: ApiKey) -> str:
        return row.rate_limit or "that of the server (RUNQY_RATE_LIMIT), if it has one"

    @admin.display(description="expires", ordering="expires_at")
    def expires(self, row: ApiKey) -> str:
        return show_time(row.expires_at, "minute") or "never"

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, row: ApiKey) -> str:
        return f"{timesince(row.last_used_at, depth=1)} ago" if row.last_used_at else "never"

    @admin.display(description="name")
    def name_text(self, row: ApiKey) -> str:
        # The field itself would show the help text of the form.
        return row.name

    @admin.display(description="created")
    def created(self, row: ApiKey) -> str:
        return show_time(row.created_at, "minute")

    @admin.display(description="created by")
    def creator(self, row: ApiKey) -> str:
        if row.created_by_key:
            context = {"keys": [row.created_by_key]}
            return render_to_string("accounts/key_links.html", context)
        if not row.created_by_kind:
            return "not recorded"
        if row.created_by_kind != ActorKind.USER:
            return f"{row.created_by_kind} {row.created_by}"
        suffix = ", who uses it" if row.is_personal else ""
        if row.created_by_user is None:
            return f"user {row.created_by}, deleted"
        return f"user {row.created_by_user}{suffix}" + ("" if row.created_by_user.is_active else ", inactive")

    @admin.display(description="keys created with it")
    def descendants(self, row: ApiKey) -> str:
        found = list_accepted_descendants([row.pk])
        return render_to_string("accounts/key_links.html", {"keys": found}) if found else "none, or none still accepted"

    @admin.display(description="revoked")
    def revoked(self, row: ApiKey) -> str:
        return show_time(row.revoked_at, "minute") or "no"


def get_server_url(request: HttpRequest) -> str:
    return request.build_absolute_uri("/").rstrip("/")


def _join_names(names: list[str]) -> str:
    """Join names, at most _MAX_LISTED of them; `all` for none."""
    if not names:
        return "all"
    named, rest = names[:_MAX_LISTED], len(names) - _MAX_LISTED
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")
