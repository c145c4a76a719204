"""Open, update and resolve alerts by what the rules found, record their deliveries, and change rules.

Several maintenance processes may do so at once: rows change by compare-and-set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from alerts.models import (
    ERROR_MAX_LENGTH,
    SUBJECT_MAX_LENGTH,
    UNDELIVERED,
    Alert,
    AlertDelivery,
    AlertRule,
    DeliveryEvent,
    KnownMaster,
)
from alerts.queries import load_rule_settings, observe
from alerts.rules import RULES, AlertKind, Finding, find_problems, list_recovered_workers
from runqy.audit.changes import diff
from runqy.audit.operations import record
from runqy.broker.broker import Broker
from runqy.broker.replies import replace_nul

SEEN_INTERVAL = timedelta(seconds=30)
"""The time of the last observation is written no more often than this."""
KEPT_FOR = timedelta(days=90)
DELETE_BATCH_SIZE = 500
CLAIM = timedelta(seconds=60)
"""How long a claimed delivery is left alone by other processes. Longer than an attempt takes."""
FIRST_DELAY_S, MAX_DELAY_S = 10, 3600
ABANDON_AFTER = timedelta(days=1)

log = structlog.get_logger()

_Key = tuple[str, str]  # kind, subject


def update_alerts(broker: Broker) -> None:
    """Observe the installation, apply the rules, and store the result. Raise BrokerUnavailable, DatabaseError."""
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
    _create(found, unresolved, now)
    for key, alert in unresolved.items():
        if key in found:
            _update(alert, found[key], now)
        elif key in recovered or now - alert.seen_at >= _keep_time(AlertKind(alert.kind)):
            _resolve(alert, now)


def delete_old_alerts() -> int:
    """Delete alerts that were resolved more than 90 days ago, at most one batch; return how many."""
    old = Alert.objects.filter(resolved_at__lt=timezone.now() - KEPT_FOR).order_by("resolved_at")
    deleted, _ = Alert.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:DELETE_BATCH_SIZE])).delete()
    return deleted


def claim_delivery(delivery: AlertDelivery, now: datetime) -> bool:
    """Reserve an attempt to send a delivery for this process; return False if another process was first."""
    free = AlertDelivery.objects.filter(UNDELIVERED, pk=delivery.pk, due_at=delivery.due_at)
    return bool(free.update(due_at=now + CLAIM, attempts=delivery.attempts + 1))


def record_delivered(delivery: AlertDelivery) -> None:
    AlertDelivery.objects.filter(UNDELIVERED, pk=delivery.pk).update(delivered_at=timezone.now(), error="")


def record_failed_attempt(delivery: AlertDelivery, error: str, now: datetime) -> None:
    """Record why a delivery that was claimed at `now` failed, unless another process has claimed it since.

    It is sent again, after a growing delay, until it is a day old.
    """
    delay = timedelta(seconds=min(FIRST_DELAY_S * 2 ** min(delivery.attempts, 16), MAX_DELAY_S))
    is_last = now - delivery.created_at >= ABANDON_AFTER
    AlertDelivery.objects.filter(UNDELIVERED, pk=delivery.pk, due_at=now + CLAIM).update(
        due_at=now + delay, abandoned_at=now if is_last else None, error=error[:ERROR_MAX_LENGTH]
    )
    log.warning("alert_webhook_failed", alert=delivery.alert_id, message_type=delivery.event, error=error)


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


def _create(found: Mapping[_Key, Finding], unresolved: Mapping[_Key, Alert], now: datetime) -> None:
    new = {key: finding for key, finding in found.items() if key not in unresolved}
    if not new:
        return
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
    for row in rows:
        if (finding := new.get((row.kind, row.subject))) is not None:
            _open_if_due(row, finding, now)


def _update(alert: Alert, finding: Finding, now: datetime) -> None:
    if alert.message != finding.message or now - alert.seen_at >= SEEN_INTERVAL:
        Alert.objects.filter(pk=alert.pk, resolved_at=None).update(message=finding.message, seen_at=now)
    _open_if_due(alert, finding, now)


def _open_if_due(alert: Alert, finding: Finding, now: datetime) -> None:
    """Open an alert whose condition has lasted long enough. Of several processes, one succeeds."""
    if alert.opened_at is not None or now - alert.since < timedelta(seconds=finding.for_s):
        return
    with transaction.atomic():
        if Alert.objects.filter(pk=alert.pk, opened_at=None, resolved_at=None).update(opened_at=now):
            _schedule_delivery(alert, DeliveryEvent.OPENED, now)
            log.warning("alert_opened", kind=alert.kind, subject=alert.subject, message=finding.message)


def _resolve(alert: Alert, now: datetime) -> None:
    if alert.opened_at is None:
        Alert.objects.filter(pk=alert.pk, opened_at=None, resolved_at=None).delete()
        return
    with transaction.atomic():
        if Alert.objects.filter(pk=alert.pk, resolved_at=None).update(resolved_at=now):
            _schedule_delivery(alert, DeliveryEvent.RESOLVED, now)
            log.info("alert_resolved", kind=alert.kind, subject=alert.subject)


def _schedule_delivery(alert: Alert, event: DeliveryEvent, now: datetime) -> None:
    if settings.RUNQY_ALERT_WEBHOOK_URL:
        AlertDelivery.objects.create(alert=alert, event=event, created_at=now, due_at=now)
