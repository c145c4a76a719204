"""What /metrics shows of messages to webhooks, and of the ends of tasks that make them."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from runqy.broker.keys import QueueKeys
from runqy.redis_connection import get_broker
from tests.metrics.pages import read_page, value
from tests.support.waiting import wait_until
from tests.webhooks.receiver import Receiver
from tests.webhooks.test_sender import add_endpoint, add_messages
from webhooks import deliveries
from webhooks.duties import WebhookSender
from webhooks.models import Delivery
from webhooks.operations import change_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("queues")]


def read_deliveries() -> tuple[float | None, ...]:
    """Return how many are due and how many wait, and the attempts that were accepted and that failed."""
    page = read_page()
    states = (value(page, "runqy_webhook_deliveries", state=state) for state in ("due", "waiting"))
    outcomes = (value(page, "runqy_webhook_attempts_total", outcome=each) for each in ("accepted", "failed"))
    return (*states, *outcomes)


def send_until(duty: WebhookSender, expected: tuple[int, ...]) -> None:
    def has_sent() -> bool:
        duty.run(get_broker())
        return read_deliveries() == expected

    wait_until(has_sent)


def test_messages_are_shown_while_they_are_due_and_attempts_as_they_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "DELAYS_S", (3600,))
    endpoint, duty = add_endpoint(receiver).row, WebhookSender()
    add_messages(endpoint, "t1", "t2")
    assert read_deliveries() == (2, 0, 0, 0)
    receiver.status = 503

    send_until(duty, (0, 2, 0, 2))

    assert value(read_page(), "runqy_webhook_oldest_due_seconds") == 0
    Delivery.objects.update(due_at=timezone.now() - timedelta(seconds=100))
    assert 99 <= (value(read_page(), "runqy_webhook_oldest_due_seconds") or 0) < 1000
    change_endpoint(endpoint.pk, is_enabled=False)
    assert read_deliveries() == (0, 2, 0, 2)
    change_endpoint(endpoint.pk, is_enabled=True)
    receiver.status = 200
    send_until(duty, (0, 0, 2, 2))


def test_waiting_ends_are_shown_by_queue_and_by_the_age_of_the_oldest(redis: Any) -> None:
    now_ms = get_broker().now_ns() // 10**6
    redis.xadd(QueueKeys("mail").ends, {"end": b"x"}, id=f"{now_ms - 90_000}-0")
    redis.xadd(QueueKeys("mail").ends, {"end": b"x"})
    redis.xadd(QueueKeys("inference_low").ends, {"end": b"x"})

    page = read_page()

    found = [value(page, "runqy_ends_waiting", queue=name) for name in ("mail", "inference_low", "inference_high")]
    assert found == [2, 1, 0]
    assert value(page, "runqy_stream_entries", stream="ends") == 3
    assert 90 <= (value(page, "runqy_stream_lag_seconds", stream="ends") or 0) < 150
