"""What an open cause explains is not sent; it is when it outlasts the cause, or when nothing was told of the cause."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from alerts.acknowledgement import AlertSelection, acknowledge, resume
from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import store_findings
from alerts.rules import Finding
from tests.api.client import ApiClient
from tests.support.environment import ADMIN_KEY
from tests.support.staff import staff_client
from tests.webhooks.receiver import Receiver, send_due
from webhooks.models import ALERT_EVENTS, UNDELIVERED, Delivery
from webhooks.operations import create_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration", "stopped_time")]
CAUSE, CONSEQUENCE, ITS_OWN = AlertKind.NO_READY_WORKER, AlertKind.OLDEST_PENDING, AlertKind.BACKLOG_GROWING


@pytest.fixture
def stopped_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no delivery become due because the machine is busy."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


def evaluate(*kinds: AlertKind, minute: float = 0) -> None:
    """Store what the rules found at a minute; send what is due."""
    now = timezone.now() + timedelta(minutes=minute)
    store_findings([Finding(kind=kind, subject="mail", queue="mail", message=kind.value) for kind in kinds], now=now)
    Delivery.objects.filter(UNDELIVERED).update(due_at=timezone.now())
    send_due()


def sent(receiver: Receiver) -> list[str]:
    bodies = [json.loads(body) for _, body in receiver.requests]
    return [f"{body['type'].removeprefix('alert.')} {body['data']['kind']}" for body in bodies]


def test_a_consequence_is_sent_once_it_has_outlasted_its_cause(receiver: Receiver) -> None:
    evaluate(CONSEQUENCE, CAUSE)
    evaluate(CONSEQUENCE, ITS_OWN, CAUSE, minute=60 * 24 * 8)
    assert sent(receiver) == ["opened no_ready_worker"]
    Delivery.objects.all().delete()  # after seven days
    evaluate(CONSEQUENCE, ITS_OWN, CAUSE, minute=60 * 24 * 8 + 1)
    page = staff_client("viewer").get(f"/admin/alerts/alert/{Alert.objects.get(kind=ITS_OWN).pk}/change/")
    assert "not sent: its cause was" in page.content.decode()
    assert f'/{Alert.objects.get(kind=CAUSE).pk}/change/">no_ready_worker</a>' in page.content.decode()

    evaluate(CONSEQUENCE, ITS_OWN, minute=60 * 24 * 8 + 2)
    evaluate(CONSEQUENCE, minute=60 * 24 * 8 + 6)
    before = sent(receiver)
    evaluate(CONSEQUENCE, minute=60 * 24 * 8 + 8)
    evaluate(minute=60 * 24 * 8 + 20)

    assert before == ["opened no_ready_worker", "resolved no_ready_worker"]
    assert sent(receiver) == [*before, "opened oldest_pending", "resolved oldest_pending"]


def test_a_consequence_is_sent_where_nothing_was_told_of_its_cause(receiver: Receiver, settings) -> None:
    settings.RUNQY_ALERT_WEBHOOK_URL = ""
    create_endpoint(url=receiver.url, events=list(ALERT_EVENTS), levels=["warning"])

    evaluate(CONSEQUENCE, CAUSE)

    assert sent(receiver) == ["opened oldest_pending"]


def test_a_consequence_stays_unsent_when_somebody_has_taken_on_the_cause(receiver: Receiver) -> None:
    evaluate(CAUSE)
    acknowledge(AlertSelection(alert_id=Alert.objects.get().pk))
    evaluate(CAUSE, CONSEQUENCE, minute=1)
    resume(AlertSelection(alert_id=Alert.objects.get(kind=CONSEQUENCE).pk))
    evaluate(CAUSE, CONSEQUENCE, minute=2)

    assert sent(receiver) == ["opened no_ready_worker"]
    listed = ApiClient(ADMIN_KEY).get("/api/alerts").json()["alerts"]
    ids = {alert["kind"]: alert["id"] for alert in listed}
    assert {alert["kind"]: (alert["causes"], alert["consequences"]) for alert in listed} == {
        CAUSE: ([], [ids[CONSEQUENCE]]),
        CONSEQUENCE: ([ids[CAUSE]], []),
    }
