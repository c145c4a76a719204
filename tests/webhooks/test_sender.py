"""Each message arrives, signed, and again with the same id while it is not accepted."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from django.db import connection, transaction
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from standardwebhooks import Webhook

from runqy.audit.models import AuditRecord
from runqy.errors import WebhookDisabled
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE_S, wait_until
from tests.webhooks.receiver import Receiver, send_due
from webhooks import circuit_breaker, deliveries
from webhooks import sender as webhook_sender
from webhooks.circuit_breaker import FAILURES_MAX
from webhooks.deliveries import (
    CLAIM,
    DELAYS_S,
    FAILS_FOR,
    IN_FLIGHT_MAX,
    KEPT_FOR,
    claim,
    claim_all,
    prune_deliveries,
    record_outcome,
    record_outcomes,
    retry_at_once,
)
from webhooks.message_ids import message_id
from webhooks.messages import build_delivery, save_deliveries
from webhooks.models import Delivery, Endpoint, EndpointEvent
from webhooks.operations import (
    CreatedEndpoint,
    change_endpoint,
    create_endpoint,
    resend_deliveries,
    rotate_endpoint_secret,
    schedule_test,
)
from webhooks.queries import list_due_targets
from webhooks.sender import Sender
from webhooks.transport import Message, Outcome

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
    monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 3600.0)
    away, there = add_endpoint(receiver).row, create_endpoint(url=f"{receiver.url}?there", events=[EVENT]).row
    Endpoint.objects.filter(pk=away.pk).update(url=f"http://127.0.0.1:{free_port()}/")
    add_messages(away, *map(str, range(40)))
    add_messages(there, "t1")
    sender = Sender()
    while not sender.is_idle or not Delivery.objects.filter(attempts__gt=0).exists():
        sender.run(duration_s=PATIENCE_S)

    # Eight, and what was in flight with the last of them.
    attempts = Delivery.objects.filter(target=away.pk).aggregate(sum=Sum("attempts"))["sum"]
    assert (FAILURES_MAX <= attempts < FAILURES_MAX + IN_FLIGHT_MAX, len(receiver.requests)) == (True, 1)

    assert sender.run(duration_s=PATIENCE_S) == 0
    monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 0.0)
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


def test_a_hanging_endpoint_has_four_in_flight_and_delays_no_other(receiver: Receiver) -> None:
    other, is_over, in_flight = Receiver(), threading.Event(), []

    def hang(handler: BaseHTTPRequestHandler) -> None:
        in_flight.append(1)
        is_over.wait(PATIENCE_S)
        receiver.respond_with_status(handler)

    receiver.respond = hang
    add_messages(add_endpoint(receiver).row, *(f"t{number}" for number in range(6)))
    sender, second = Sender(), Sender()
    sender.run(duration_s=0.1)
    add_messages(create_endpoint(url=other.url, events=[EVENT]).row, "t9")

    wait_until(lambda: sender.run(duration_s=0.1) + second.run(duration_s=0.1) > 0 or len(other.requests) > 0)
    wait_until(lambda: len(in_flight) == 4)
    assert Delivery.objects.exclude(slot=None).exclude(endpoint__url=other.url).count() == 4
    is_over.set()
    wait_until(lambda: sender.run(duration_s=0.1) + second.run(duration_s=0.1) == 0 and sender.is_idle)

    assert (len(receiver.requests), len(other.requests)) == (6, 1)
    for each in (sender, second):
        each.close()
    other.server.shutdown()
    other.server.server_close()


def test_processes_that_send_at_once_send_each_message_once(receiver: Receiver) -> None:
    add_messages(add_endpoint(receiver).row, *(f"t{number}" for number in range(12)))

    def send(_: int) -> None:
        try:
            send_due()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(send, range(4)))

    assert sorted(headers["webhook-id"] for headers, _ in receiver.requests) == sorted(
        message_id(f"t{number}") for number in range(12)
    )


def test_several_messages_are_claimed_and_recorded_in_one_transaction_each(receiver: Receiver) -> None:
    first, second, third = add_messages(add_endpoint(receiver).row, "t1", "t2", "t3")
    now = timezone.now()
    later = now + CLAIM * 2

    with CaptureQueriesContext(connection) as queries:
        claimed = claim_all([first, second, third], now, set())
        Delivery.objects.filter(pk=second.pk).update(due_at=later)  # another process has claimed it since
        recorded = record_outcomes([(each, Outcome(status=200)) for each in claimed], now)

    assert sum(query["sql"] == "COMMIT" for query in queries) == 2
    assert ([each.slot for each in claimed], recorded) == ([0, 1, 2], {first.pk, third.pk})
    states = [(each.state, each.attempts, each.slot) for each in Delivery.objects.order_by("pk")]
    assert states == [("delivered", 1, None), ("pending", 0, 1), ("delivered", 1, None)]


def test_an_outcome_is_recorded_although_another_process_locks_its_row(receiver: Receiver) -> None:
    claimed = claim_all(add_messages(add_endpoint(receiver).row, "t1", "t2"), timezone.now(), set())
    is_locked, release = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            list(Delivery.objects.select_for_update().filter(pk=claimed[0].pk))
            is_locked.set()
            release.wait(PATIENCE_S)
        connection.close()

    def record() -> set[int]:
        try:
            return record_outcomes([(each, Outcome(status=200)) for each in claimed], timezone.now())
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as threads:
        threads.submit(lock)
        assert is_locked.wait(PATIENCE_S)
        recording = threads.submit(record)
        wait([recording], timeout=1)  # it ends by then only if it does not wait for the row
        release.set()
        recorded = recording.result()

    assert recorded == {each.pk for each in claimed}


def test_a_slot_that_another_process_took_costs_only_one_claim(receiver: Receiver) -> None:
    theirs, first, second = add_messages(add_endpoint(receiver).row, "t1", "t2", "t3")
    assert claim(theirs, timezone.now(), set())

    claimed = claim_all([first, second], timezone.now(), set())

    assert [(each.pk, each.slot) for each in claimed] == [(second.pk, 1)]
    assert [each.slot for each in Delivery.objects.order_by("pk")] == [0, None, 1]


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


def test_an_error_with_nul_is_recorded(receiver: Receiver) -> None:
    """PostgreSQL stores no NUL; a mail server may send one in the text of a refusal."""
    (delivery,) = add_messages(add_endpoint(receiver).row, "t1")
    assert claim(delivery, timezone.now(), set())

    assert record_outcome(delivery, Outcome(error="refused: \0"), timezone.now())

    assert Delivery.objects.get().error == "refused: \ufffd"


def test_what_a_killed_process_had_in_flight_is_sent_again_with_the_same_id(receiver: Receiver) -> None:
    """The process that claimed it may have sent it, and was killed before it could record that."""
    (delivery,) = add_messages(add_endpoint(receiver).row, "t1")
    now = timezone.now()
    assert claim(delivery, now, set())
    assert send_due() == 0
    Delivery.objects.update(due_at=now - timedelta(seconds=1))

    assert send_due() == 1

    assert not record_outcome(delivery, Outcome(error="late"), now)
    assert (Delivery.objects.get().state, Delivery.objects.get().error) == ("delivered", "")
    assert [headers["webhook-id"] for headers, _ in receiver.requests] == [message_id("t1")]


def test_a_late_failure_does_not_touch_what_another_process_has_claimed(receiver: Receiver) -> None:
    (slow,) = add_messages(add_endpoint(receiver).row, "t1")
    assert claim(slow, timezone.now(), set())
    later = timezone.now() + CLAIM + timedelta(seconds=1)
    (other,) = Delivery.objects.all()
    assert claim(other, later, set())

    assert not record_outcome(slow, Outcome(error="no response"), later)

    assert Delivery.objects.get().due_at == later + CLAIM


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
    assert list_due_targets(timezone.now()) == sorted([disabled.pk, others[7][0]])


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

    assert prune_deliveries() == 2

    assert set(Delivery.objects.values_list("task_id", flat=True)) == {"t2", "t3"}
