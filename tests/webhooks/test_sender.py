"""Each message arrives, signed, and again with the same id while it is not accepted."""

import threading
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import Sum
from django.utils import timezone
from standardwebhooks import Webhook

from runqy.audit.models import AuditRecord
from runqy.errors import WebhookDisabled
from tests.support.maintenance_duties import delete_old_rows
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE_S, wait_until
from tests.webhooks.receiver import Receiver, send_due
from webhooks import deliveries
from webhooks import operations as webhook_operations
from webhooks import sender as webhook_sender
from webhooks.deliveries import (
    DELAYS_S,
    FAILS_FOR,
    KEPT_FOR,
    retry_at_once,
)
from webhooks.messages import build_delivery, message_id, save_deliveries
from webhooks.models import IN_FLIGHT, Delivery, Endpoint, EndpointEvent
from webhooks.operations import (
    CreatedEndpoint,
    change_endpoint,
    create_endpoint,
    disable_failing_endpoint,
    resend_deliveries,
    rotate_endpoint_secret,
    schedule_test,
)
from webhooks.queries import list_due_targets
from webhooks.sender import FAILURES_MAX, Sender
from webhooks.transport import Message, Outcome, send

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]

EVENT = EndpointEvent.TASK_COMPLETED


@pytest.fixture(autouse=True)
def exact_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "JITTER", 0)


def add_endpoint(receiver: Receiver, **options: object) -> CreatedEndpoint:
    return create_endpoint(url=receiver.url, events=[EVENT], **options)  # type: ignore[arg-type]


def add_messages(endpoint: Endpoint, *tasks: str) -> list[Delivery]:
    save_deliveries(
        build_delivery(
            endpoint=endpoint,
            message=message_id(task),
            event=EVENT,
            data={"id": task},
            now=timezone.now(),
            task_id=task,
        )
        for task in tasks
    )
    return list(Delivery.objects.order_by("pk"))


def make_due() -> None:
    Delivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))


def test_a_message_is_sent_once_with_its_headers_and_verified_by_the_reference_library(receiver: Receiver) -> None:
    created = add_endpoint(receiver, headers={"Authorization": "Bearer abc"})
    add_messages(created.row, "t1")
    add_messages(created.row, "t1")

    assert (send_due(), send_due()) == (1, 0)

    ((headers, body),) = receiver.requests
    message = Webhook(created.secret).verify(body, headers)
    assert (message["type"], message["data"]) == ("task.completed", {"id": "t1"})
    assert (headers["authorization"], headers["webhook-id"]) == ("Bearer abc", message_id("t1"))
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.status, delivery.slot) == ("delivered", 1, 200, None)


def test_two_signatures_are_sent_for_24_hours_after_a_rotation(receiver: Receiver) -> None:
    created = add_endpoint(receiver)
    new = rotate_endpoint_secret(created.row.pk)
    add_messages(created.row, "t1")
    send_due()
    created.row.secret.refresh_from_db()
    assert created.row.secret.previous_until is not None
    assert timedelta(hours=23) < created.row.secret.previous_until - timezone.now() <= timedelta(hours=24)
    type(created.row.secret).objects.update(previous_until=timezone.now())
    add_messages(created.row, "t2")
    send_due()

    (both, body), (one, _) = receiver.requests
    for secret in (created.secret, new):
        Webhook(secret).verify(body, both)
    assert [len(headers["webhook-signature"].split()) for headers in (both, one)] == [2, 1]


def test_the_schedule_is_that_of_the_specification(receiver: Receiver) -> None:
    receiver.status, receiver.headers = 503, {}
    created = add_endpoint(receiver)
    add_messages(created.row, "t1")
    delays = []

    for _ in range(len(DELAYS_S) + 1):
        before = timezone.now()
        send_due()
        delivery = Delivery.objects.get()
        delays.append(round((delivery.due_at - before).total_seconds() / 5) * 5)
        assert delivery.error == "The endpoint responded with status 503."
        make_due()

    assert tuple(delays[:-1]) == (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
    assert Delivery.objects.get().state == "failed"
    assert send_due() == 0
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1


@pytest.mark.parametrize(
    ("retry_after", "delay_s"),
    [("120", 120), ("Fri, 01 Jan 2100 00:00:00 GMT", 86_400), ("Mon, 01 Jan 99999999999 00:00:00 GMT", 5), ("soon", 5)],
)
def test_retry_after_postpones_the_next_attempt(receiver: Receiver, retry_after: str, delay_s: int) -> None:
    receiver.status, receiver.headers = 429, {"retry-after": retry_after}
    add_messages(add_endpoint(receiver).row, "t1")

    send_due()

    delivery = Delivery.objects.get()
    assert delivery.sent_at is not None
    assert round((delivery.due_at - delivery.sent_at).total_seconds()) == delay_s


def test_a_receiver_that_is_away_gets_single_attempts_and_everything_when_it_is_back(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "PROBE_EVERY_S", 3600.0)
    away, there = add_endpoint(receiver).row, create_endpoint(url=f"{receiver.url}?there", events=[EVENT]).row
    Endpoint.objects.filter(pk=away.pk).update(url=f"http://127.0.0.1:{free_port()}/")
    add_messages(away, *map(str, range(40)))
    add_messages(there, "t1")
    sender = Sender()
    while not sender.is_idle or not Delivery.objects.filter(attempts__gt=0).exists():
        sender.run(duration_s=PATIENCE_S)

    # Eight, and what was in flight with the last of them.
    attempts = Delivery.objects.filter(target=away.pk).aggregate(sum=Sum("attempts"))["sum"]
    assert (FAILURES_MAX <= attempts < FAILURES_MAX + IN_FLIGHT, len(receiver.requests)) == (True, 1)

    assert sender.run(duration_s=PATIENCE_S) == 0
    monkeypatch.setattr(webhook_sender, "PROBE_EVERY_S", 0.0)
    assert sender.run(duration_s=PATIENCE_S) == 0
    assert Delivery.objects.filter(target=away.pk, attempts=0).count() < 40 - attempts

    # One is due, and brings the others with it, but for a longer Retry-After.
    failed = Delivery.objects.filter(target=away.pk, attempts__gt=0)
    patient, due = failed.earliest("pk"), failed.latest("pk")
    Delivery.objects.filter(pk=patient.pk).update(status=503, due_at=timezone.now() + timedelta(hours=1))
    Delivery.objects.filter(pk=due.pk).update(due_at=timezone.now())
    Endpoint.objects.filter(pk=away.pk).update(url=receiver.url)
    assert sender.run(duration_s=PATIENCE_S) == 39
    assert Delivery.objects.filter(delivered_at=None).get() == patient
    sender.close()


def test_an_attempt_whose_outcome_cannot_be_recorded_has_failed_and_stops_no_other(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, there = (create_endpoint(url=f"{receiver.url}?{name}", events=[EVENT]).row for name in ("odd", "there"))
    add_messages(odd, "t1")
    add_messages(there, "t1", "t2")

    async def send_oddly(message: Message, *args: Any) -> Outcome:
        outcome = await send(message, *args)
        return replace(outcome, duration_ms=-1) if message.url.endswith("odd") else outcome

    monkeypatch.setattr(webhook_sender, "send", send_oddly)

    assert send_due() == 3
    delivered = Delivery.objects.exclude(delivered_at=None)
    assert [*delivered.values_list("endpoint_id", flat=True)] == [there.pk] * 2
    failed = Delivery.objects.get(endpoint=odd)
    assert (failed.attempts, failed.error, failed.slot) == (1, "outcome_not_recorded", None)


def test_a_database_that_fails_between_two_outcomes_keeps_no_slot(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "GATHER_S", 0.3)
    monkeypatch.setattr(webhook_sender.CircuitBreaker, "record", lambda *_, **__: True)  # each was away, and is back
    endpoints = [create_endpoint(url=f"{receiver.url}?{n}", events=[EVENT], in_flight=1).row for n in range(2)]
    together, failures = threading.Barrier(2), iter([OperationalError])

    def respond(handler: BaseHTTPRequestHandler) -> None:
        together.wait(PATIENCE_S)
        receiver.respond_with_status(handler)

    def retry(*_: object) -> None:
        for error in failures:
            raise error

    receiver.respond = respond
    monkeypatch.setattr(webhook_sender, "retry_at_once", retry)
    sender = Sender()
    for endpoint in endpoints:
        add_messages(endpoint, "t1")
    with pytest.raises(OperationalError):
        sender.run(duration_s=PATIENCE_S)

    for endpoint in endpoints:
        add_messages(endpoint, "t2")
    sender.run(duration_s=PATIENCE_S)

    assert Delivery.objects.exclude(delivered_at=None).count() == 4
    sender.close()


def test_an_outcome_is_recorded_once_its_row_is_no_longer_locked(receiver: Receiver) -> None:
    _, free = add_messages(add_endpoint(receiver).row, "locked", "free")
    release = threading.Event()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers["webhook-id"] == free.message_id or connection.vendor != "postgresql":
            receiver.respond_with_status(handler)
            return
        with transaction.atomic():
            list(Delivery.objects.select_for_update().filter(task_id="locked"))
            receiver.respond_with_status(handler)
            release.wait(PATIENCE_S)
        connection.close()

    receiver.respond = respond
    sender = Sender()
    accepted = 0
    while not accepted or len(receiver.requests) < 2:
        accepted += sender.run(duration_s=0.05)
    sender.run(duration_s=0.05)
    release.set()
    wait_until(lambda: sender.run(duration_s=0.05) or sender.is_idle)

    assert not Delivery.objects.filter(delivered_at=None).exists()
    assert len(receiver.requests) == 2
    sender.close()


def test_an_endpoint_that_cannot_be_disabled_keeps_no_other_from_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = 410
    odd, gone = (create_endpoint(url=f"{receiver.url}?{name}", events=[EVENT]).row for name in ("odd", "gone"))
    add_messages(odd, "t1")
    add_messages(gone, "t1")

    def disable(endpoint_id: str, reason: str) -> None:
        if endpoint_id == odd.pk:
            raise ValueError
        disable_failing_endpoint(endpoint_id, reason)

    monkeypatch.setattr(webhook_operations, "disable_failing_endpoint", disable)
    send_due()

    assert [*Endpoint.objects.filter(is_enabled=True)] == [odd]
    assert not Delivery.objects.filter(attempts=0).exists()


def test_the_last_attempt_stays_a_day_later_although_the_receiver_is_back(receiver: Receiver) -> None:
    """A message that takes its receiver down each time would be sent at once ever again."""
    now = timezone.now()
    messages = add_messages(add_endpoint(receiver).row, *map(str, range(len(DELAYS_S) + 1)))
    for attempts, delivery in enumerate(messages):
        due_at = now + timedelta(seconds=DELAYS_S[max(attempts - 1, 0)])
        Delivery.objects.filter(pk=delivery.pk).update(attempts=attempts, sent_at=now, due_at=due_at)

    retry_at_once(messages[0].target, now)

    due = Delivery.objects.filter(due_at__lte=now).values_list("attempts", flat=True)
    assert sorted(due) == list(range(1, len(DELAYS_S)))


def test_an_endpoint_that_is_gone_is_disabled_and_its_messages_wait(receiver: Receiver) -> None:
    receiver.status = 410
    endpoint = add_endpoint(receiver).row
    add_messages(endpoint, "t1")
    send_due()
    add_messages(endpoint, "t2")

    assert send_due() == 0

    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.disabled_reason) == (False, "It responded with status 410: gone.")
    assert [delivery.state for delivery in Delivery.objects.order_by("pk")] == ["failed", "pending"]
    assert AuditRecord.objects.filter(action="webhook.disabled", object_name=endpoint.pk).exists()
    with pytest.raises(WebhookDisabled):
        schedule_test(endpoint.pk)
    receiver.status = 200
    change_endpoint(endpoint.pk, is_enabled=True)
    assert send_due() == 1


def test_five_days_of_failures_disable_an_endpoint(receiver: Receiver) -> None:
    receiver.status = 500
    endpoint = add_endpoint(receiver).row
    add_messages(endpoint, "t1")
    send_due()
    assert Endpoint.objects.get().is_enabled
    Endpoint.objects.update(failing_since=timezone.now() - FAILS_FOR)
    make_due()

    send_due()

    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.disabled_reason) == (False, "It has failed for 5 days.")


def test_one_success_ends_the_days_of_failures(receiver: Receiver) -> None:
    endpoint = add_endpoint(receiver).row
    Endpoint.objects.update(failing_since=timezone.now() - FAILS_FOR)
    add_messages(endpoint, "t1")

    send_due()

    assert Endpoint.objects.get().failing_since is None


def test_with_a_wrong_master_key_messages_stay_due(receiver: Receiver, settings) -> None:
    add_messages(add_endpoint(receiver).row, "t1")
    right, settings.RUNQY_VAULT_MASTER_KEY = settings.RUNQY_VAULT_MASTER_KEY, "A" * 43 + "="

    assert send_due() == 0

    delivery = Delivery.objects.get()
    assert (delivery.attempts, delivery.state) == (0, "pending")
    assert "not in RUNQY_VAULT_MASTER_KEY" in delivery.error
    settings.RUNQY_VAULT_MASTER_KEY = right
    make_due()
    assert send_due() == 1


@pytest.mark.parametrize(("step", "attempts"), [("_build_message", 0), ("send", 1)])
def test_a_bug_that_one_message_meets_stops_no_other(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, step: str, attempts: int
) -> None:
    broken, *others = add_messages(add_endpoint(receiver).row, "t1", "t2", "t3")
    original = getattr(webhook_sender, step)

    def fail_once(first: object, *rest: object) -> object:
        message_id = first.message_id if isinstance(first, Delivery) else first.headers["webhook-id"]
        if message_id == broken.message_id:
            raise ValueError("a secret")
        return original(first, *rest)

    async def send_or_fail(message: Message, *rest: object) -> object:
        return await fail_once(message, *rest)

    monkeypatch.setattr(webhook_sender, step, send_or_fail if step == "send" else fail_once)

    assert send_due() == 2

    assert [each.state for each in Delivery.objects.filter(pk__in=[each.pk for each in others])] == ["delivered"] * 2
    broken.refresh_from_db()
    assert (broken.state, broken.attempts, broken.slot, broken.error) == ("pending", attempts, None, "ValueError")


def test_a_test_message_and_a_resent_one_arrive(receiver: Receiver) -> None:
    created = add_endpoint(receiver)
    delivery = schedule_test(created.row.pk)
    send_due()

    assert resend_deliveries(created.row.pk, [delivery.pk]) == 1
    send_due()

    (first, body), (second, _) = receiver.requests
    assert Webhook(created.secret).verify(body, first)["type"] == "webhook.test"
    assert first["webhook-id"] == second["webhook-id"]


def test_what_is_not_due_costs_one_query_a_scan(receiver: Receiver, django_assert_num_queries) -> None:
    """However many targets there are, disabled endpoints included, whose messages wait."""
    now = timezone.now()
    disabled = add_endpoint(receiver, is_enabled=False).row
    add_messages(disabled, "t1")
    others = [(f"mail host-{number}.example.com", now + timedelta(hours=5)) for number in range(20)]
    Delivery.objects.bulk_create(
        Delivery(target=target, message_id="m", event=EVENT, body="{}", created_at=now, due_at=due_at)
        for target, due_at in others
    )

    with django_assert_num_queries(1):
        assert Sender().run(duration_s=1) == 0
    change_endpoint(disabled.pk, is_enabled=True)
    Delivery.objects.filter(target=others[7][0]).update(due_at=now)
    due, last = list_due_targets(timezone.now())
    assert ([each.target for each in due], last) == (sorted([disabled.pk, others[7][0]]), "")


def test_a_scan_looks_at_some_targets_and_the_next_one_at_others(receiver: Receiver) -> None:
    now = timezone.now()
    Delivery.objects.bulk_create(
        Delivery(target=f"mail host-{n}", message_id="m", event=EVENT, body="{}", created_at=now, due_at=now)
        for n in range(5)
    )
    found, last = [], ""

    for _ in range(3):
        due, last = list_due_targets(now, after=last, limit=2)
        found += [each.target for each in due]

    assert (found, last) == ([f"mail host-{n}" for n in range(5)], "")


def test_deliveries_are_kept_for_seven_days_with_the_answer(receiver: Receiver) -> None:
    receiver.status = 400

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(400)
        handler.end_headers()
        handler.wfile.write(b"no\0 such field" + b"." * 5000)

    receiver.respond = respond
    endpoint = add_endpoint(receiver).row
    add_messages(endpoint, "t1", "t2", "t3")
    send_due()
    delivery = Delivery.objects.first()
    assert delivery is not None
    assert delivery.response == "no\ufffd such field" + "." * (4096 - len("no\0 such field"))
    assert delivery.duration_ms is not None
    old = timezone.now() - KEPT_FOR - timedelta(seconds=1)
    Delivery.objects.filter(task_id="t1").update(created_at=old, delivered_at=old)
    Delivery.objects.filter(task_id="t2").update(created_at=old)
    to_own_webhook = build_delivery(message="m", event=EVENT, data={}, now=old, target="mail hooks.example.com")
    save_deliveries([to_own_webhook])  # its host was away for a week

    delete_old_rows()

    assert set(Delivery.objects.values_list("task_id", flat=True)) == {"t2", "t3"}
