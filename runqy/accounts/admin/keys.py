"""API keys in the admin: created, shown once, revoked."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.timesince import timesince
from unfold.decorators import action

from runqy.accounts.admin.key_forms import ROLES, ApiKeyForm
from runqy.accounts.identity import Role
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import audited_name, create_api_key, revoke_api_key
from runqy.accounts.queries import (
    KeyStatus,
    environment_variables,
    in_status,
    key_status,
    list_accepted_descendants,
)
from runqy.errors import ApiKeyAlreadyRevoked
from runqy.publication.saving import PublishedModelAdmin

_BADGES = {
    KeyStatus.ACTIVE: "success",
    KeyStatus.UNUSED: "info",
    KeyStatus.EXPIRED: "warning",
    KeyStatus.REVOKED: "danger",
}
_MOST_NAMED = 3


class StatusFilter(admin.SimpleListFilter):
    """Whether keys are accepted, and why not."""

    title, parameter_name = "status", "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer all."""
        return [(status.value, status.value) for status in KeyStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow down."""
        wanted = self.value()
        return queryset.filter(in_status(KeyStatus(wanted))) if wanted in list(KeyStatus) else queryset


@admin.register(ApiKey)
class ApiKeyAdmin(PublishedModelAdmin):
    """Keys: what one may do is never changed, so that nobody wonders what it could do last week."""

    form = ApiKeyForm
    audit_kind = "api_key"
    list_display = ("name", "status", "role", "limited_to", "expires", "last_used", "begins")
    list_filter = (StatusFilter, "role")
    list_before_template = "accounts/above_keys.html"
    search_fields = ("name", "prefix")
    search_help_text = "Name, or how the key begins"
    empty_says = "Make one with the role client for a program that creates tasks, or with the role worker for workers."
    ordering = ("-pk",)
    show_full_result_count = True
    actions = ("revoke",)
    actions_detail = ("revoke_one",)
    conditional_fields = {"last_day": "lifetime == 'day'"}
    add_fieldsets = ((None, {"fields": ("name", "role", "queues", "vaults", "rate_limit", "lifetime", "last_day")}),)
    fieldsets = (
        (None, {"fields": ("called", "status", "begins", "may", "limited_to", "limited_to_vaults", "rate")}),
        ("Times (UTC)", {"fields": ("created", "expires", "last_used", "revoked")}),
        ("Origin", {"fields": ("creator", "descendants")}),
    )
    readonly_fields = (
        "status",
        "begins",
        "may",
        "limited_to",
        "limited_to_vaults",
        "rate",
        "expires",
        "last_used",
        "revoked",
        "created",
        "called",
        "creator",
        "descendants",
    )

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        """Return the name in records."""
        return (audited_name(obj),)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Add the keys that are not in the list."""
        extra = {"title": "API keys", "environment_variables": environment_variables()}
        return super().changelist_view(request, extra | (extra_context or {}))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Let a new key be described."""
        return self.readonly_fields if obj else ()

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Leave one button: after creating a key, it is to be copied."""
        context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Leave keys as they were created."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Keep revoked keys on record."""
        return False

    def has_revoke_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Let those revoke who could change keys."""
        return request.user.has_perm("accounts.change_apikey")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Offer to revoke what is not revoked."""
        offered: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]
        key: Any = self.get_object(request, unquote(str(object_id))) if object_id else None
        return offered if key is not None and key.revoked_at is None else []

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Create the key."""
        names = ("name", "role", "queues", "vaults", "expires_at", "rate_limit")
        described = {name: form.cleaned_data[name] for name in names}
        created = create_api_key(**described)
        obj.pk, obj.plain, obj.expires_at = created.row.pk, created.plain, created.row.expires_at

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key in the answer itself: a message or session would keep it, an address would tell it."""
        context = {
            **self.admin_site.each_context(request),
            "title": "API key created",
            "opts": self.opts,
            "key": obj,
            "plain": obj.plain,
            "may": ROLES[Role(obj.role)],
            "server": request.build_absolute_uri("/").rstrip("/"),
            "queue": next(iter(obj.queues), "inference"),
            "page_url": reverse("admin:accounts_apikey_change", args=[obj.pk]),
            "list_url": reverse("admin:accounts_apikey_changelist"),
        }
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return TemplateResponse(request, "accounts/key_created.html", context, headers=headers)

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """Ask, then revoke keys; those that were revoked before stay as they are."""
        keys = list(queryset)
        if "confirmed" not in request.POST:
            return self._ask(request, keys, reverse("admin:accounts_apikey_changelist"))
        self._revoke(request, keys)
        return None

    @action(description="Revoke", icon="block", permissions=["revoke"], url_path="revoke")  # type: ignore[untyped-decorator]
    def revoke_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask, then revoke the key of the page."""
        key = self.get_object(request, unquote(object_id))
        if key is None:
            raise PermissionDenied
        page = reverse("admin:accounts_apikey_change", args=[key.pk])
        if request.method != "POST":
            return self._ask(request, [key], page)
        self._revoke(request, [key])
        return HttpResponseRedirect(page)

    def _ask(self, request: HttpRequest, keys: list[Any], back_url: str) -> HttpResponse:
        """Show what would be revoked, and the keys that those created."""
        chosen = {key.pk for key in keys}
        descendants = [key for key in list_accepted_descendants(chosen) if key.pk not in chosen]
        context = {
            **self.admin_site.each_context(request),
            "title": "Revoke this key?" if len(keys) == 1 else f"Revoke these {len(keys)} keys?",
            "opts": self.opts,
            "original": keys[0] if len(keys) == 1 else None,
            "keys": self._rows(keys),
            "descendants": self._rows(descendants),
            "back_url": back_url,
            "is_action": request.method == "POST",
        }
        return TemplateResponse(request, "accounts/revoke.html", context)

    def _rows(self, keys: Sequence[ApiKey]) -> list[tuple[ApiKey, str, str, str]]:
        """Return keys as the page lists them."""
        return [(key, self.status(key), self.limited_to(key), self.last_used(key)) for key in keys]

    def _revoke(self, request: HttpRequest, keys: list[Any]) -> None:
        """Revoke keys, with those that they created if that was chosen, and report each."""
        with_descendants = "descendants" in request.POST
        for key in keys:
            try:
                revoked = revoke_api_key(key_id=key.pk, with_descendants=with_descendants)
            except ApiKeyAlreadyRevoked:
                messages.info(request, f"{key} was revoked before.")
                continue
            for row in (key, *revoked.revoked_descendants):
                messages.success(request, f"{row} is revoked: servers refuse it within two seconds.")

    @admin.display(description="status")
    def status(self, row: ApiKey) -> str:
        """Return a badge."""
        status = key_status(row)
        return render_to_string("unfold/helpers/label.html", {"text": status.value, "variant": _BADGES[status]})

    @admin.display(description="begins with")
    def begins(self, row: ApiKey) -> str:
        """Return what is kept of the key, to tell it from others."""
        return f"{row.prefix}…"

    @admin.display(description="may")
    def may(self, row: ApiKey) -> str:
        """Return the role in words."""
        return f"{row.role}: {ROLES[Role(row.role)]}"

    @admin.display(description="queues")
    def limited_to(self, row: ApiKey) -> str:
        """Return the queues, the first few by name."""
        return _listed(row.queues)

    @admin.display(description="vaults")
    def limited_to_vaults(self, row: ApiKey) -> str:
        """Return the vaults that its workers may use, the first few by name."""
        return _listed(row.vaults)

    @admin.display(description="rate limit")
    def rate(self, row: ApiKey) -> str:
        """Return how many requests it may send."""
        return row.rate_limit or "as the server's setting says"

    @admin.display(description="expires", ordering="expires_at")
    def expires(self, row: ApiKey) -> str:
        """Return the moment."""
        return f"{row.expires_at:%Y-%m-%d %H:%M}" if row.expires_at else "never"

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, row: ApiKey) -> str:
        """Return how long ago."""
        return f"{timesince(row.last_used_at, depth=1)} ago" if row.last_used_at else "never"

    @admin.display(description="name")
    def called(self, row: ApiKey) -> str:
        """Return the name, without what helps to find one."""
        return row.name

    @admin.display(description="created")
    def created(self, row: ApiKey) -> str:
        """Return the moment."""
        return f"{row.created_at:%Y-%m-%d %H:%M}"

    @admin.display(description="created by")
    def creator(self, row: ApiKey) -> str:
        """Return the key, with a link, or the user or command that created it."""
        if row.created_by_key:
            context = {"keys": [row.created_by_key]}
            return render_to_string("accounts/key_links.html", context)
        return f"{row.created_by_kind} {row.created_by}" if row.created_by_kind else "not recorded"

    @admin.display(description="created keys")
    def descendants(self, row: ApiKey) -> str:
        """Return links to the accepted keys that it created, or that those created."""
        found = list_accepted_descendants([row.pk])
        return render_to_string("accounts/key_links.html", {"keys": found}) if found else "none that is accepted"

    @admin.display(description="revoked")
    def revoked(self, row: ApiKey) -> str:
        """Return the moment."""
        return f"{row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else "no"


def _listed(names: list[str]) -> str:
    """Return what a key is limited to, the first few by name."""
    if not names:
        return "all"
    named, rest = names[:_MOST_NAMED], len(names) - _MOST_NAMED
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")
