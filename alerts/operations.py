"""Open, update and resolve alerts by what the rules found, make their messages, and change rules.

Several maintenance processes may do so at once: rows change by compare-and-set.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from alerts.kinds import OF_ENDPOINTS, AlertKind, consequences_of
from alerts.links import get_alert_link
from alerts.models import SUBJECT_MAX_LENGTH, Alert, AlertRule, KnownMaster, QueueSnooze
from alerts.queries import (
    NOT_SILENCED,
    exclude_consequences,
    filter_told_causes,
    list_related,
    load_rule_settings,
    observe,
)
from alerts.rules import RULES, Finding, failures, find_problems, is_evaluated, list_recovered_workers
from queues.deletion import register_cleanup
from runqy.audit.operations import diff, record
from runqy.broker.broker import Broker
from runqy.broker.replies import replace_nul
from runqy.core.formats.names import QUEUE_NAME_MAX_LENGTH
from webhooks.messages import AlertMessage, MessageText, schedule_alert
from webhooks.models import EndpointEvent

SEEN_INTERVAL = timedelta(seconds=30)
"""The time of the last observation is written no more often than this."""
KEPT_FOR = timedelta(days=90)

log = structlog.get_logger()

_Key = tuple[str, str]  # kind, subject


def update_alerts(broker: Broker) -> None:
    """Observe the installation, apply the rules, and store the result. Raise BrokerUnavailable, DatabaseError."""
    failures.begin_pass()
    observed = observe(broker)
    findings = find_problems(observed, load_rule_settings())
    store_findings(findings, recovered_workers=list_recovered_workers(observed), now=observed.now)
    # Stored last: a process that ends before finds the failover again. No id is removed, because a cluster may not list
    # a master for a moment while it fails over.
    new = {master.replication_id for master in observed.masters}.difference(observed.known_masters)
    KnownMaster.objects.bulk_create([KnownMaster(replication_id=each) for each in new], ignore_conflicts=True)


def store_findings(findings: Iterable[Finding], *, recovered_workers: Iterable[str] = (), now: datetime) -> None:
    """Open alerts for new findings, update those that exist, and resolve those of conditions that no longer hold."""
    found = {(finding.kind.value, finding.subject): finding for finding in map(_to_storable, findings)}
    recovered = {(AlertKind.WORKER_MISSING.value, _to_storable_name(worker_id)) for worker_id in recovered_workers}
    unresolved = {(row.kind, row.subject): row for row in Alert.objects.filter(resolved_at__isnull=True)}
    new = [(key, finding) for key, finding in found.items() if key not in unresolved]
    created: dict[_Key, Alert] = {}
    failures.handle(
        new,
        lambda part: created.update(_create(dict(part), now)),
        describe=lambda each: (f"new {each[0]}", f"{each[0][0]} of {each[0][1]}", each[1].queue),
    )
    for key, alert in _each(unresolved):
        with _isolate(alert):
            if key in found:
                _update(alert, found[key], now)
            elif not is_evaluated(alert.kind, alert.subject, alert.queue):
                pass  # nobody knows whether its condition holds
            elif key in recovered or now - alert.seen_at >= _keep_time(AlertKind(alert.kind)):
                _resolve(alert, now)
    waiting = [alert for key, alert in _each({**created, **unresolved}) if key in found and not alert.opened_at]
    # Causes first: what they explain is not sent.
    for alert in sorted(waiting, key=lambda alert: -len(consequences_of(AlertKind(alert.kind)))):
        with _isolate(alert):
            _open_if_due(alert, found[alert.kind, alert.subject], now)
    _send_withheld(now)


def _each(alerts: Mapping[_Key, Alert]) -> list[tuple[_Key, Alert]]:
    return [(key, alert) for key, alert in alerts.items() if not failures.is_paused(_row_key(alert))]


def _row_key(alert: Alert) -> str:
    return f"alert {alert.pk}"


def _isolate(alert: Alert) -> AbstractContextManager[None]:
    return failures.isolate(_row_key(alert), name=f"{alert.kind} of {alert.subject}", queue=alert.queue)


def find_old_alerts() -> QuerySet[Alert]:
    """Return alerts that were resolved more than KEPT_FOR ago."""
    return Alert.objects.filter(resolved_at__lt=timezone.now() - KEPT_FOR).order_by("resolved_at")


def find_old_snoozes() -> QuerySet[QueueSnooze]:
    """Return snoozes of queues that are over."""
    return QueueSnooze.objects.filter(until__lte=timezone.now())


def save_alert_rule(rule: AlertRule) -> None:
    with transaction.atomic():
        old = AlertRule.objects.filter(pk=rule.pk).first() if rule.pk else None
        rule.save()
        if changes := diff(_audited_fields(old) if old else {}, _audited_fields(rule)):
            verb = "updated" if old else "created"
            record(action=f"alert_rule.{verb}", object_kind="alert_rule", object_name=rule.audit_name, changes=changes)


def delete_alert_rule(rule: AlertRule) -> None:
    """Delete the settings of a rule, so that its defaults apply again."""
    with transaction.atomic():
        name, changes = rule.audit_name, diff(_audited_fields(rule), {})
        rule.delete()
        record(action="alert_rule.deleted", object_kind="alert_rule", object_name=name, changes=changes)


@register_cleanup
def forget_queue(queue: str) -> None:
    """Delete the rules and the snooze of a queue that is being deleted: a later one of its name begins without them."""
    for rule in AlertRule.objects.filter(queue__name=queue):
        delete_alert_rule(rule)
    QueueSnooze.objects.filter(queue=queue).delete()


def _audited_fields(rule: AlertRule) -> dict[str, object]:
    queue = rule.queue.name if rule.queue else None
    return {"queue": queue, "is_enabled": rule.is_enabled, "threshold": rule.threshold, "for_s": rule.for_s}


def _keep_time(kind: AlertKind) -> timedelta:
    """Return how long an alert stays open after `seen_at`, which may be SEEN_INTERVAL older than the last
    observation.
    """
    keep_s = RULES[kind].keep_s
    return timedelta(seconds=keep_s) + SEEN_INTERVAL if keep_s else timedelta()


def _to_storable(finding: Finding) -> Finding:
    """Return a finding with texts that the database accepts. Workers can write anything into them."""
    return replace(
        finding,
        subject=_to_storable_name(finding.subject),
        queue=_to_storable_name(finding.queue),
        message=replace_nul(finding.message),
    )


def _to_storable_name(name: str) -> str:
    return replace_nul(name[:SUBJECT_MAX_LENGTH])


def _create(new: Mapping[_Key, Finding], now: datetime) -> dict[_Key, Alert]:
    if not new:
        return {}
    Alert.objects.bulk_create(
        [
            Alert(
                kind=kind,
                subject=subject,
                level=RULES[finding.kind].level.value,
                queue=finding.queue,
                message=finding.message,
                since=now,
                seen_at=now,
            )
            for (kind, subject), finding in new.items()
        ],
        # Another process may insert the same row: the constraint allows one unresolved alert of a kind and subject.
        ignore_conflicts=True,
    )
    rows = Alert.objects.filter(resolved_at__isnull=True, kind__in={kind for kind, _ in new})
    return {key: row for row in rows if (key := (row.kind, row.subject)) in new}


def _update(alert: Alert, finding: Finding, now: datetime) -> None:
    if alert.message != finding.message or now - alert.seen_at >= SEEN_INTERVAL:
        Alert.objects.filter(pk=alert.pk, resolved_at=None).update(message=finding.message, seen_at=now)


def _open_if_due(alert: Alert, finding: Finding, now: datetime) -> None:
    """Open an alert whose condition has lasted long enough. Of several processes, one succeeds."""
    if now - alert.since < timedelta(seconds=finding.for_s):
        return
    with transaction.atomic():
        if not Alert.objects.filter(pk=alert.pk, opened_at=None, resolved_at=None).update(opened_at=now):
            return
        alert.opened_at, alert.message = now, finding.message
        if snooze := QueueSnooze.objects.filter(queue=alert.queue, until__gt=now).first():
            columns = {"snoozed_until": snooze.until, "note": snooze.note, "noted_by": snooze.noted_by}
            Alert.objects.filter(pk=alert.pk).update(is_withheld=True, **columns)
        elif not exclude_consequences(Alert.objects.filter(pk=alert.pk), filter_told_causes(now)).exists():
            Alert.objects.filter(pk=alert.pk).update(is_withheld=True)
        else:
            _schedule_message(alert, EndpointEvent.ALERT_OPENED, now)
    log.warning("alert_opened", kind=alert.kind, subject=alert.subject, message=finding.message)


def _send_withheld(now: datetime) -> None:
    """Send the openings of alerts whose snooze or cause is over."""
    unresolved = Alert.objects.filter(resolved_at=None)
    unresolved.filter(snoozed_until__lte=now).update(snoozed_until=None)
    withheld = unresolved.filter(NOT_SILENCED, is_withheld=True)
    for _, alert in _each(
        {(row.kind, row.subject): row for row in exclude_consequences(withheld, filter_told_causes(now))}
    ):
        with _isolate(alert), transaction.atomic():
            if withheld.filter(pk=alert.pk).update(is_withheld=False):
                # An id of its own: receivers ignore those that they have seen.
                _schedule_message(alert, EndpointEvent.ALERT_OPENED, now, suffix=f"_{int(now.timestamp())}")


def _resolve(alert: Alert, now: datetime) -> None:
    if alert.opened_at is None:
        Alert.objects.filter(pk=alert.pk, opened_at=None, resolved_at=None).delete()
        return
    with transaction.atomic():
        if not Alert.objects.filter(pk=alert.pk, resolved_at=None).update(resolved_at=now):
            return
        alert.refresh_from_db()  # it may have been acknowledged or snoozed since it was read
        if alert.acknowledged_at is None and not alert.is_withheld:
            _schedule_message(alert, EndpointEvent.ALERT_RESOLVED, now)
    log.info("alert_resolved", kind=alert.kind, subject=alert.subject)


def alert_data(alert: Alert) -> dict[str, Any]:
    """Return an alert as messages and the API have it."""
    path, _ = get_alert_link(alert)
    related = list_related([alert])[alert.pk]
    names = ("since", "opened_at", "resolved_at", "acknowledged_at", "snoozed_until")
    times = {name: getattr(alert, name) for name in names}
    return {
        "id": alert.pk,
        "kind": alert.kind,
        "level": alert.level,
        "queue": alert.queue or None,
        "subject": alert.subject or None,
        "message": alert.message,
        "note": alert.note or None,
        "noted_by": alert.noted_by or None,
        "causes": [each.pk for each in related.causes],
        "consequences": [each.pk for each in related.consequences],
        **{name: time and time.replace(microsecond=0) for name, time in times.items()},
        "url": f"{settings.RUNQY_PUBLIC_URL}{path}",
    }


def _schedule_message(alert: Alert, event: EndpointEvent, now: datetime, *, suffix: str = "") -> None:
    rule, lasted = RULES[AlertKind(alert.kind)], f"It lasted {alert.lasted}." if alert.resolved_at else ""
    data = alert_data(alert)
    about = [f"Queue: {alert.queue}."] if alert.queue else []
    text = MessageText(
        title=f"{'Resolved' if alert.resolved_at else alert.level.capitalize()}: {alert.message}",
        lines=[" ".join([f"Rule: {rule.label}.", *about, lasted or f"Since {alert.since:%Y-%m-%d %H:%M} UTC."])],
        url=data["url"] if settings.RUNQY_PUBLIC_URL else "",
    )
    message = AlertMessage(
        event=event,
        message_id=f"alert_{alert.pk}_{event.removeprefix('alert.')}{suffix}",
        level=alert.level,
        queue=alert.queue[:QUEUE_NAME_MAX_LENGTH],
        about_endpoint=alert.subject if alert.kind in OF_ENDPOINTS else "",
        data=data,
        text=text,
    )
    previous = {delivery.endpoint_id: delivery for delivery in alert.deliveries.order_by("pk")}
    alert.deliveries.add(*schedule_alert(message, previous=previous, now=now))
