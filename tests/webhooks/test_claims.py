"""Of processes that send at once each message is claimed by one, and its outcome recorded by that one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.support.waiting import PATIENCE_S
from tests.webhooks.receiver import Receiver, send_due
from tests.webhooks.test_sender import EVENT, add_endpoint, add_messages
from webhooks.deliveries import CLAIM, claim_due, record_outcomes
from webhooks.messages import message_id
from webhooks.models import Delivery
from webhooks.operations import schedule_test
from webhooks.queries import list_due_targets
from webhooks.transport import Outcome

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]


def claim(count: int = 1, at: datetime | None = None) -> list[Delivery]:
    """Claim so many messages of each target, as a process of maintenance does."""
    now = at or timezone.now()
    targets, _ = list_due_targets(now)
    return claim_due(dict.fromkeys(targets, count), now)


def record(*ended: tuple[Delivery, Outcome]) -> set[int]:
    recorded, _ = record_outcomes(ended, timezone.now())
    return recorded


def test_messages_of_all_targets_are_claimed_and_recorded_in_one_transaction_each(receiver: Receiver) -> None:
    first, second = add_messages(add_endpoint(receiver).row, "t1", "t2")
    *_, third, _ = add_messages(add_endpoint(receiver).row, "t3", "t4")
    later = timezone.now() + CLAIM * 2

    with CaptureQueriesContext(connection) as queries:
        claimed = claim(2)
        Delivery.objects.filter(pk=second.pk).update(due_at=later)  # another process has claimed it since
        ended = [(each, Outcome(status=200)) for each in claimed if each.task_id != "t4"]
        recorded = record(*ended)

    assert sum(query["sql"] == "COMMIT" for query in queries) == 2
    assert {each.task_id: each.slot for each in claimed} == {"t1": 0, "t2": 1, "t3": 0, "t4": 1}
    assert recorded == {first.pk, third.pk}
    states = [(each.state, each.attempts, each.slot) for each in Delivery.objects.order_by("pk")]
    assert states == [("delivered", 1, None), ("pending", 0, 1), ("delivered", 1, None), ("pending", 0, 1)]


def test_an_outcome_whose_row_is_locked_is_recorded_later_and_the_others_at_once(receiver: Receiver) -> None:
    add_messages(add_endpoint(receiver).row, "t1", "t2")
    ended = [(each, Outcome(status=200)) for each in claim(2)]
    (locked, _), (free, _) = ended
    is_locked, release = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            list(Delivery.objects.select_for_update().filter(pk=locked.pk))
            is_locked.set()
            release.wait(PATIENCE_S)
        connection.close()

    with ThreadPoolExecutor(1) as threads:
        locking = threads.submit(lock)
        assert is_locked.wait(PATIENCE_S)
        if connection.vendor == "postgresql":  # on SQLite a lock is the whole database's
            assert record_outcomes(ended, timezone.now()) == ({free.pk}, {locked.pk})
        release.set()
        locking.result()

    assert locked.pk in record(*ended)
    assert not Delivery.objects.filter(delivered_at=None).exists()


def test_an_endpoint_has_no_more_in_flight_than_its_own_with_alerts_first(receiver: Receiver) -> None:
    endpoint = add_endpoint(receiver, in_flight=3).row
    add_messages(endpoint, *(f"t{number}" for number in range(6)))
    schedule_test(endpoint.pk)
    targets, _ = list_due_targets(timezone.now())
    (alerts,) = (each for each in targets if each.is_alerts)

    claimed = [*claim_due({alerts: 10}, timezone.now()), *claim(10), *claim(10)]

    assert [each.event for each in claimed] == ["webhook.test", EVENT, EVENT]
    add_messages(endpoint, *(f"u{number}" for number in range(3)))
    schedule_test(endpoint.pk)
    assert claim(10) == []
    record((claimed[1], Outcome(status=200)))
    assert [each.event for each in claim_due({alerts: 10}, timezone.now())] == ["webhook.test"]


def test_an_error_with_nul_is_recorded(receiver: Receiver) -> None:
    """PostgreSQL stores no NUL; a mail server may send one in the text of a refusal."""
    add_messages(add_endpoint(receiver).row, "t1")
    (delivery,) = claim()

    assert record((delivery, Outcome(error="refused: \0")))

    assert Delivery.objects.get().error == "refused: \ufffd"


def test_what_a_killed_process_had_in_flight_is_sent_again_with_the_same_id(receiver: Receiver) -> None:
    """The process that claimed it may have sent it, and was killed before it could record that."""
    add_messages(add_endpoint(receiver).row, "t1")
    (delivery,) = claim()
    assert send_due() == 0
    Delivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))

    assert send_due() == 1

    assert not record((delivery, Outcome(error="late")))
    assert (Delivery.objects.get().state, Delivery.objects.get().error) == ("delivered", "")
    assert [headers["webhook-id"] for headers, _ in receiver.requests] == [message_id("t1")]


def test_what_killed_processes_had_in_flight_is_sent_although_it_has_all_slots(receiver: Receiver) -> None:
    add_messages(add_endpoint(receiver, in_flight=2).row, *(f"t{number}" for number in range(5)))
    claimed = claim(5)
    assert len(claimed) == 2
    Delivery.objects.exclude(slot=None).update(due_at=timezone.now())

    assert {each.pk for each in claim(1) + claim(1)} == {each.pk for each in claimed}


def test_a_late_failure_does_not_touch_what_another_process_has_claimed(receiver: Receiver) -> None:
    add_messages(add_endpoint(receiver).row, "t1")
    (slow,) = claim()
    later = timezone.now() + CLAIM + timedelta(seconds=1)
    (other,) = claim(at=later)

    assert not record((slow, Outcome(error="no response")))

    assert Delivery.objects.get().due_at == other.due_at == later + CLAIM


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
