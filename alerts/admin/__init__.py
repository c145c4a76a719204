"""The admin pages of alerts and of their rules."""

from django.contrib import admin

from alerts.admin.alerts import AlertAdmin
from alerts.admin.rules import AlertRuleAdmin
from alerts.models import Alert, AlertRule

admin.site.register(Alert, AlertAdmin)
admin.site.register(AlertRule, AlertRuleAdmin)
