"""Changes at the same time, whose transactions do not follow each other as on SQLite, and PostgreSQL's plans.

Run by tests/settings/test_postgresql.py.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from queues import webhook_secrets
from queues.webhook_secrets import rotate_secret
from runqy.broker.broker import Broker
from tests.support.waiting import PATIENCE_S
from tests.webhooks.receiver import Receiver
from tests.webhooks.test_ends import add, finish, hosts, tell
from tests.webhooks.test_sender import add_endpoint, add_messages
from vaults.models import SealedSecret
from webhooks import ends
from webhooks.messages import save_deliveries
from webhooks.models import Delivery, Endpoint
from webhooks.operations import create_endpoint, delete_endpoint
from webhooks.queries import list_next_ids

__all__ = ["hosts"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]


@pytest.mark.usefixtures("hosts")
def test_an_endpoint_that_is_deleted_meanwhile_keeps_no_message_from_others(
    single_broker: Broker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (create_endpoint(url=receiver.url, events=["task.completed"]).row for _ in range(2))
    add()
    finish(single_broker)

    def delete() -> None:
        delete_endpoint(first.pk)
        connection.close()

    def save_after_deletion(deliveries: list[Delivery]) -> None:
        with ThreadPoolExecutor(1) as thread:
            if Endpoint.objects.filter(pk=first.pk).exists():
                thread.submit(delete).result()
        save_deliveries(deliveries)

    monkeypatch.setattr(ends, "save_deliveries", save_after_deletion)

    assert tell(single_broker) == 1

    assert Delivery.objects.get().endpoint == second


def test_of_two_rotations_at_once_no_secret_is_lost(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = add_endpoint(receiver).row.secret
    both, generate = threading.Barrier(2, timeout=PATIENCE_S), webhook_secrets.generate_secret

    def generate_together() -> str:  # both have read the row
        both.wait()
        return generate()

    def rotate_once(_: int) -> str:
        try:
            with transaction.atomic():
                return rotate_secret(SealedSecret.objects.get(pk=secret.pk))
        finally:
            connection.close()

    monkeypatch.setattr(webhook_secrets, "generate_secret", generate_together)
    with ThreadPoolExecutor(2) as threads:
        new = set(threads.map(rotate_once, range(2)))

    secret.refresh_from_db()
    assert set(secret.unseal_valid(timezone.now())) == new


def test_the_next_messages_are_read_in_the_order_of_an_index_however_many_are_due(receiver: Receiver) -> None:
    endpoint = add_endpoint(receiver).row
    add_messages(endpoint, *map(str, range(5000)))
    Delivery.objects.update(due_at=timezone.now())
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE webhooks_delivery")

    with CaptureQueriesContext(connection) as queries:
        assert len(list_next_ids({endpoint.pk: 4}, timezone.now())) == 4
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {queries[0]['sql']}")
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert "delivery_due" in plan
    assert "Sort" not in plan
