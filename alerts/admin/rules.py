"""Settings of alert rules that differ from their defaults."""

import math
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from alerts.kinds import AlertKind
from alerts.models import AlertRule
from alerts.operations import delete_alert_rule, save_alert_rule
from alerts.rules import RULES, RuleInfo, RuleSettings
from runqy.admin_site.base_admin import StyledModelForm
from runqy.admin_site.forms import DurationFormField
from runqy.admin_site.labels import render_state
from runqy.audit.history import AuditedModelAdmin
from runqy.core.formats import durations


class ThresholdField(forms.CharField):
    """A number, or a duration for rules whose threshold is a time. The form parses it, since it knows the rule."""

    def __init__(self, *, min_value: Any = None, **options: Any) -> None:
        super().__init__(**options | {"empty_value": None, "widget": forms.TextInput(attrs={"autocomplete": "off"})})


class AlertRuleForm(StyledModelForm):
    """The settings of a rule, with its unit and defaults. Rule and queue of stored settings cannot be changed."""

    instance: AlertRule

    class Meta:
        field_classes: ClassVar = {"threshold": ThresholdField, "for_s": DurationFormField}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        info = RULES[AlertKind(self.instance.kind)] if self.instance.pk else None
        if "threshold" in self.fields:
            self.fields["threshold"].help_text = _threshold_help(info)
        if (threshold := self.initial.get("threshold")) is not None:
            is_time = info is not None and info.threshold_unit == "s" and threshold == int(threshold)
            self.initial["threshold"] = durations.format_short(int(threshold)) if is_time else f"{threshold:.12g}"
        if "for_s" in self.fields and info:
            help_text = f"How long the condition must last. Empty: the default, {format_delay(info.defaults)}."
            self.fields["for_s"].help_text = help_text

    def clean_threshold(self) -> float | None:
        text: str | None = self.cleaned_data["threshold"]
        kind = self.cleaned_data.get("kind") or self.instance.kind
        if text is None or not kind:
            return None
        try:
            is_time = RULES[AlertKind(kind)].threshold_unit == "s"
            threshold = durations.parse_ns(text) / 1e9 if is_time else float(text)
        except ValueError as error:
            raise forms.ValidationError(f"{error}." if is_time else "Enter a number.") from error
        if not math.isfinite(threshold):
            raise forms.ValidationError("Enter a number.")
        return threshold


class AlertRuleAdmin(AuditedModelAdmin):
    """Thresholds and switches of rules, for one queue or for all."""

    form = AlertRuleForm
    audit_kind = "alert_rule"
    list_display = ("rule", "applies_to", "state", "threshold_text", "delay")
    list_filter = ("kind", "is_enabled")
    list_select_related = ("queue",)
    list_before_template = "alerts/rules.html"
    empty_title = "No settings of your own"
    empty_text = "All rules use their defaults, listed above."

    class Media:
        css = {"all": ("admin_site/pages.css",)}

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        return (obj.audit_name,)

    def find_audited_object(self, name: str) -> Model | None:
        kind, _, queue = name.partition("/")
        return AlertRule.objects.filter(kind=kind, **({"queue__name": queue} if queue else {"queue": None})).first()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if queue := form.base_fields.get("queue"):
            queue.empty_label = "All queues"
            widget: Any = queue.widget
            # Links beside the field would edit the queue.
            widget.can_add_related = widget.can_change_related = False
            widget.can_delete_related = widget.can_view_related = False
        return form

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("kind", "applies_to") if obj else ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        has_threshold = obj is None or bool(RULES[AlertKind(obj.kind)].threshold_unit)
        subject = "applies_to" if obj else "queue"
        return ("kind", subject, "is_enabled", *(("threshold",) if has_threshold else ()), "for_s")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        rules = [
            (info, info.format_threshold(info.defaults.threshold), format_delay(info.defaults))
            for info in RULES.values()
        ]
        return super().changelist_view(request, {"rules": rules, **(extra_context or {})})

    @admin.display(description="rule", ordering="kind")
    def rule(self, row: AlertRule) -> str:
        return row.get_kind_display()

    @admin.display(description="state", ordering="is_enabled")
    def state(self, row: AlertRule) -> str:
        return render_state("enabled" if row.is_enabled else "disabled")

    @admin.display(description="applies to")
    def applies_to(self, row: AlertRule) -> str:
        return row.queue.name if row.queue else "all queues"

    @admin.display(description="threshold")
    def threshold_text(self, row: AlertRule) -> str:
        return RULES[AlertKind(row.kind)].format_threshold(row.settings.threshold) or "-"

    @admin.display(description="opens")
    def delay(self, row: AlertRule) -> str:
        return format_delay(row.settings)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        save_alert_rule(obj)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        delete_alert_rule(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            delete_alert_rule(row)


def format_delay(settings: RuleSettings) -> str:
    """Return how long a condition must last before an alert opens."""
    return f"after {durations.humanize_exactly(settings.for_s)}" if settings.for_s else "at once"


def _threshold_help(info: RuleInfo | None) -> str:
    """Return the unit and the default of a rule; with None, the units of all rules that have a threshold."""
    if info is not None:
        return f"In {_unit(info)}. Empty: the default, {info.format_threshold(info.defaults.threshold)}."
    units = [f"{rule.label}: {_unit(rule)}" for rule in RULES.values() if rule.threshold_unit]
    return f"{'; '.join(units)}. Other rules have none. Empty: the default of the rule."


def _unit(info: RuleInfo) -> str:
    return {"%": "percent", "s": "seconds, or a duration such as 10m"}.get(
        info.threshold_unit, f"{info.threshold_unit}s"
    )
