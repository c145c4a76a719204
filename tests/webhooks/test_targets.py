"""Alerts are sent to the endpoints that want them, by signed POST requests, to Slack and by e-mail."""

import json
from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.audit.models import AuditRecord
from runqy.core.api_keys import Role
from runqy.errors import WebhookInvalid
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.secret_leaks import SUITE
from tests.support.staff import staff_client
from tests.webhooks.mail_server import MailServer, mail_server
from tests.webhooks.receiver import Receiver, send_due
from webhooks.models import ALERT_EVENTS, Delivery, Endpoint
from webhooks.operations import change_endpoint, create_endpoint, rotate_endpoint_secret, schedule_test

__all__ = ["mail_server"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]
PAGES = "/admin/webhooks/endpoint/"


@pytest.fixture(autouse=True)
def _queues(configuration: None, settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Define the queues, without a webhook of the settings; let no delivery become due because the machine is busy."""
    for queue in ("mail", "post"):
        save_queue(spec=spec(queue), source=QueueSource.API)
    settings.RUNQY_ALERT_WEBHOOK_URL = ""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


@pytest.fixture
def target(receiver: Receiver, settings) -> Receiver:
    """A receiver that is not that of the settings."""
    settings.RUNQY_ALERT_WEBHOOK_URL, settings.RUNQY_PUBLIC_URL = "", "https://runqy.example.com"
    return receiver


def alert(queue: str = "mail", kind: AlertKind = AlertKind.FAILURE_RATE, message: str = "") -> Finding:
    return Finding(kind=kind, subject=queue, queue=queue, message=message or f"{queue} fails <b> & more.")


def evaluate(*findings: Finding) -> None:
    store_findings(findings, now=timezone.now())
    send_due()


def test_slack_gets_text_and_its_url_is_shown_nowhere(target: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    secret = SUITE.secret()
    body = {"kind": "slack", "url": f"{target.url}/{secret}", "events": ["alert.opened", "alert.resolved"]}
    created = ApiClient(ADMIN_KEY).post("/api/webhooks", body)
    assert created.status_code == 201, created.content
    target.status = 404

    evaluate(alert())
    target.status = 200
    assert ApiClient(ADMIN_KEY).post(f"{created['Location']}/resend", {"failed": True}).status_code == 200
    Delivery.objects.update(due_at=timezone.now())
    send_due()

    text = json.loads(target.requests[-1][1])["text"]
    assert text.startswith("*Critical: mail fails &lt;b&gt; &amp; more.*\nRule: Failure rate. Queue: mail. Since ")
    assert "\n<https://runqy.example.com/admin/tasks/task/?queue=mail" in text
    assert "webhook-signature" not in target.requests[0][0]
    row, admin = Endpoint.objects.get(), staff_client("admin")
    assert f"{row.url}/" in target.url
    ApiClient(ADMIN_KEY).patch(created["Location"], {"url": f"{target.url}/{secret}/new"})
    shown = [created.content, ApiClient(ADMIN_KEY).get("/api/webhooks").content]
    shown += [ApiClient(ADMIN_KEY).get(f"{created['Location']}/deliveries").content]
    shown += [admin.get(path, follow=True).content for path in (PAGES, f"{PAGES}{row.pk}/change/")]
    shown += [str(list(AuditRecord.objects.values())).encode(), caplog.text.encode()]
    assert not [each for each in shown if secret.encode() in each]
    assert AuditRecord.objects.filter(action="webhook.updated", changes='{"url":"changed"}').exists()


def test_an_alert_is_sent_by_e_mail_and_again_when_it_was_refused(mail_server: MailServer, settings) -> None:
    settings.RUNQY_PUBLIC_URL = "https://runqy.example.com"
    recipients = ["ann@example.com", "bob@example.com"]
    create_endpoint(kind="email", recipients=recipients, events=ALERT_EVENTS)
    mail_server.recipient_reply = "450 busy"

    evaluate(alert(message="mail fails.\nBcc: eve@example.com"))
    delivery = Delivery.objects.get()
    assert (delivery.attempts, delivery.delivered_at) == (1, None)
    assert "ann@example.com: 450 busy" in delivery.error
    mail_server.recipient_reply = "250 ok"
    Delivery.objects.update(due_at=timezone.now())
    send_due()

    (mail,) = mail_server.messages
    assert (mail["from"], mail["to"]) == ("runqy <runqy@example.com>", "ann@example.com, bob@example.com")
    assert (mail["subject"], mail["bcc"]) == ("[runqy] Critical: mail fails. Bcc: eve@example.com", None)
    assert mail["message-id"] == f"<{delivery.message_id}.{delivery.endpoint_id}@runqy>"
    assert "Rule: Failure rate. Queue: mail. Since " in mail.get_content()
    assert "https://runqy.example.com/admin/tasks/task/" in mail.get_content()


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({}, ["mail critical", "mail warning", "None warning"]),
        ({"levels": ["critical"]}, ["mail critical"]),
        ({"queues": ["mail"]}, ["mail critical", "mail warning"]),
        ({"queues": ["post"]}, []),
        ({"queues": ["mail"], "levels": ["warning"]}, ["mail warning"]),
        ({"is_enabled": False}, []),
    ],
)
def test_alerts_are_routed_by_queue_and_level(target: Receiver, scope: dict[str, object], expected: list[str]) -> None:
    create_endpoint(url=target.url, events=["alert.opened"], **scope)  # type: ignore[arg-type]

    general = Finding(kind=AlertKind.INACTIVE_KEY_CREATOR, subject="", message="Keys of bob.")
    evaluate(alert(), alert(kind=AlertKind.OLDEST_PENDING), general)

    bodies = [json.loads(body)["data"] for _, body in target.requests]
    assert sorted(f"{data['queue']} {data['level']}" for data in bodies) == sorted(expected)
    assert all("webhook-signature" in headers for headers, _ in target.requests)


def test_each_target_gets_the_resolution_after_the_opening(target: Receiver, mail_server: MailServer, settings) -> None:
    settings.RUNQY_ALERT_WEBHOOK_URL = f"{target.url}/settings"
    create_endpoint(url=target.url, events=ALERT_EVENTS)
    create_endpoint(kind="email", recipients=["ann@example.com"], events=ALERT_EVENTS)

    store_findings([alert()], now=timezone.now() - timedelta(minutes=5))
    store_findings([], now=timezone.now())
    send_due()

    subjects = [mail["subject"] for mail in mail_server.messages]
    assert [subject.split(":")[0] for subject in subjects] == ["[runqy] Critical", "[runqy] Resolved"]
    assert sorted(target.types) == ["alert.opened"] * 2 + ["alert.resolved"] * 2


def test_every_kind_has_a_test_message(target: Receiver, mail_server: MailServer) -> None:
    client = staff_client("configurator")
    form = {"events": ["alert.opened"], "is_enabled": "on", "in_flight": "16"}
    slack = client.post(f"{PAGES}add/", form | {"kind": "slack", "url": f"{target.url}/x"}, follow=True)
    email = client.post(f"{PAGES}add/", form | {"kind": "email", "recipients": "ann@example.com, bob@example.com"})
    assert (slack.status_code, email.status_code) == (200, 302)
    assert f"{target.url}/x" not in slack.content.decode()

    for row in Endpoint.objects.all():
        assert client.post(f"{PAGES}{row.pk}/act/", {"verb": "test"}).status_code == 302
    send_due()

    assert json.loads(target.requests[0][1])["text"] == "*Test message of runqy*\nAlerts will be sent here."
    assert [mail["subject"] for mail in mail_server.messages] == ["[runqy] Test message of runqy"]
    row = Endpoint.objects.get(kind="slack")
    changed = form | {"url": "", "queues": ["mail"], "version": row.version}
    assert client.post(f"{PAGES}{row.pk}/change/", changed).status_code == 302
    assert f"Stored encrypted, on {row.url}." in client.get(f"{PAGES}{row.pk}/change/").content.decode()
    row.refresh_from_db()
    assert (row.queues, row.secret and row.secret.unseal()) == (["mail"], f"{target.url}/x")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"kind": "pager"}, 400, "kind: Must be one of webhook, slack, email."),
        ({"kind": "slack"}, 400, "url: This field is required."),
        ({"kind": "slack", "url": "https://h/x", "events": ["task.completed"]}, 400, "events: An endpoint of the kind"),
        ({"kind": "slack", "url": "https://h/x", "headers": {"X-A": "1"}}, 400, "headers: Only webhooks have headers."),
        ({"kind": "slack", "url": "https://h/x", "recipients": ["a@b.example"]}, 400, "recipients: Only e-mail has"),
        ({"kind": "email"}, 400, "recipients: Name 1 to 50 addresses."),
        ({"kind": "email", "recipients": ["ann"]}, 400, "recipients: 'ann' is not an address."),
        ({"kind": "email", "recipients": ["a@b.example"], "url": "https://h/x"}, 400, "url: E-mail has recipients"),
        ({"url": "https://h/x", "events": ["task.completed"], "levels": ["critical"]}, 400, "levels: Only alerts have"),
        ({"url": "https://h/x", "levels": ["info"]}, 400, "levels[0]: Must be one of warning, critical."),
    ],
)
def test_a_wrong_target_is_refused(mail_server: MailServer, body: dict[str, object], status: int, error: str) -> None:
    response = ApiClient(ADMIN_KEY).post("/api/webhooks", {"events": ["alert.opened"]} | body)

    assert response.status_code == status, response.content
    assert any(each.startswith(error) for each in response.json()["errors"]), response.json()


def test_e_mail_needs_a_mail_server_and_a_key_for_all_queues(settings, mail_server: MailServer) -> None:
    email = {"kind": "email", "recipients": ["ann@example.com"], "events": ["alert.opened"], "queues": ["mail"]}
    limited = create_api_key(name="limited", role=Role.ADMIN, queues=["mail"]).plain

    assert ApiClient(limited).post("/api/webhooks", email).status_code == 403
    endpoint = create_endpoint(**email).row  # type: ignore[arg-type]
    with pytest.raises(WebhookInvalid, match="Only webhooks are signed"):
        rotate_endpoint_secret(endpoint.pk)
    settings.EMAIL_HOST = ""
    with pytest.raises(WebhookInvalid, match="EMAIL_HOST is not set"):
        change_endpoint(endpoint.pk, recipients=["bob@example.com"])
    schedule_test(endpoint.pk)
    send_due()

    assert Delivery.objects.get().error == "The server sends no e-mail: EMAIL_HOST is not set."


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ({"EMAIL_HOST": "", "EMAIL_HOST_PASSWORD": "x"}, []),
        ({"DEFAULT_FROM_EMAIL": "runqy <runqy@example.com>"}, []),
        ({"DEFAULT_FROM_EMAIL": ""}, ["runqy.E010"]),
        ({"EMAIL_HOST_PASSWORD": "x"}, ["runqy.W012"]),
        ({"EMAIL_HOST_PASSWORD": "x", "EMAIL_USE_TLS": True}, []),
        ({"EMAIL_HOST_PASSWORD": "x", "EMAIL_USE_SSL": True}, []),
    ],
)
def test_wrong_settings_of_e_mail_are_reported(settings, values: dict[str, object], ids: list[str]) -> None:
    for name, value in {"EMAIL_HOST": "mail.example.com", "DEFAULT_FROM_EMAIL": "r@example.com", **values}.items():
        setattr(settings, name, value)

    assert [check.id for check in run_checks() if check.id in ("runqy.E010", "runqy.W012")] == ids
