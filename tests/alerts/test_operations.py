"""Alerts open once, stay open through pauses, and are resolved once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.models import Alert, AlertRule
from alerts.operations import delete_alert_rule, save_alert_rule, store_findings, update_alerts
from alerts.queries import load_rule_settings, observe
from alerts.rules import Finding
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.queues.pausing import pause
from runqy.broker.workers.heartbeats import write_heartbeat
from tasks.models import QueueMinute
from tests.alerts.observations import NOW
from tests.queues.samples import spec
from tests.support.maintenance_duties import delete_old_rows, put
from tests.support.runs import insert_runs, make_failure
from tests.support.workers import RECORD
from webhooks.models import Delivery

pytestmark = pytest.mark.usefixtures("configuration")
URL = "http://127.0.0.1:1/hook"


def finding(for_s: int = 0, message: str = "Queue mail fails.", kind: AlertKind = AlertKind.FAILURE_RATE) -> Finding:
    return Finding(kind=kind, subject="mail", queue="mail", message=message, for_s=for_s)


def test_a_finding_opens_one_alert_that_keeps_its_latest_message() -> None:
    store_findings([finding()], now=NOW)
    store_findings([finding(message="Queue mail fails more.")], now=NOW + timedelta(seconds=10))

    (alert,) = Alert.objects.all()
    assert (alert.since, alert.opened_at, alert.resolved_at) == (NOW, NOW, None)
    assert (alert.message, alert.level, alert.queue) == ("Queue mail fails more.", "critical", "mail")


def test_an_alert_opens_when_its_condition_has_lasted_long_enough() -> None:
    store_findings([finding(for_s=60)], now=NOW)
    assert Alert.objects.get().opened_at is None

    store_findings([finding(for_s=60)], now=NOW + timedelta(seconds=59))
    assert Alert.objects.get().opened_at is None

    store_findings([finding(for_s=60)], now=NOW + timedelta(seconds=60))
    assert Alert.objects.get().opened_at == NOW + timedelta(seconds=60)


def test_a_condition_that_did_not_last_leaves_nothing() -> None:
    store_findings([finding(for_s=60)], now=NOW)

    store_findings([], now=NOW + timedelta(seconds=90))

    assert not Alert.objects.exists()


def test_a_brief_pause_does_not_resolve_an_alert() -> None:
    for at_s in (0, 10, 20):
        store_findings([finding()], now=NOW + timedelta(seconds=at_s))

    store_findings([], now=NOW + timedelta(seconds=79))
    assert Alert.objects.get().resolved_at is None

    store_findings([], now=NOW + timedelta(seconds=90))
    assert Alert.objects.get().resolved_at == NOW + timedelta(seconds=90)


def test_a_condition_that_lasts_unchanged_counts_as_seen() -> None:
    for at_s in (0, 40, 80):
        store_findings([finding()], now=NOW + timedelta(seconds=at_s))

    store_findings([], now=NOW + timedelta(seconds=120))

    assert Alert.objects.get().resolved_at is None


def test_a_condition_that_returns_opens_another_alert() -> None:
    for at_s in (0, 90):
        store_findings([finding()] if at_s == 0 else [], now=NOW + timedelta(seconds=at_s))

    store_findings([finding()], now=NOW + timedelta(seconds=120))

    assert Alert.objects.filter(resolved_at=None).count() == 1
    assert Alert.objects.count() == 2


def test_a_finding_with_nul_is_stored_beside_the_others() -> None:
    odd = Finding(kind=AlertKind.WORKER_MISSING, subject="a\0", queue="b\0", message="Worker a\0 is missing.")
    for at_s in (0, 10):
        store_findings([finding(), odd], now=NOW + timedelta(seconds=at_s))

    rows = Alert.objects.filter(resolved_at=None).order_by("kind")
    assert [(alert.kind, alert.subject, alert.queue, alert.message) for alert in rows] == [
        ("failure_rate", "mail", "mail", "Queue mail fails."),
        ("worker_missing", "a\ufffd", "b\ufffd", "Worker a\ufffd is missing."),
    ]

    store_findings([finding()], recovered_workers={"a\0"}, now=NOW + timedelta(seconds=20))
    assert Alert.objects.get(kind="worker_missing").resolved_at is not None


def test_a_missing_worker_is_resolved_when_it_reports_again() -> None:
    store_findings([finding(kind=AlertKind.WORKER_MISSING)], now=NOW)

    store_findings([], now=NOW + timedelta(seconds=300))
    assert Alert.objects.get().resolved_at is None

    store_findings([], recovered_workers={"mail"}, now=NOW + timedelta(seconds=310))
    assert Alert.objects.get().resolved_at is not None


@pytest.mark.django_db(transaction=True)
def test_processes_that_evaluate_at_once_open_and_resolve_an_alert_once(settings) -> None:
    settings.RUNQY_ALERT_WEBHOOK_URL = URL

    def evaluate(at_s: int) -> None:
        try:
            store_findings([finding()] if at_s == 0 else [], now=NOW + timedelta(seconds=at_s))
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(evaluate, [0] * 6))
        list(threads.map(evaluate, [90] * 6))

    assert Alert.objects.count() == 1
    assert sorted(Delivery.objects.values_list("event", flat=True)) == ["alert.opened", "alert.resolved"]


def test_old_alerts_are_deleted() -> None:
    store_findings([finding()], now=NOW - timedelta(days=200))
    store_findings([], now=NOW - timedelta(days=199))
    store_findings([finding()], now=NOW)

    delete_old_rows()

    assert list(Alert.objects.values_list("since", flat=True)) == [NOW]


def test_an_old_alert_that_cannot_be_read_is_deleted_with_the_others() -> None:
    old = timezone.now() - timedelta(days=200)
    for subject in ("a", "b"):
        Alert.objects.create(kind="x", subject=subject, level="warning", since=old, seen_at=old, resolved_at=old)
    time = "-infinity" if connection.vendor == "postgresql" else "odd"
    with connection.cursor() as cursor:
        cursor.execute("UPDATE alerts_alert SET since = %s WHERE subject = 'a'", [time])

    delete_old_rows()

    assert not Alert.objects.exists()


def test_what_runs_and_waits_is_observed(single_broker: Broker) -> None:
    save_queue(spec=spec("mail", "high:10", "low:3"), source=QueueSource.API)
    for number in range(3):
        put(single_broker, f"t{number}", "mail_high")
    insert_runs(*[make_failure() for _ in range(12)], queue="mail", redis_queue="mail_low")

    update_alerts(single_broker)

    found = {(alert.kind, alert.message, alert.opened_at is not None) for alert in Alert.objects.all()}
    assert found == {
        ("no_ready_worker", "Queue mail has 3 pending tasks and no ready worker.", False),
        (
            "failure_rate",
            "100 % of the tasks of queue mail that ended in the last 5 minutes failed (12 of 12; 12 new tasks).",
            True,
        ),
    }


def test_a_sub_queue_without_workers_is_observed_and_a_paused_one_is_not(single_broker: Broker) -> None:
    save_queue(spec=spec("mail", "high:10", "low:3", "off:1"), source=QueueSource.API)
    record = replace(RECORD, worker_id="mail/1", queue="mail", redis_queues={"mail_high": 10})
    single_broker.run(write_heartbeat(record, now_ns=single_broker.now_ns()))
    for name in ("mail_high", "mail_low", "mail_off"):
        put(single_broker, f"t-{name}", name)
    single_broker.run(pause("mail_off", now_ns=single_broker.now_ns()))
    minute = timezone.now().replace(second=0, microsecond=0)
    for name, backlog in (("mail_low", 5), ("mail_off", 300)):
        QueueMinute.objects.create(redis_queue=name, queue="mail", start=minute, backlog=backlog, backlog_max=backlog)

    update_alerts(single_broker)
    (observed,) = observe(single_broker).queues

    assert [alert.message for alert in Alert.objects.all()] == [
        "Sub-queue mail_low has 1 pending task and no ready worker."
    ]
    assert [point.backlog for point in observed.minutes if point.backlog is not None] == [5]


def test_settings_of_a_queue_go_before_those_of_all_and_those_before_the_defaults() -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("post"), source=QueueSource.API)
    save_alert_rule(AlertRule(kind="failure_rate", threshold=50, for_s=30))
    save_alert_rule(AlertRule(kind="failure_rate", queue=Queue.objects.get(name="mail"), is_enabled=False))

    get_settings = load_rule_settings()

    assert get_settings(AlertKind.FAILURE_RATE, "mail").is_enabled is False
    assert get_settings(AlertKind.FAILURE_RATE, "mail").threshold == 20
    assert (
        get_settings(AlertKind.FAILURE_RATE, "post").threshold,
        get_settings(AlertKind.FAILURE_RATE, "post").for_s,
    ) == (50, 30)
    assert get_settings(AlertKind.OLDEST_PENDING, "post").threshold == 600


def test_changes_of_rules_are_audited() -> None:
    rule = AlertRule(kind="oldest_pending", threshold=60)
    save_alert_rule(rule)
    rule.threshold = 120
    save_alert_rule(rule)
    delete_alert_rule(rule)

    records = AuditRecord.objects.filter(object_kind="alert_rule").order_by("number")
    assert [(row.action, row.object_name) for row in records] == [
        ("alert_rule.created", "oldest_pending"),
        ("alert_rule.updated", "oldest_pending"),
        ("alert_rule.deleted", "oldest_pending"),
    ]
    assert '"threshold":{"new":120,"old":60' in records[1].changes
