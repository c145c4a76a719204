"""What ends while the server has disabled an endpoint is kept, within limits, until it is enabled."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone

from alerts.models import Alert
from alerts.operations import update_alerts
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.maintenance import retention
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.maintenance_duties import delete_old_rows
from tests.webhooks.receiver import Receiver, send_due
from tests.webhooks.test_ends import QUEUE, add, finish, tell
from tests.webhooks.test_sender import EVENT, add_endpoint, add_messages
from webhooks import deliveries
from webhooks.deliveries import KEPT_FOR
from webhooks.messages import schedule_batch_ended
from webhooks.models import ALERT_EVENTS, UNDELIVERED, Delivery, Endpoint
from webhooks.operations import change_endpoint, create_endpoint, disable_failing_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]

REASON = "It responded with status 410: gone."


@pytest.mark.parametrize(("kept", "sent"), [("send", 3), ("drop", 0)])
def test_what_ends_while_the_server_has_disabled_it_is_sent_or_dropped_when_it_is_enabled(
    single_broker: Broker, receiver: Receiver, kept: str, sent: int
) -> None:
    save_queue(spec=spec(QUEUE), source=QueueSource.API)
    endpoint = create_endpoint(url=receiver.url, events=["task.completed", "batch.ended"]).row
    add()
    disable_failing_endpoint(endpoint.pk, REASON)
    change_endpoint(endpoint.pk, in_flight=2)  # publishes it again
    add()  # enqueued while it is disabled, and marked
    for _ in range(2):
        finish(single_broker)
    assert tell(single_broker) == 0
    schedule_batch_ended(batch_id="b", queues=[QUEUE], data={}, now=timezone.now())

    changed = ApiClient(ADMIN_KEY).patch(f"/api/webhooks/{endpoint.pk}", {"enabled": True, "kept": kept})

    assert changed.status_code == 200
    assert send_due() == sent
    assert Delivery.objects.filter(abandoned_at=None).count() == sent


def test_what_ends_while_a_user_has_disabled_it_is_not_kept(single_broker: Broker, receiver: Receiver) -> None:
    save_queue(spec=spec(QUEUE), source=QueueSource.API)
    endpoint = create_endpoint(url=receiver.url, events=["task.completed"]).row
    add()
    disable_failing_endpoint(endpoint.pk, REASON)
    change_endpoint(endpoint.pk, is_enabled=False)
    finish(single_broker)

    assert tell(single_broker) == 0

    change_endpoint(endpoint.pk, is_enabled=True)
    assert send_due() == 0


def make_unreadable(table: str, which: str = "TRUE") -> None:
    """Give rows a time that Python has no value for."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {table} SET created_at = '-infinity' WHERE {which}")  # noqa: S608 (constants)


@pytest.mark.parametrize(("limit", "value"), [("KEPT_MAX", 3), ("KEPT_MAX_BYTES", 200)])
def test_the_oldest_of_too_much_is_dropped_and_counted(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(deliveries, limit, value)
    disabled, enabled = add_endpoint(receiver).row, add_endpoint(receiver).row
    for endpoint in (disabled, enabled):
        add_messages(endpoint, *map(str, range(5)))
    Delivery.objects.update(body_bytes=60)
    disable_failing_endpoint(disabled.pk, REASON)
    make_unreadable("webhooks_endpoint")
    make_unreadable("webhooks_delivery")

    kept_beyond_limits = (Delivery, deliveries.find_excess_deliveries, deliveries.drop_deliveries)
    monkeypatch.setattr(retention, "_registered", [kept_beyond_limits])  # without the time all are old on PostgreSQL
    delete_old_rows(at_once=1)

    for model in (Endpoint, Delivery):  # so that they can be read again
        model.objects.update(created_at=timezone.now())
    left = Delivery.objects.filter(endpoint_id=disabled.pk).order_by("pk").values_list("task_id", flat=True)
    assert ([*left], Delivery.objects.filter(endpoint_id=enabled.pk).count()) == (["2", "3", "4"], 5)
    assert [*Endpoint.objects.order_by("dropped").values_list("dropped", flat=True)] == [0, 2]


def test_what_cannot_be_dropped_keeps_no_more_than_itself(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "KEPT_MAX", 3)
    endpoint = add_endpoint(receiver).row
    odd = {each.pk for each in add_messages(endpoint, "odd0", "odd1")}
    add_messages(endpoint, *map(str, range(5)))
    disable_failing_endpoint(endpoint.pk, REASON)

    def drop(some: QuerySet[Delivery]) -> None:
        if odd.intersection(each.pk for each in some):
            raise ValueError
        deliveries.drop_deliveries(some)

    monkeypatch.setattr(retention, "_registered", [(Delivery, deliveries.find_excess_deliveries, drop)])
    delete_old_rows(at_once=1)

    assert [*Delivery.objects.order_by("pk").values_list("task_id", flat=True)] == ["odd0", "odd1", "4"]


def test_what_is_kept_for_too_long_is_dropped_and_counted_until_it_is_enabled(receiver: Receiver) -> None:
    disabled, of_user = add_endpoint(receiver).row, add_endpoint(receiver).row
    for endpoint in (disabled, of_user):
        add_messages(endpoint, "t1", "t2")
    disable_failing_endpoint(disabled.pk, REASON)
    change_endpoint(of_user.pk, is_enabled=False)
    Delivery.objects.filter(task_id="t1").update(created_at=timezone.now() - KEPT_FOR - timedelta(seconds=1))
    make_unreadable("webhooks_delivery", "task_id = 't1'")

    delete_old_rows()

    disabled.refresh_from_db()
    of_user.refresh_from_db()
    assert (disabled.dropped, of_user.dropped) == (1, 0)
    assert change_endpoint(disabled.pk, is_enabled=True).dropped == 0


def test_enabling_what_is_enabled_changes_nothing_else(receiver: Receiver) -> None:
    endpoint = add_endpoint(receiver).row
    add_messages(endpoint, "t1")
    since = timezone.now() - timedelta(hours=1)
    Endpoint.objects.update(failing_since=since)

    change_endpoint(endpoint.pk, is_enabled=True, kept="drop")

    assert Endpoint.objects.get().failing_since == since
    assert Delivery.objects.filter(UNDELIVERED).count() == 1


def test_an_alert_about_an_endpoint_goes_to_others_alone(single_broker: Broker, receiver: Receiver) -> None:
    failing = create_endpoint(url=receiver.url, events=[EVENT, *ALERT_EVENTS]).row
    Endpoint.objects.update(failing_since=timezone.now() - timedelta(minutes=16))
    of_queue = {"url": receiver.url, "events": ALERT_EVENTS}
    save_queue(spec=spec(QUEUE), source=QueueSource.API)
    create_endpoint(**of_queue, queues=[QUEUE])
    critical = create_endpoint(**of_queue, levels=["critical"]).row

    update_alerts(single_broker)

    (alert,) = Alert.objects.filter(subject=failing.pk)
    told = [each.endpoint_id for each in alert.deliveries.all() if each.endpoint_id]
    assert told == [critical.pk]
