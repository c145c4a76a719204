"""Acknowledged and snoozed alerts send nothing more; a snooze that ends while the condition lasts sends again."""

import json
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from alerts.acknowledgement import AlertSelection, acknowledge, resume, snooze
from alerts.kinds import AlertKind
from alerts.models import Alert, AlertRule, QueueSnooze
from alerts.operations import save_alert_rule, store_findings
from alerts.rules import Finding
from queues import deletion
from queues.deletion import delete_queue
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.audit.models import AuditRecord
from runqy.core.api_keys import Role
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.staff import staff_client
from tests.webhooks.receiver import Receiver, send_due
from webhooks.models import UNDELIVERED, Delivery

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration", "stopped_time")]
HOUR = timedelta(hours=1)


@pytest.fixture
def stopped_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no delivery become due because the machine is busy."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


def evaluate(*subjects: str, after: timedelta = timedelta()) -> datetime:
    """Evaluate the rules when these queues fail; send what is due. Return the time of the evaluation."""
    for queue in ("mail", "post"):
        save_queue(spec=spec(queue), source=QueueSource.API)
    kind, now = AlertKind.FAILURE_RATE, timezone.now() + after
    findings = [Finding(kind=kind, subject=name, queue=name, message=f"{name} fails.") for name in subjects]
    store_findings(findings, now=now)
    Delivery.objects.filter(UNDELIVERED).update(due_at=timezone.now())
    send_due()
    return now


def sent(receiver: Receiver) -> list[str]:
    return [f"{body['type']} {body['data']['queue']}" for body in (json.loads(body) for _, body in receiver.requests)]


def the_alert(queue: str = "mail") -> AlertSelection:
    return AlertSelection(alert_id=Alert.objects.get(queue=queue, resolved_at=None).pk)


def test_an_acknowledged_alert_sends_nothing_more_and_is_resolved(receiver: Receiver) -> None:
    evaluate("mail")
    (changed,) = acknowledge(the_alert(), note="On it.")

    evaluate("mail", after=HOUR)
    evaluate(after=2 * HOUR)

    assert sent(receiver) == ["alert.opened mail"]
    alert = Alert.objects.get()
    assert (alert.pk, alert.note, alert.noted_by, alert.resolved_at is not None) == (
        changed.pk,
        "On it.",
        "server",
        True,
    )


def test_what_was_not_accepted_before_is_not_sent_again(receiver: Receiver) -> None:
    receiver.status = 500
    evaluate("mail")

    acknowledge(the_alert())
    receiver.status = 200
    evaluate("mail", after=HOUR)

    assert sent(receiver) == ["alert.opened mail"]
    assert Delivery.objects.get().error == "The alert was acknowledged."


def test_a_snooze_that_ends_while_the_condition_lasts_sends_again(receiver: Receiver) -> None:
    evaluate("mail")
    snooze(the_alert(), until=timezone.now() + HOUR)

    evaluate("mail", after=HOUR - timedelta(seconds=1))
    assert sent(receiver) == ["alert.opened mail"]
    evaluate("mail", after=HOUR)
    evaluate("mail", after=HOUR + timedelta(seconds=10))
    evaluate(after=2 * HOUR)

    assert sent(receiver) == ["alert.opened mail"] * 2 + ["alert.resolved mail"]
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 3


def test_an_alert_that_is_resolved_during_its_snooze_sends_nothing_more(receiver: Receiver) -> None:
    evaluate("mail")
    snooze(the_alert(), until=timezone.now() + HOUR)

    evaluate(after=HOUR / 2)
    evaluate(after=2 * HOUR)

    assert sent(receiver) == ["alert.opened mail"]
    assert Alert.objects.get().resolved_at is not None


def test_a_snoozed_queue_is_silent_also_about_what_opens_meanwhile(receiver: Receiver) -> None:
    evaluate()
    snooze(AlertSelection(queue="mail"), until=timezone.now() + HOUR, note="Moving.")

    evaluate("mail", "post")
    assert sent(receiver) == ["alert.opened post"]
    evaluate("mail", "post", after=HOUR)

    assert sent(receiver) == ["alert.opened post", "alert.opened mail"]
    evaluate("post", after=2 * HOUR)
    assert sent(receiver)[2:] == ["alert.resolved mail"]


def test_a_queue_is_acknowledged_with_the_alerts_that_are_open(receiver: Receiver) -> None:
    evaluate("mail", "post")

    assert [alert.queue for alert in acknowledge(AlertSelection(queue="mail"))] == ["mail"]
    evaluate(after=HOUR)
    evaluate("mail", after=2 * HOUR)

    assert sorted(sent(receiver)[:2]) == ["alert.opened mail", "alert.opened post"]
    assert sent(receiver)[2:] == ["alert.resolved post", "alert.opened mail"]


def test_a_resumed_alert_is_sent_again(receiver: Receiver) -> None:
    evaluate("mail")
    acknowledge(the_alert(), note="On it.")
    snooze(AlertSelection(queue="mail"), until=timezone.now() + HOUR)  # which acknowledged ones are not

    resume(AlertSelection(queue="mail"))
    evaluate("mail", after=timedelta(seconds=10))

    assert sent(receiver) == ["alert.opened mail"] * 2
    assert (Alert.objects.get().note, QueueSnooze.objects.exists()) == ("", False)


def test_a_snoozed_queue_keeps_its_acknowledged_alerts(receiver: Receiver) -> None:
    evaluate("mail")
    acknowledge(the_alert(), note="On it.")

    snooze(AlertSelection(queue="mail"), until=timezone.now() + HOUR, note="Moving.")
    evaluate("mail", after=HOUR + timedelta(seconds=10))

    alert = Alert.objects.get()
    assert (alert.note, alert.acknowledged_at is not None, alert.snoozed_until) == ("On it.", True, None)
    assert sent(receiver) == ["alert.opened mail"]


def test_a_later_queue_of_the_name_has_neither_snooze_nor_rules_of_a_deleted_one(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "PROPAGATION_S", 0)
    evaluate()
    for name in ("mail", "post"):
        snooze(AlertSelection(queue=name), until=timezone.now() + HOUR)
        save_alert_rule(AlertRule(kind=AlertKind.FAILURE_RATE, queue=Queue.objects.get(name=name), threshold=0.5))

    with actor_context(Actor(kind=ActorKind.USER, name="ada")):
        delete_queue(get_broker(), name="mail")
    evaluate("mail", "post")

    assert sent(receiver) == ["alert.opened mail"]
    assert [rule.audit_name for rule in AlertRule.objects.all()] == ["failure_rate/post"]
    recorded = AuditRecord.objects.get(action="alert_rule.deleted")
    assert (recorded.object_name, recorded.actor_name) == ("failure_rate/mail", "ada")
    assert json.loads(recorded.changes)["threshold"] == {"old": 0.5, "new": None}


def test_the_api_changes_an_alert_or_those_of_a_queue_and_records_it() -> None:
    evaluate("mail", "post")
    client, until = ApiClient(ADMIN_KEY), (timezone.now() + HOUR).replace(microsecond=0)

    (acknowledged,) = client.post("/api/alerts/acknowledge", {"alert": the_alert().alert_id, "note": "On it."}).json()[
        "alerts"
    ]
    (snoozed,) = client.post("/api/alerts/snooze", {"queue": "post", "until": until.isoformat()}).json()["alerts"]
    (resumed,) = client.post("/api/alerts/resume", {"queue": "post"}).json()["alerts"]

    assert (acknowledged["note"], acknowledged["noted_by"]) == ("On it.", "admin key of the environment")
    assert acknowledged["acknowledged_at"]
    assert (snoozed["queue"], snoozed["snoozed_until"]) == ("post", f"{until:%Y-%m-%dT%H:%M:%SZ}")
    assert (resumed["snoozed_until"], resumed["note"]) == (None, None)
    records = AuditRecord.objects.filter(action__contains="alert").order_by("number")
    assert [(row.action, row.object_name) for row in records] == [
        ("alert.acknowledged", str(acknowledged["id"])),
        ("queue.alerts_snoozed", "post"),
        ("queue.alerts_resumed", "post"),
    ]


@pytest.mark.parametrize(
    ("verb", "body", "status", "error"),
    [
        ("acknowledge", {}, 400, "alert: Name either an alert or a queue."),
        ("acknowledge", {"alert": 1, "queue": "mail"}, 400, "alert: Name either an alert or a queue."),
        ("acknowledge", {"alert": 10**9}, 404, "No alert 1000000000."),
        ("acknowledge", {"queue": "none"}, 404, "No queue 'none'."),
        ("acknowledge", {"alert": "resolved"}, 409, "The alert is resolved"),
        ("resume", {"queue": "post"}, 404, "No queue 'post'."),
        ("snooze", {"queue": "mail"}, 400, "until: This field is required."),
        ("snooze", {"queue": "mail", "until": "2026-01-01T00:00:00Z"}, 400, "until: Must be a time within the next 90"),
        ("snooze", {"queue": "mail", "until": "2999-01-01T00:00:00Z"}, 400, "until: Must be a time within the next 90"),
    ],
)
def test_what_cannot_be_acknowledged_is_refused(verb: str, body: dict[str, object], status: int, error: str) -> None:
    evaluate("mail", after=-2 * HOUR)
    evaluate("post")
    key = create_api_key(name="limited", role=Role.ADMIN, queues=["mail"]).plain
    if body.get("alert") == "resolved":
        body = {"alert": Alert.objects.get(queue="mail").pk}

    response = ApiClient(key).post(f"/api/alerts/{verb}", body)

    assert response.status_code == status, response.content
    assert response.json()["errors"][0].startswith(error)


def test_an_operator_snoozes_a_queue_on_a_page_and_a_viewer_cannot() -> None:
    evaluate("mail")
    page = "/admin/alerts/alert/acknowledge/?queue=mail"
    form = {"verb": "snooze", "span": "3600", "until": "", "note": "Moving."}

    assert staff_client("viewer").post(page, form).status_code == 403
    assert staff_client("operator").post(page, form).status_code == 302

    alert = Alert.objects.get()
    assert (alert.snoozed_until, alert.note) == (timezone.now() + HOUR, "Moving.")
    assert "Must be a time within the next 90 days." in (
        staff_client("operator", "ann").post(page, form | {"until": "2026-01-01T00:00"}).content.decode()
    )
    listed = staff_client("viewer", "bob").get("/admin/alerts/alert/").content.decode()
    assert "Moving." in listed
