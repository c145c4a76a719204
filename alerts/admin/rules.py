"""Settings of alert rules that differ from their defaults."""

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from alerts.models import AlertRule
from alerts.operations import delete_alert_rule, save_alert_rule
from alerts.rules import RULES, AlertKind
from runqy.audit.history import AuditedModelAdmin


@admin.register(AlertRule)
class AlertRuleAdmin(AuditedModelAdmin):
    """Thresholds and switches of rules, for one queue or for all."""

    audit_kind = "alert_rule"
    list_display = ("rule", "applies_to", "is_enabled", "threshold_text", "lasting")
    list_filter = ("kind", "is_enabled")
    list_select_related = ("queue",)
    list_before_template = "alerts/rules.html"
    empty_text = "All rules use their defaults, listed above."
    autocomplete_fields = ("queue",)
    fields = ("kind", "queue", "is_enabled", "threshold", "for_s")

    class Media:
        css = {"all": ("admin_site/pages.css",)}

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        return (obj.audit_name,)

    def find_audited_object(self, name: str) -> Model | None:
        kind, _, queue = name.partition("/")
        return AlertRule.objects.filter(kind=kind, **({"queue__name": queue} if queue else {"queue": None})).first()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Leave out the links that edit the chosen queue."""
        form = super().get_form(request, obj, change, **kwargs)
        if queue := form.base_fields.get("queue"):
            widget: Any = queue.widget
            widget.can_add_related = widget.can_change_related = False
            widget.can_delete_related = widget.can_view_related = False
        return form

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Add the defaults of all rules."""
        context = {"rules": list(RULES.values()), **(extra_context or {})}
        return super().changelist_view(request, context)

    @admin.display(description="rule", ordering="kind")
    def rule(self, row: AlertRule) -> str:
        return row.get_kind_display()

    @admin.display(description="applies to")
    def applies_to(self, row: AlertRule) -> str:
        return row.queue.name if row.queue else "all queues"

    @admin.display(description="threshold")
    def threshold_text(self, row: AlertRule) -> str:
        info = RULES[AlertKind(row.kind)]
        if not info.threshold_unit:
            return "-"
        return f"{row.settings.threshold:g} {info.threshold_unit}"

    @admin.display(description="for")
    def lasting(self, row: AlertRule) -> str:
        return f"{row.settings.for_s} s"

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        save_alert_rule(obj)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        delete_alert_rule(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            delete_alert_rule(row)
