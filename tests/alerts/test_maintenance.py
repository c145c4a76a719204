"""A maintenance process opens an alert, sends it, resolves it and sends that."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from alerts.models import Alert
from queues.models import QueueSource
from queues.operations import save_queue
from tasks.models import QueueMinute
from tests.queues.samples import spec
from tests.support.maintenance import start_maintenance
from tests.support.runs import insert_runs, make_failure
from tests.support.waiting import PATIENCE_S, wait_until
from tests.webhooks.receiver import SECRET, Receiver
from webhooks.models import Delivery

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]


def is_resolved() -> bool:
    """End the failures, as if a minute had gone by since they were seen last; return whether the alert is resolved."""
    QueueMinute.objects.all().delete()
    Alert.objects.filter(resolved_at=None).update(seen_at=timezone.now() - timedelta(hours=1))
    return Alert.objects.exclude(resolved_at=None).exists()


def test_failures_are_reported_to_the_webhook_and_so_is_their_end(receiver: Receiver, tmp_path: Path) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    insert_runs(*[make_failure() for _ in range(12)], queue="mail")
    receiver.status = 500

    with (tmp_path / "log").open("wb") as log:
        process = start_maintenance(log, RUNQY_ALERT_WEBHOOK_URL=receiver.url, RUNQY_ALERT_WEBHOOK_SECRET=SECRET)
    try:
        wait_until(lambda: Delivery.objects.filter(delivered_at=None).exclude(error="").exists())
        receiver.status = 204
        wait_until(lambda: Delivery.objects.exclude(delivered_at=None).count() == 1)

        wait_until(is_resolved)
        wait_until(lambda: Delivery.objects.exclude(delivered_at=None).count() == 2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    *opened, resolved = receiver.types
    assert (set(opened), len(opened) >= 2, resolved) == ({"alert.opened"}, True, "alert.resolved")
    assert all("webhook-signature" in headers for headers, _ in receiver.requests)
    assert not Delivery.objects.filter(delivered_at=None).exists()
