"""The webhook gets each message once, signed, and again while it does not accept it."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from django.core.checks import run_checks
from django.db import connection
from django.utils import timezone

from alerts import webhook
from alerts.models import AlertDelivery
from alerts.operations import CLAIM, claim_delivery, record_delivered, record_failed_attempt, store_findings
from alerts.rules import AlertKind, Finding
from alerts.webhook import deliver_due
from tests.alerts.receiver import SECRET, Receiver
from tests.api.client import ApiClient
from tests.support.environment import ADMIN_KEY
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]
FINDING = Finding(kind=AlertKind.FAILURE_RATE, subject="mail", queue="mail", message="50 % failed.")


@pytest.fixture(autouse=True)
def stopped_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no delivery become due because the machine is busy."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


def make_due() -> None:
    AlertDelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))


def test_an_alert_is_sent_once_when_it_opens_and_once_when_it_is_resolved(receiver: Receiver) -> None:
    now = timezone.now()
    store_findings([FINDING], now=now - timedelta(minutes=5))
    deliver_due()
    deliver_due()
    store_findings([], now=now)
    deliver_due()

    assert receiver.types == ["alert.opened", "alert.resolved"]
    opened, resolved = (json.loads(body)["data"] for _, body in receiver.requests)
    assert (opened["kind"], opened["queue"], opened["message"]) == ("failure_rate", "mail", "50 % failed.")
    assert opened["resolved_at"] is None
    assert resolved["resolved_at"] == f"{now:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.usefixtures("receiver")
def test_a_late_failure_does_not_touch_a_delivery_that_another_process_has_claimed() -> None:
    now = timezone.now()
    store_findings([FINDING], now=now)
    make_due()
    slow = AlertDelivery.objects.get()
    assert claim_delivery(slow, now)
    later = now + CLAIM + timedelta(seconds=1)
    other = AlertDelivery.objects.get()
    assert claim_delivery(other, later)

    record_failed_attempt(slow, "no response", now)
    assert AlertDelivery.objects.get().due_at == later + CLAIM

    record_delivered(other)
    record_failed_attempt(slow, "no response", now)
    assert AlertDelivery.objects.get().error == ""


@pytest.mark.usefixtures("receiver")
def test_a_message_is_sent_again_after_an_hour_at_the_latest() -> None:
    now = timezone.now()
    store_findings([FINDING], now=now)
    AlertDelivery.objects.update(attempts=20, due_at=now)
    delivery = AlertDelivery.objects.get()
    assert claim_delivery(delivery, now)

    record_failed_attempt(delivery, "no response", now)

    assert AlertDelivery.objects.get().due_at == now + timedelta(hours=1)


def test_messages_are_signed(receiver: Receiver) -> None:
    store_findings([FINDING], now=timezone.now())

    deliver_due()

    headers, body = receiver.requests[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"k" * 24, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_rejected_message_is_sent_again_with_the_same_id(receiver: Receiver, status: int) -> None:
    receiver.status = status
    store_findings([FINDING], now=timezone.now())
    deliver_due()
    delivery = AlertDelivery.objects.get()
    assert (delivery.attempts, delivery.delivered_at) == (1, None)
    assert delivery.error == f"The webhook responded with status {status}."
    assert delivery.due_at > timezone.now() + timedelta(seconds=5)

    receiver.status = 204
    deliver_due()
    assert len(receiver.requests) == 1
    make_due()
    deliver_due()

    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert AlertDelivery.objects.get().delivered_at is not None


def test_an_unavailable_webhook_is_retried_for_a_day(settings) -> None:
    settings.RUNQY_ALERT_WEBHOOK_URL = "http://127.0.0.1:1/hook"
    store_findings([FINDING], now=timezone.now())

    deliver_due()

    delivery = AlertDelivery.objects.get()
    assert delivery.error
    assert delivery.abandoned_at is None
    AlertDelivery.objects.update(created_at=timezone.now() - timedelta(days=2))
    make_due()
    deliver_due()
    assert AlertDelivery.objects.get().abandoned_at is not None


def trickle(handler: BaseHTTPRequestHandler) -> None:
    """Send the head of a response in small parts until the client closes the connection."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
    while True:
        time.sleep(0.05)
        handler.wfile.write(b"x")


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Send nothing until the client closes the connection."""
    handler.connection.recv(1)


@pytest.mark.parametrize("respond", [trickle, hang])
def test_a_webhook_that_does_not_respond_in_time_is_retried(receiver: Receiver, monkeypatch, respond) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.5)
    receiver.respond = respond
    store_findings([FINDING], now=timezone.now())

    assert deliver_due() == 0

    delivery = AlertDelivery.objects.get()
    assert (delivery.delivered_at, delivery.error) == (None, "The webhook did not respond within 0.5 s.")


def test_a_resolver_that_hangs_delays_neither_an_attempt_nor_the_end_of_the_process(settings, monkeypatch) -> None:
    """The attempt fails while the look-up, on a daemon thread, still waits for the resolver."""
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.5)
    settings.RUNQY_ALERT_WEBHOOK_URL = "https://hooks.example.com/runqy"
    test_is_over, threads, finished = threading.Event(), [], []

    resolve = socket.getaddrinfo

    def look_up(host: str | bytes, *args: object, **options: object) -> object:
        if host not in ("hooks.example.com", b"hooks.example.com"):
            return resolve(host, *args, **options)  # of another thread
        threads.append(threading.current_thread())
        finished.append(test_is_over.wait(PATIENCE_S))
        return []

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    store_findings([FINDING], now=timezone.now())

    assert deliver_due() == 0

    for _ in range(20):
        if not threads:  # the attempt ended before its look-up began
            make_due()
            assert deliver_due() == 0
    assert threads
    assert finished == []
    assert all(thread.daemon for thread in threads)
    assert AlertDelivery.objects.get().error == "The webhook did not respond within 0.5 s."
    test_is_over.set()
    for thread in threads:
        thread.join()


def test_the_body_of_a_response_is_not_read(receiver: Receiver) -> None:
    sent = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 100_000)
            sent.append(1)

    receiver.respond = respond
    store_findings([FINDING], now=timezone.now())

    assert deliver_due() == 1

    assert receiver.responded.wait(30)
    assert len(sent) < 1000


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.status = 307
    store_findings([FINDING], now=timezone.now())

    deliver_due()

    assert len(receiver.requests) == 1
    assert AlertDelivery.objects.get().error == "The webhook responded with status 307."


def test_an_address_that_cannot_be_used_is_the_error_of_the_delivery(settings) -> None:
    settings.RUNQY_ALERT_WEBHOOK_URL = "http://127.0.0.1:1/ho\x07ok"
    store_findings([FINDING], now=timezone.now())

    deliver_due()

    assert AlertDelivery.objects.get().error


def test_an_opening_that_arrives_after_the_resolution_is_not_resolved(receiver: Receiver) -> None:
    now = timezone.now()
    store_findings([FINDING], now=now - timedelta(minutes=5))
    store_findings([], now=now)

    deliver_due()
    deliver_due()

    assert receiver.types == ["alert.opened", "alert.resolved"]
    assert json.loads(receiver.requests[0][1])["data"]["resolved_at"] is None


@pytest.mark.parametrize("public_url", ["", "https://runqy.example.com"])
def test_a_message_has_the_alert_and_its_link_as_the_api_returns_it(
    receiver: Receiver, settings, public_url: str
) -> None:
    settings.RUNQY_PUBLIC_URL = public_url
    store_findings([FINDING], now=timezone.now())

    deliver_due()

    (listed,) = ApiClient(ADMIN_KEY).get("/api/alerts").json()["alerts"]
    assert json.loads(receiver.requests[0][1])["data"] == listed
    assert listed["url"].startswith(f"{public_url}/admin/tasks/task/?queue=mail&outcome=failure&since=")


def test_a_resolution_waits_for_its_opening(receiver: Receiver) -> None:
    receiver.status = 500
    now = timezone.now()
    store_findings([FINDING], now=now - timedelta(minutes=5))
    deliver_due()
    store_findings([], now=now)
    deliver_due()
    receiver.status = 200

    make_due()
    deliver_due()
    make_due()
    deliver_due()

    assert receiver.types == ["alert.opened", "alert.opened", "alert.resolved"]


def test_processes_that_send_at_once_send_a_message_once(receiver: Receiver) -> None:
    store_findings([FINDING], now=timezone.now())

    def send(_: int) -> None:
        try:
            deliver_due()
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(send, range(6)))

    assert receiver.types == ["alert.opened"]


@pytest.mark.parametrize(
    ("url", "secret", "ids"),
    [
        ("", "", []),
        ("https://hooks.example.com/runqy", SECRET, []),
        ("hooks.example.com", SECRET, ["runqy.E008"]),
        ("https://[hooks.example.com", SECRET, ["runqy.E008"]),
        ("https://hooks.example.com:65536", SECRET, ["runqy.E008"]),
        ("https://hooks.example.com/runqy", "whsec_&", ["runqy.E009"]),
        ("https://hooks.example.com/runqy", "", ["runqy.W010"]),
    ],
)
def test_wrong_settings_are_reported(settings, url: str, secret: str, ids: list[str]) -> None:
    settings.RUNQY_ALERT_WEBHOOK_URL, settings.RUNQY_ALERT_WEBHOOK_SECRET = url, secret

    found = [check.id for check in run_checks() if check.id in ("runqy.E008", "runqy.E009", "runqy.W010")]

    assert found == ids
