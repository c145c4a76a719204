"""A template tag for the open alerts of a queue, for templates of apps that must not import this one."""

from typing import Any

from django import template

from alerts.links import get_alert_link
from alerts.queries import AlertState, list_alerts
from alerts.rules import AlertKind, AlertLevel

register = template.Library()

_LIMIT = 10


@register.inclusion_tag("alerts/of_queue.html")
def open_alerts(queue: str) -> dict[str, Any]:
    """Render the open alerts of a queue, except those about its vaults: the queue's page shows these itself."""
    page = list_alerts(AlertState.OPEN, queue=queue, limit=_LIMIT)
    alerts = [alert for alert in page.alerts if alert.kind != AlertKind.VAULT_UNREADABLE.value]
    return {
        "alerts": [(alert, alert.level == AlertLevel.CRITICAL, *get_alert_link(alert)) for alert in alerts],
        "has_more": page.end is not None,
        "queue": queue,
    }
