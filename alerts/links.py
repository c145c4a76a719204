"""The page that shows what an alert is about."""

from contextlib import suppress
from datetime import timedelta

from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.http import urlencode

from alerts.conditions import DROP_WINDOW_MIN, FAILURE_WINDOW_MIN
from alerts.kinds import OF_ENDPOINTS, AlertKind
from alerts.models import Alert
from queues.queries import list_unreadable_vaults_of
from runqy.accounts.queries import INACTIVE
from runqy.admin_site.labels import changelist_url
from runqy.admin_site.times import format_absolute
from runqy.errors import ConfigurationUnavailable, VaultLocked, VaultNotFound
from vaults.models import Vault


def get_alert_link(alert: Alert) -> tuple[str, str]:  # noqa: PLR0912 (a case for each kind)
    """Return URL and title of the page that shows the cause of an alert."""
    match AlertKind(alert.kind):
        case AlertKind.WORKER_MISSING | AlertKind.WORKER_START_FAILED | AlertKind.WORKER_NOT_CONSUMING:
            url, title = reverse("admin:workers_worker_change", args=[quote(alert.subject)]), "Worker"
        case AlertKind.NO_READY_WORKER | AlertKind.REPLACEMENT_STALLED:
            url, title = changelist_url("workers_worker", queue=alert.queue), "Workers"
        case AlertKind.VAULT_UNREADABLE:
            url, title = _find_vault(alert.queue) if alert.queue else (changelist_url("vaults_vault"), "Vaults")
        case AlertKind.OLDEST_PENDING | AlertKind.BACKLOG_GROWING:
            url, title = changelist_url("tasks_task", parent=alert.queue, state="pending"), "Pending tasks"
        case AlertKind.FAILURE_RATE:
            times = _find_times(alert, FAILURE_WINDOW_MIN)
            url, title = changelist_url("tasks_task", queue=alert.queue, outcome="failure", **times), "Failures"
        case AlertKind.CONFIGURATION_NOT_PUBLISHED:  # the list shows what differs; a queue's page can publish it
            url, title = changelist_url("queues_queue"), "Publication of queues"
        case AlertKind.SHARED_DEATHS | AlertKind.ENDS_BACKLOG | AlertKind.ENDS_NEARLY_FULL:
            url, title = reverse("admin:queues_queue_by_name", args=[alert.queue]), "Queue"
        case AlertKind.FIRE_MISSED | AlertKind.ENQUEUE_UNKNOWN:
            url, title = changelist_url("schedules_schedule"), "Schedules"
        case AlertKind.ROW_FAILED if alert.queue:
            url, title = reverse("admin:queues_queue_by_name", args=[alert.queue]), "Queue"
        case AlertKind.ROW_FAILED:
            url, title = changelist_url("alerts_alert"), "Alerts"
        case kind if kind in OF_ENDPOINTS:
            url, title = reverse("admin:webhooks_endpoint_change", args=[quote(alert.subject)]), "Webhook endpoint"
        case AlertKind.RELEASE_REVERTED:
            url, title = f"{reverse('admin:tasks_task_releases')}?{urlencode({'queue': alert.queue})}", "Releases"
        case AlertKind.BATCH_INCOMPLETE | AlertKind.BATCH_ABANDONED:
            url, title = reverse("admin:batches_batch_change", args=[alert.subject]), "Batch"
        case AlertKind.INACTIVE_KEY_CREATOR:
            url, title = changelist_url("accounts_apikey", creator=INACTIVE, status="active"), "API keys"
        case AlertKind.REDIS_MEMORY:
            url, title = changelist_url("queues_queue"), "Queues"
        case AlertKind.HISTORY_DROPPED | AlertKind.REDIS_FAILOVER:
            times = _find_times(alert, DROP_WINDOW_MIN)
            url, title = changelist_url("tasks_task", queue=alert.queue, state="ended", **times), "History at that time"
    return url, title


def _find_vault(queue: str) -> tuple[str, str]:
    """Return the page of the vault that cannot be decrypted now; that of the queue if there are several, or another
    error.
    """
    with suppress(VaultLocked, VaultNotFound, ConfigurationUnavailable):
        unreadable = list_unreadable_vaults_of(queue)
        if len(unreadable) == 1:
            return reverse("admin:vaults_vault_change", args=[Vault.objects.get_named(unreadable[0]).pk]), "Vault"
    return reverse("admin:queues_queue_by_name", args=[queue]), "Queue"


def _find_times(alert: Alert, window_min: int) -> dict[str, str]:
    """Return the filter for the runs that opened an alert, and for those that followed until it was resolved."""
    first = alert.since.replace(second=0) - timedelta(minutes=window_min - 1)  # rules add up whole minutes
    times = {"since": first, "until": alert.resolved_at}
    return {name: format_absolute(time) for name, time in times.items() if time}
