"""API keys in the admin: created, shown once, revoked."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.errors import ApiKeyAlreadyRevoked
from runqy.publication.saving import PublishedModelAdmin

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[ApiKey]
else:
    _ModelForm = forms.ModelForm


class ApiKeyForm(_ModelForm):
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

    form = ApiKeyForm  # type: ignore[assignment]
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
