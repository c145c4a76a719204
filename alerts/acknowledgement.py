"""Acknowledge and snooze alerts, one or all of a queue.

Nothing more is sent about an acknowledged alert. A snooze that ends while the alert is open sends its opening again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from alerts.models import NAME_MAX_LENGTH, Alert, QueueSnooze
from alerts.queries import AlertState, filter_alerts
from queues.catalog import AllowedQueues
from queues.models import Queue
from runqy.audit.actors import current_actor
from runqy.audit.operations import Change, record
from runqy.errors import AlertNotFound, AlertResolved, QueueNotFound, RequestInvalid
from webhooks.deliveries import withdraw
from webhooks.models import Delivery

NOTE_MAX_LENGTH = 1000
SNOOZE_MAX = timedelta(days=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSelection:
    """One alert, or the open alerts of a queue."""

    alert_id: int | None = None
    queue: str = ""
    allowed_queues: AllowedQueues = None


def acknowledge(selection: AlertSelection, *, note: str = "") -> list[Alert]:
    """Send nothing more about alerts, and return them. Raise AlertNotFound, AlertResolved, QueueNotFound."""
    with transaction.atomic():
        changed = _silence(_select(selection), "acknowledged", note, acknowledged_at=timezone.now(), snoozed_until=None)
        _record("acknowledged", selection, {"note": (None, note)} if note else {})
    return changed


def snooze(selection: AlertSelection, *, until: datetime, note: str = "") -> list[Alert]:
    """Send nothing about alerts until a time, and return them; of a queue, also about those that open until then.

    Acknowledged alerts of a queue stay so. Raise RequestInvalid for a time that is past or too far away, and as
    `acknowledge`.
    """
    now = timezone.now()
    if not now < until <= now + SNOOZE_MAX:
        raise RequestInvalid(errors=[f"until: Must be a time within the next {SNOOZE_MAX.days} days."])
    with transaction.atomic():
        alerts = _select(selection)
        if selection.queue:
            defaults = {"until": until, "note": note, "noted_by": _actor_name()}
            QueueSnooze.objects.update_or_create(queue=selection.queue, defaults=defaults)
            alerts = alerts.filter(acknowledged_at=None)
        changed = _silence(alerts, "snoozed", note, acknowledged_at=None, snoozed_until=until, is_withheld=True)
        _record("snoozed", selection, {"until": (None, until.isoformat())} | ({"note": (None, note)} if note else {}))
    return changed


def resume(selection: AlertSelection) -> list[Alert]:
    """Resume alerts that are acknowledged or snoozed, so that their openings are sent again; return them.

    Raise as `acknowledge`.
    """
    with transaction.atomic():
        silenced = _select(selection).exclude(acknowledged_at=None, snoozed_until=None)
        QueueSnooze.objects.filter(queue=selection.queue).delete()
        changed = _update(silenced, acknowledged_at=None, snoozed_until=None, note="", noted_by="", is_withheld=True)
        _record("resumed", selection, {})
    return changed


def _silence(alerts: QuerySet[Alert], verb: str, note: str, **columns: Any) -> list[Alert]:
    changed = _update(alerts, note=note, noted_by=_actor_name(), **{"is_withheld": False} | columns)
    withdraw(Delivery.objects.filter(alerts__in=changed), f"The alert was {verb}.")
    return changed


def _update(alerts: QuerySet[Alert], **columns: Any) -> list[Alert]:
    ids = list(alerts.values_list("pk", flat=True))
    Alert.objects.filter(pk__in=ids, resolved_at=None).update(**columns)
    return list(Alert.objects.filter(pk__in=ids).order_by("-pk"))


def _actor_name() -> str:
    return current_actor().name[:NAME_MAX_LENGTH]


def _record(verb: str, selection: AlertSelection, changes: Mapping[str, Change]) -> None:
    if selection.queue:
        record(action=f"queue.alerts_{verb}", object_kind="queue", object_name=selection.queue, changes=changes)
    else:
        record(action=f"alert.{verb}", object_kind="alert", object_name=str(selection.alert_id), changes=changes)


def _select(selection: AlertSelection) -> QuerySet[Alert]:
    """Return the open alerts. Raise AlertNotFound, AlertResolved, QueueNotFound."""
    alerts, allowed = filter_alerts(AlertState.ALL), selection.allowed_queues
    if selection.alert_id is None:
        is_allowed = allowed is None or selection.queue in allowed
        if not is_allowed or not Queue.objects.filter(name=selection.queue).exists():
            raise QueueNotFound(f"No queue {selection.queue[:128]!r}.")
        return alerts.filter(queue=selection.queue, resolved_at=None)
    alerts = alerts.filter(pk=selection.alert_id, **({} if allowed is None else {"queue__in": allowed}))
    if not (alert := alerts.first()):
        raise AlertNotFound(f"No alert {selection.alert_id}.")
    if alert.resolved_at:
        raise AlertResolved
    return alerts
