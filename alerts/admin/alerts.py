"""The list of alerts, and a page for each."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse

from alerts.links import get_alert_link
from alerts.models import Alert, AlertDelivery
from alerts.queries import AlertState, filter_alerts
from alerts.rules import RULES, AlertKind, AlertLevel
from runqy.admin_site.base_admin import LIVE, ReadOnlyModelAdmin

_STATES = [(AlertState.RESOLVED.value, "Resolved"), (AlertState.ALL.value, "All")]


class AlertStateFilter(admin.SimpleListFilter):
    """Open alerts by default, resolved or all alerts on request."""

    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return _STATES

    def choices(self, changelist: Any) -> Any:
        # Django calls the default “All”.
        for choice in super().choices(changelist):
            yield choice | ({"display": "Open"} if choice["query_string"].find(f"{self.parameter_name}=") < 0 else {})

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        state = AlertState(wanted) if wanted in list(AlertState) else AlertState.OPEN
        return queryset & filter_alerts(state)


class AlertAdmin(ReadOnlyModelAdmin):
    """Alerts, which rules open and resolve."""

    list_display = ("message", "badge", "queue_name", "opened", "lasted", "notified")
    list_display_links = ("message",)
    list_filter = (AlertStateFilter, "kind")
    search_fields = ("subject", "message")
    search_help_text = "Queue, worker or message"
    empty_title = "No open alerts"
    empty_text = (
        "An alert opens when the condition of a rule holds, such as a high failure rate or no ready worker, and is "
        "resolved by itself."
    )
    show_all_query = f"{AlertStateFilter.parameter_name}={AlertState.ALL}"
    list_before_template = "alerts/above_list.html"
    ordering = ("-pk",)
    actions = None
    sortable_by = ()
    fieldsets = (
        (None, {"fields": ("badge", "message", "about", "queue_page", "cause_page")}),
        ("Times", {"fields": ("first_seen", "opened", "resolved", "lasted")}),
        ("Webhook", {"fields": ("notified",)}),
    )
    readonly_fields = (
        *("badge", "message", "about", "queue_page", "cause_page"),
        *("first_seen", "opened", "resolved", "lasted", "notified"),
    )

    class Media:
        css = {"all": ("admin_site/pages.css",)}
        js = (LIVE,)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        name = AlertStateFilter.parameter_name
        context = {"alert_states": [("", "Open"), *_STATES], "alert_state": request.GET.get(name, "")}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(opened_at__isnull=False).prefetch_related("deliveries")

    @admin.display(description="rule")
    def badge(self, row: Alert) -> str:
        variant = "danger" if row.level == AlertLevel.CRITICAL else "warning"
        return render_to_string("unfold/helpers/label.html", {"text": row.get_kind_display(), "type": variant})

    @admin.display(description="meaning")
    def about(self, row: Alert) -> str:
        return RULES[AlertKind(row.kind)].description

    @admin.display(description="queue", empty_value="-")
    def queue_name(self, row: Alert) -> str | None:
        return row.queue or None

    @admin.display(description="queue", empty_value="-")
    def queue_page(self, row: Alert) -> str | None:
        if not row.queue:
            return None
        url = reverse("admin:queues_queue_by_name", args=[row.queue])
        return render_to_string("alerts/link.html", {"url": url, "title": row.queue})

    @admin.display(description="cause")
    def cause_page(self, row: Alert) -> str:
        url, title = get_alert_link(row)
        return render_to_string("alerts/link.html", {"url": url, "title": title})

    @admin.display(description="first observed (UTC)")
    def first_seen(self, row: Alert) -> str:
        return _format(row.since)

    @admin.display(description="opened (UTC)")
    def opened(self, row: Alert) -> str:
        return _format(row.opened_at) if row.opened_at else ""

    @admin.display(description="resolved (UTC)")
    def resolved(self, row: Alert) -> str:
        return _format(row.resolved_at) if row.resolved_at else "Still open."

    @admin.display(description="duration")
    def lasted(self, row: Alert) -> str:
        return row.lasted

    @admin.display(description="webhook")
    def notified(self, row: Alert) -> str:
        deliveries = sorted(row.deliveries.all(), key=lambda delivery: delivery.pk)
        return "; ".join(f"{delivery.event}: {_state(delivery)}" for delivery in deliveries) or "-"


def _state(delivery: AlertDelivery) -> str:
    if delivery.delivered_at:
        return "delivered"
    attempts = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    if delivery.abandoned_at:
        return f"given up after {attempts} ({delivery.error})"
    return f"{attempts}, will be retried ({delivery.error})" if delivery.error else "not sent yet"


def _format(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}"
