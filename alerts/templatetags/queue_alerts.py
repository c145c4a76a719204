"""A template tag for the open alerts of a queue, for templates of apps that must not import this one."""

from typing import Any

from django import template

from alerts.kinds import AlertKind, AlertLevel
from alerts.links import get_alert_link
from alerts.queries import AlertState, exclude_consequences, filter_alerts, find_snooze

register = template.Library()

_LIMIT = 10


@register.inclusion_tag("alerts/of_queue.html", takes_context=True)
def open_alerts(context: Any, queue: str) -> dict[str, Any]:
    """Render the open alerts of a queue, except consequences of others, and those about its vaults: the queue's page
    shows these itself.
    """
    found = exclude_consequences(filter_alerts(AlertState.OPEN)).filter(queue=queue)
    alerts = list(found.exclude(kind=AlertKind.VAULT_UNREADABLE.value).order_by("-pk")[: _LIMIT + 1])
    return {
        "alerts": [(alert, alert.level == AlertLevel.CRITICAL, *get_alert_link(alert)) for alert in alerts[:_LIMIT]],
        "has_more": len(alerts) > _LIMIT,
        "queue": queue,
        "snooze": find_snooze(queue),
        "may_acknowledge": context["request"].user.has_perm("alerts.acknowledge_alert"),
    }
