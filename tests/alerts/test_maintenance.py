"""A maintenance process opens an alert, sends it, resolves it and sends that."""

import signal
from pathlib import Path

import pytest

from alerts.models import Alert, AlertDelivery
from queues.models import QueueSource
from queues.operations import save_queue
from tasks.models import QueueMinute
from tests.alerts.receiver import SECRET, Receiver
from tests.queues.samples import spec
from tests.support.maintenance import start_maintenance
from tests.support.runs import insert_runs, make_failure
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]


def test_failures_are_reported_to_the_webhook_and_so_is_their_end(receiver: Receiver, tmp_path: Path) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    insert_runs(*[make_failure() for _ in range(12)], queue="mail")
    receiver.status = 500

    with (tmp_path / "log").open("wb") as log:
        process = start_maintenance(log, RUNQY_ALERT_WEBHOOK_URL=receiver.url, RUNQY_ALERT_WEBHOOK_SECRET=SECRET)
    try:
        wait_until(lambda: receiver.types == ["alert.opened"], timeout_s=60)
        receiver.status = 204
        wait_until(lambda: receiver.types == ["alert.opened"] * 2, timeout_s=60)

        QueueMinute.objects.all().delete()
        Alert.objects.update(seen_at=Alert.objects.get().since.replace(year=2020))

        wait_until(lambda: receiver.types == [*["alert.opened"] * 2, "alert.resolved"], timeout_s=60)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert all("webhook-signature" in headers for headers, _ in receiver.requests)
    assert not AlertDelivery.objects.filter(delivered_at=None).exists()
