"""Alerts are sent to the webhook of the settings, once when they open and once when they are resolved."""

import json
from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from tests.api.client import ApiClient
from tests.support.environment import ADMIN_KEY
from tests.webhooks.receiver import SECRET, Receiver, send_due
from webhooks.models import Delivery

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]
FINDING = Finding(kind=AlertKind.FAILURE_RATE, subject="mail", queue="mail", message="50 % failed.")


@pytest.fixture(autouse=True)
def stopped_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no delivery become due because the machine is busy."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


def test_an_alert_is_sent_once_when_it_opens_and_once_when_it_is_resolved(receiver: Receiver) -> None:
    now = timezone.now()
    store_findings([FINDING], now=now - timedelta(minutes=5))
    send_due()
    send_due()
    store_findings([], now=now)
    send_due()

    assert receiver.types == ["alert.opened", "alert.resolved"]
    opened, resolved = (json.loads(body)["data"] for _, body in receiver.requests)
    assert (opened["kind"], opened["queue"], opened["message"]) == ("failure_rate", "mail", "50 % failed.")
    assert opened["resolved_at"] is None
    assert resolved["resolved_at"] == f"{now:%Y-%m-%dT%H:%M:%SZ}"


def test_an_opening_that_arrives_after_the_resolution_is_not_resolved(receiver: Receiver) -> None:
    now = timezone.now()
    store_findings([FINDING], now=now - timedelta(minutes=5))
    store_findings([], now=now)

    send_due()

    assert receiver.types == ["alert.opened", "alert.resolved"]
    assert json.loads(receiver.requests[0][1])["data"]["resolved_at"] is None


def test_a_resolution_waits_for_its_opening(receiver: Receiver) -> None:
    receiver.status = 500
    now = timezone.now()
    store_findings([FINDING], now=now - timedelta(minutes=5))
    send_due()
    store_findings([], now=now)
    send_due()
    receiver.status = 200
    Delivery.objects.update(due_at=now)

    send_due()

    assert receiver.types == ["alert.opened", "alert.opened", "alert.resolved"]


@pytest.mark.parametrize("public_url", ["", "https://runqy.example.com"])
def test_a_message_has_the_alert_and_its_link_as_the_api_returns_it(
    receiver: Receiver, settings, public_url: str
) -> None:
    settings.RUNQY_PUBLIC_URL = public_url
    store_findings([FINDING], now=timezone.now())

    send_due()

    (listed,) = ApiClient(ADMIN_KEY).get("/api/alerts").json()["alerts"]
    assert json.loads(receiver.requests[0][1])["data"] == listed
    assert listed["url"].startswith(f"{public_url}/admin/tasks/task/?queue=mail&outcome=failure&since=")


def test_the_host_of_the_settings_needs_no_open_network(receiver: Receiver, settings) -> None:
    settings.RUNQY_WEBHOOK_NETWORKS = ()
    store_findings([FINDING], now=timezone.now())

    assert send_due() == 1


@pytest.mark.parametrize(
    ("url", "secret", "ids"),
    [
        ("", "", []),
        ("https://hooks.example.com/runqy", SECRET, []),
        ("http://user:word@hooks.example.com:8080/runqy", SECRET.removeprefix("whsec_").rstrip("="), []),
        ("hooks.example.com", SECRET, ["runqy.E008"]),
        ("https://[hooks.example.com", SECRET, ["runqy.E008"]),
        ("https://hooks.example.com:65536", SECRET, ["runqy.E008"]),
        ("https://hooks.example.com/runqy", "whsec_", ["runqy.E009"]),
        ("https://hooks.example.com/runqy", "whsec_abcde", ["runqy.E009"]),
        ("https://hooks.example.com/runqy", "schlüssel", ["runqy.E009"]),
        ("https://hooks.example.com/runqy", "", ["runqy.W010"]),
    ],
)
def test_wrong_settings_are_reported(settings, url: str, secret: str, ids: list[str]) -> None:
    settings.RUNQY_ALERT_WEBHOOK_URL, settings.RUNQY_ALERT_WEBHOOK_SECRET = url, secret

    found = [check.id for check in run_checks() if check.id in ("runqy.E008", "runqy.E009", "runqy.W010")]

    assert found == ids
