"""The admin pages of alerts and of their rules."""

from alerts.admin.alerts import AlertAdmin
from alerts.admin.rules import AlertRuleAdmin

__all__ = ["AlertAdmin", "AlertRuleAdmin"]
