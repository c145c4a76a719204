"""Webhook endpoints in the admin: created with a secret that is shown once, tested, rotated, with what was sent."""

from typing import Any

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html

from runqy.admin_site.base_admin import LIVE
from runqy.admin_site.labels import render_state
from runqy.admin_site.times import show_time
from runqy.admin_site.views import AdminView, render_rotation, render_webhook_secret
from runqy.configuration.admin import PublishedModelAdmin
from runqy.errors import PreconditionFailed, WebhookDisabled
from runqy.redis_connection import get_broker
from webhooks.admin.forms import EndpointForm
from webhooks.models import Endpoint, EndpointKind
from webhooks.operations import (
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    resend_deliveries,
    rotate_endpoint_secret,
    schedule_test,
)
from webhooks.queries import (
    DELIVERY_STATES,
    count_kept,
    find_waiting,
    get_endpoint,
    list_deliveries,
    list_warnings,
)

SHOWN_DELIVERIES = 20
CHANGED_MEANWHILE = (
    "This endpoint was changed by another user, or disabled by the server, while you edited it. Reload the page and "
    "repeat your changes."
)


class ActView(AdminView):
    """Sends a test message, sends deliveries again, or rotates the secret and shows the new one."""

    permission = "change"
    http_method_names = ["post"]

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = get_endpoint(object_id)
        match request.POST.get("verb"):
            case "rotate" if endpoint.secret and "confirmed" not in request.POST:
                return render_rotation(
                    self.model_admin,
                    request,
                    signed_by=endpoint.url,
                    page_url=reverse("admin:webhooks_endpoint_change", args=[endpoint.pk]),
                    previous_until=endpoint.secret.find_previous_until(timezone.now()),
                )
            case "rotate":
                secret = rotate_endpoint_secret(endpoint.pk)
                return _show_secret(self.model_admin, request, endpoint, secret, is_rotated=True)
            case "test":
                try:
                    schedule_test(endpoint.pk)
                except WebhookDisabled as error:
                    messages.error(request, error.detail)
                else:
                    messages.success(request, "A test message is on its way: it is the first delivery.")
            case "resend":
                delivery = request.POST.get("delivery", "")
                ids = [int(delivery)] if delivery.isascii() and delivery.isdigit() and len(delivery) < 19 else None
                resent = resend_deliveries(endpoint.pk, ids)
                messages.success(request, f"{resent} {'delivery is' if resent == 1 else 'deliveries are'} sent again.")
            case _:
                raise Http404
        return HttpResponseRedirect(f"{reverse('admin:webhooks_endpoint_change', args=[endpoint.pk])}#deliveries")


class EndpointAdmin(PublishedModelAdmin):
    """Endpoints. All changes go through the operations."""

    form = EndpointForm
    audit_kind = "webhook"
    audit_field = "id"
    list_display = ("target", "kind", "state", "told_of", "limited_to", "creator")
    list_filter = ("is_enabled", "kind")
    search_fields = ("url", "recipients")
    search_help_text = "URL or recipient"
    empty_text = (
        "Add one to be told of tasks that end and of alerts by signed POST requests, or of alerts in a Slack channel "
        "or by e-mail."
    )
    actions = None
    counted_relations = ("deliveries",)
    change_form_outer_before_template = "webhooks/before_form.html"
    change_form_before_template = "admin_site/version.html"
    readonly_fields = ("target", "state", "creator")

    class Media:
        css = {"all": ("admin_site/pages.css", "webhooks/webhooks.css")}
        js = (LIVE,)

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        return (obj.pk,)

    def get_urls(self) -> list[URLPattern]:
        return [path("<path:object_id>/act/", self.page(ActView), name="webhooks_endpoint_act"), *super().get_urls()]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        kind = obj.kind if obj else None
        if not self.has_change_permission(request, obj) and obj is not None:
            shown = ("target", "kind", "limited_to", "told_of", "include_result", "state", "creator")
            return ((None, {"fields": shown}),)
        of_kinds = {
            "kind": obj is None,
            "url": kind != EndpointKind.EMAIL,
            "recipients": kind in (None, EndpointKind.EMAIL),
            **dict.fromkeys(("events", "queues", "levels", "is_enabled"), True),
            "kept": obj is not None and count_kept(obj) > 0,
            "in_flight": True,
            **dict.fromkeys(("include_result", "headers_text"), kind in (None, EndpointKind.WEBHOOK)),
            "remove_headers": bool(obj and obj.header_names),
        }
        fields = tuple(name for name, is_shown in of_kinds.items() if is_shown)
        status = (("Status", {"fields": ("target", "state", "creator")}),) if obj else ()
        return (*status, (None, {"fields": fields}))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("target", "state", "creator", "limited_to", "told_of")

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if endpoint := context.get("original"):
            before, state = request.GET.get("before", ""), request.GET.get("state", "")
            shown, older = list_deliveries(
                endpoint,
                SHOWN_DELIVERIES,
                int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
                state=state if state in DELIVERY_STATES else "",
            )
            context |= {"deliveries": shown, "older_deliveries": older, "waiting": find_waiting(endpoint)}
            context |= {"delivery_states": DELIVERY_STATES, "shown_state": state if state in DELIVERY_STATES else ""}
            context["last_error"] = next((each.error for each in shown if each.error), "")
            context["may_act"] = self.has_change_permission(request, endpoint)
            context["act_url"] = reverse("admin:webhooks_endpoint_act", args=[endpoint.pk])
        else:
            context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        members = form.list_members()

        def precondition(version: str | None) -> None:
            if version != form.cleaned_data["version"]:
                raise PreconditionFailed(CHANGED_MEANWHILE)

        if change:
            saved = change_endpoint(obj.pk, **members, precondition=precondition)
        else:
            created = create_endpoint(**members)
            saved, obj.plain = created.row, created.secret
        # The message that says it was added must not have the URL of Slack.
        obj.pk, obj.url = saved.pk, saved.url
        for warning in list_warnings(get_broker(), saved):
            messages.warning(request, warning)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        if obj.plain:
            return _show_secret(self, request, obj, obj.plain, is_rotated=False)
        return HttpResponseRedirect(reverse("admin:webhooks_endpoint_change", args=[obj.pk]))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        delete_endpoint(obj.pk)

    @admin.display(description="to", ordering="url")
    def target(self, row: Endpoint) -> str:
        return str(row)

    @admin.display(description="state")
    def state(self, row: Endpoint) -> str:
        label = render_state(("failing" if row.failing_since else "enabled") if row.is_enabled else "disabled")
        return render_to_string("webhooks/state.html", {"label": label, "endpoint": row})

    @admin.display(description="events")
    def told_of(self, row: Endpoint) -> str:
        levels = f" ({', '.join(row.levels)})" if row.levels else ""
        return f"{', '.join(row.events)}{levels}"

    @admin.display(description="queues")
    def limited_to(self, row: Endpoint) -> str:
        return ", ".join(row.queues) or "all"

    @admin.display(description="created by")
    def creator(self, row: Endpoint) -> str:
        key = row.created_by_key
        revoked = ", a key that is revoked" if key is not None and key.revoked_at else ""
        return format_html("{}{}, {}", row.created_by or "unknown", revoked, show_time(row.created_at, "minute"))


def _show_secret(
    model_admin: Any, request: HttpRequest, row: Endpoint, secret: str, *, is_rotated: bool
) -> HttpResponse:
    return render_webhook_secret(
        model_admin,
        request,
        secret=secret,
        signed_by=row.url,
        page_url=reverse("admin:webhooks_endpoint_change", args=[row.pk]),
        page_label="To the endpoint",
        is_rotated=is_rotated,
    )
