"""The page that shows what an alert is about."""

from datetime import UTC, timedelta

from django.contrib.admin.utils import quote
from django.urls import reverse

from alerts.models import Alert
from alerts.rules import DROP_WINDOW_MIN, FAILURE_WINDOW_MIN, AlertKind
from runqy.admin_site.links import changelist_url


def get_alert_link(alert: Alert) -> tuple[str, str]:
    """Return URL and title of the page where the cause of an alert is seen."""
    match AlertKind(alert.kind):
        case AlertKind.WORKER_MISSING:  # it has a page only for a minute
            url, title = changelist_url("tasks_task", worker=alert.subject), "Runs of the worker"
        case AlertKind.WORKER_START_FAILED:
            url, title = reverse("admin:workers_worker_change", args=[quote(alert.subject)]), "Worker"
        case AlertKind.NO_READY_WORKER:
            url, title = changelist_url("workers_worker", queue=alert.queue), "Workers"
        case AlertKind.VAULT_UNREADABLE:  # the page names the vaults and entries
            url, title = reverse("admin:queues_queue_by_name", args=[alert.queue]), "Queue"
        case AlertKind.OLDEST_PENDING | AlertKind.BACKLOG_GROWING:
            url, title = changelist_url("tasks_task", parent=alert.queue, state="pending"), "Pending tasks"
        case AlertKind.FAILURE_RATE:
            times = _find_times(alert, FAILURE_WINDOW_MIN)
            url, title = changelist_url("tasks_task", queue=alert.queue, outcome="failure", **times), "Failures"
        case AlertKind.CONFIGURATION_NOT_PUBLISHED:  # the list says what differs, and the page of a queue publishes it
            url, title = changelist_url("queues_queue"), "Publication of queues"
        case AlertKind.HISTORY_DROPPED:
            times = _find_times(alert, DROP_WINDOW_MIN)
            url, title = changelist_url("tasks_task", queue=alert.queue, state="ended", **times), "History at that time"
    return url, title


def _find_times(alert: Alert, window_min: int) -> dict[str, str]:
    """Return the filter of the runs that opened an alert, and of those that followed until it was resolved."""
    first = alert.since.replace(second=0) - timedelta(minutes=window_min - 1)  # the rules sum whole minutes
    times = {"since": first, "until": alert.resolved_at}
    return {name: f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S}" for name, time in times.items() if time}
