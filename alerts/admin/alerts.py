"""The list of alerts, and a page for each."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse

from alerts.admin.acknowledgement import AcknowledgeView
from alerts.kinds import AlertKind, AlertLevel
from alerts.links import get_alert_link
from alerts.models import Alert
from alerts.queries import (
    BY_QUEUE,
    AlertState,
    add_urgency,
    exclude_consequences,
    filter_alerts,
    list_related,
)
from alerts.rules import RULES
from runqy.admin_site.base_admin import LIVE, ReadOnlyModelAdmin
from runqy.admin_site.times import show_time
from webhooks.models import Delivery

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
        state = _get_state(request)
        found = queryset & filter_alerts(state)
        return add_urgency(exclude_consequences(found)) if state is AlertState.OPEN else found


class _AlertList(ChangeList):
    """The list, with what is shown beside each alert."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return [*BY_QUEUE] if _get_state(request) is AlertState.OPEN else [*super().get_ordering(request, queryset)]

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: list[Any] = list(self.result_list)
        related, queue, is_open = list_related(rows), None, _get_state(request) is AlertState.OPEN
        for row in rows:
            row.consequences = related[row.pk].consequences
            row.begins_queue, queue = is_open and row.queue != queue, row.queue
        self.result_list = rows


def _get_state(request: HttpRequest) -> AlertState:
    wanted = request.GET.get(AlertStateFilter.parameter_name)
    return AlertState(wanted) if wanted in list(AlertState) else AlertState.OPEN


class AlertAdmin(ReadOnlyModelAdmin):
    """Alerts, which rules open and resolve."""

    list_display = ("text", "badge", "queue_name", "opened", "lasted")
    list_display_links = ("text",)
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
    change_form_outer_before_template = "alerts/actions.html"
    ordering = ("-pk",)
    actions = None
    sortable_by = ()
    fieldsets = (
        (None, {"fields": ("badge", "message", "about", "queue_page", "cause_page")}),
        ("Times", {"fields": ("first_seen", "opened", "resolved", "lasted")}),
        ("Sent", {"fields": ("notified",)}),
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

    def has_acknowledge_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("alerts.acknowledge_alert")

    def get_urls(self) -> list[URLPattern]:
        view = self.page(AcknowledgeView)
        return [path("acknowledge/", view, name="alerts_alert_acknowledge"), *super().get_urls()]

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        if _get_state(request) is not AlertState.OPEN:
            return self.list_display
        # Grouped by queue, which the first alert of each names.
        act = ("act",) if self.has_acknowledge_permission(request) else ()
        return (*(name for name in self.list_display if name != "queue_name"), *act)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return _AlertList

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        alert = context["original"]
        context |= {"alert": alert, "may_acknowledge": self.has_acknowledge_permission(request)}
        related = list_related([alert])[alert.pk]
        context |= {"causes": related.causes, "consequences": related.consequences}
        return super().render_change_form(request, context, *args, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(opened_at__isnull=False)

    @admin.display(description="message")
    def text(self, row: Any) -> str:
        return render_to_string("alerts/text.html", {"alert": row})

    @admin.display(description="rule")
    def badge(self, row: Alert) -> str:
        variant = "danger" if row.level == AlertLevel.CRITICAL else "warning"
        return render_to_string("unfold/helpers/label.html", {"text": row.get_kind_display(), "type": variant})

    @admin.display(description="meaning")
    def about(self, row: Alert) -> str:
        return RULES[AlertKind(row.kind)].description

    @admin.display(description="")
    def act(self, row: Any) -> str:
        return render_to_string("alerts/act.html", {"alert": row})

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

    @admin.display(description="first observed")
    def first_seen(self, row: Alert) -> str:
        return show_time(row.since)

    @admin.display(description="opened")
    def opened(self, row: Alert) -> str:
        return show_time(row.opened_at)

    @admin.display(description="resolved")
    def resolved(self, row: Alert) -> str:
        return show_time(row.resolved_at) or "Still open."

    @admin.display(description="duration")
    def lasted(self, row: Alert) -> str:
        return row.lasted

    @admin.display(description="sent", empty_value="-")
    def notified(self, row: Alert) -> str | None:
        sent = "; ".join(_describe(message) for message in row.deliveries.select_related("endpoint"))
        if not sent and row.is_withheld and not (row.acknowledged_at or row.snoozed_until):
            return "not sent: its cause was"
        return sent or None


def _describe(message: Delivery) -> str:
    where = f" to {message.endpoint}" if message.endpoint else ""
    return f"{message.event.removeprefix('alert.')}{where}: {_state(message)}"


def _state(message: Delivery) -> str:
    if message.delivered_at:
        return "delivered"
    attempts = f"{message.attempts} attempt{'' if message.attempts == 1 else 's'}"
    if message.abandoned_at:
        return f"given up after {attempts} ({message.error})"
    return f"{attempts}, will be retried ({message.error})" if message.error else "not sent yet"
