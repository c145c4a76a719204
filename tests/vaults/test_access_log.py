"""Records of deliveries of secrets to workers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_py
from django.conf import settings
from django.db import connection
from django.utils import timezone

from queues.definitions import Deployment
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.broker import keys
from runqy.broker.streams import write_behind
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.broker.workers.records import WorkerRecord
from runqy.configuration.documents import signing_key
from runqy.core import signing
from runqy.core.environment.variables import RemovedSetting
from runqy.errors import BrokerUnavailable, DeliveryNotRecorded, VaultNotFound
from runqy.maintenance.models import FailedRow
from runqy.redis_connection import get_broker
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.support.lost_replies import lose_reply
from tests.support.maintenance_duties import delete_old_rows
from tests.support.secret_leaks import SUITE
from vaults.access_log import (
    get_worker_vaults,
    list_deliveries,
    list_vault_workers,
    record_delivery,
    store_deliveries,
)
from vaults.entry_rules import EntryUsage
from vaults.models import VaultDelivery
from vaults.operations import create_vault, delete_entry, delete_vault, set_entry
from vaults.worker_secrets import get_worker_secrets

pytestmark = pytest.mark.usefixtures("configuration")

SECRET = SUITE.secret()
SKEW = timedelta(seconds=1)  # between the clocks of Redis and the process


def fill(vault: str = "api-keys", **values: str) -> None:
    """Create a vault with entries."""
    create_vault(name=vault)
    for key, value in values.items():
        set_entry(vault=vault, key=key, value=value, usage=EntryUsage.BOTH, git_hosts=["example.com"])


def save(queue: str, *vaults: str, git_token: str = "") -> None:
    """Save a queue that uses vaults."""
    deployment = Deployment(git_url="https://example.com/r.git", startup_cmd="python main.py")
    save_queue(
        spec=spec(queue, deployment=replace(deployment, vaults=vaults, git_token=git_token)), source=QueueSource.API
    )


def deliver(worker_id: str, *vaults: str, queue: str = "mail", git_token: str = "") -> None:
    """Deliver vaults to a worker, as its registration does."""
    grants = get_worker_secrets(vaults, git_token=git_token, git_url="https://example.com/r.git", max_age_s=0).grants
    record_delivery(worker_id=worker_id, queue=queue, grants=grants)


def live(worker_id: str, queue: str = "mail") -> None:
    """Store the heartbeat of a worker."""
    record = WorkerRecord(
        worker_id=worker_id,
        host="h",
        pid=1,
        server_id=worker_id,
        queue=queue,
        redis_queues={queue: 1},
        started_at_s=1_700_000_000,
    )
    broker = get_broker()
    broker.run(write_heartbeat(record, now_ns=broker.now_ns()))


def test_a_delivery_is_recorded_with_versions_and_actor_but_no_value() -> None:
    before = timezone.now()
    fill(A=SECRET)
    set_entry(vault="api-keys", key="A", value=SECRET + "2")
    actor = Actor(kind=ActorKind.KEY, name="gpu machines", id="7", address="10.0.0.7")

    with actor_context(actor):
        deliver("w1", "api-keys")
    waiting = b"".join(note.content for note in get_broker().run(write_behind.read_deliveries(9)))
    store_deliveries()

    record = VaultDelivery.objects.get()
    assert (record.worker_id, record.queue, record.vault, record.versions) == ("w1", "mail", "api-keys", {"A": 2})
    assert (record.key_id, record.key_name, record.address) == ("7", "gpu machines", "10.0.0.7")
    assert before - SKEW <= record.at <= timezone.now() + SKEW
    assert b"w1" in waiting
    assert SECRET.encode() not in waiting


def test_only_delivered_entries_are_recorded() -> None:
    fill("general", A="1", B="1")
    fill("special", B="2")
    fill("tokens", GIT="ghp", OTHER="x")

    deliver("w1", "general", "special", git_token="vault://tokens/GIT")
    store_deliveries()

    delivered = {record.vault: record.versions for record in VaultDelivery.objects.all()}
    assert delivered == {"general": {"A": 1}, "special": {"B": 1}, "tokens": {"GIT": 1}}
    assert len({record.delivery for record in VaultDelivery.objects.all()}) == 1


def test_stored_deliveries_are_removed_from_redis(redis: redis_py.Redis) -> None:
    fill(A="1")
    for n in range(3):
        deliver(f"w{n}", "api-keys")

    assert store_deliveries() == 3

    assert redis.xlen(keys.DELIVERIES) == 0
    assert [record.worker_id for record in VaultDelivery.objects.order_by("pk")] == ["w0", "w1", "w2"]


def test_a_delivery_that_cannot_be_stored_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    monkeypatch.setattr("runqy.maintenance.streams.ENTRIES_AT_ONCE", 2)
    fill(A="1")
    odd = signing.sign(signing_key(settings.SECRET_KEY), b"runqy delivery", b'{"of": "a later release"}')
    deliver("w1", "api-keys")
    for _ in range(3):
        get_broker().run(write_behind.record_delivery(odd))
    if connection.vendor == "postgresql":
        deliver("w" * 200, "api-keys")
    deliver("w2", "api-keys")
    kept = redis.xlen(keys.DELIVERIES) - 2

    assert [store_deliveries(), store_deliveries()] == [2, 0]

    assert [record.worker_id for record in VaultDelivery.objects.order_by("pk")] == ["w1", "w2"]
    assert redis.xlen(keys.DELIVERIES) == kept
    assert list(FailedRow.objects.values_list("kind", "times")) == [("delivery of secrets", 1)] * kept


def test_a_delivery_is_stored_once_if_a_process_ends_before_it_is_removed_from_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(A="1")
    deliver("w1", "api-keys")
    with monkeypatch.context() as patch:
        patch.setattr(write_behind, "delete_deliveries", _die)
        with pytest.raises(KeyboardInterrupt):
            store_deliveries()
    deliver("w1", "api-keys")

    store_deliveries()

    assert VaultDelivery.objects.count() == 2


def test_a_lost_reply_to_a_record_neither_stops_the_delivery_nor_doubles_it(
    monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    fill(A="1")
    lost = lose_reply(monkeypatch, "record_delivery")

    deliver("w1", "api-keys")

    assert lost
    assert redis.xlen(keys.DELIVERIES) == 2
    store_deliveries()
    assert VaultDelivery.objects.count() == 1


def _die(_ids: object) -> None:
    raise KeyboardInterrupt


def test_concurrent_processes_store_each_delivery_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runqy.maintenance.streams.ENTRIES_AT_ONCE", 7)
    fill(A="1")
    for n in range(60):
        deliver(f"w{n:02}", "api-keys")

    def store(_: int) -> None:
        try:
            store_deliveries()
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(store, range(3)))

    assert [r.worker_id for r in VaultDelivery.objects.order_by("pk")] == [f"w{n:02}" for n in range(60)]


def test_a_record_without_a_valid_signature_is_dropped(redis: redis_py.Redis) -> None:
    fill(A="1")
    deliver("w1", "api-keys")
    (genuine,) = get_broker().run(write_behind.read_deliveries(1))
    for forged in (genuine.content.replace(b'"w1"', b'"w2"'), b"", b"x" * 100):
        redis.xadd(keys.DELIVERIES, {"content": forged})
    redis.xadd(keys.DELIVERIES, {"other": "field"})

    store_deliveries()

    assert VaultDelivery.objects.get().worker_id == "w1"
    assert redis.xlen(keys.DELIVERIES) == 0


def test_without_room_for_a_record_nothing_is_delivered(monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis) -> None:
    monkeypatch.setattr(write_behind, "MAX_DELIVERIES", 2)
    fill(A="1")
    deliver("w1", "api-keys")
    deliver("w2", "api-keys")

    with pytest.raises(DeliveryNotRecorded):
        deliver("w3", "api-keys")
    store_deliveries()
    deliver("w3", "api-keys")

    assert redis.xlen(keys.DELIVERIES) == 1


def test_without_redis_nothing_is_delivered(settings) -> None:
    fill(A="1")
    grants = get_worker_secrets(["api-keys"]).grants
    settings.REDIS_TARGET = away()

    with pytest.raises(BrokerUnavailable):
        record_delivery(worker_id="w1", queue="mail", grants=grants)


def test_a_full_redis_accepts_records(redis: redis_py.Redis) -> None:
    fill(A="1")
    redis.config_set("maxmemory", 1)

    try:
        deliver("w1", "api-keys")
    finally:
        redis.config_set("maxmemory", 0)

    assert redis.xlen(keys.DELIVERIES) == 1


@pytest.mark.usefixtures("stopped_clock")
def test_expired_records_are_pruned_in_batches_except_those_of_live_workers(
    monkeypatch: pytest.MonkeyPatch, settings
) -> None:
    fill(A="1")
    for worker_id in ("gone1", "gone2", "gone3", "alive"):
        deliver(worker_id, "api-keys")
    store_deliveries()
    VaultDelivery.objects.update(at=timezone.now() - timedelta(days=2))
    deliver("new", "api-keys")
    store_deliveries()
    live("alive")

    settings.RUNQY_AUDIT_KEPT_S = 0  # no limit: of deliveries 90 days
    delete_old_rows()
    kept = VaultDelivery.objects.count()
    settings.RUNQY_AUDIT_KEPT_S = 24 * 3600
    settings.RUNQY_REMOVED = (RemovedSetting(name="RUNQY_DELIVERIES_KEPT", instead=""),)
    delete_old_rows()
    kept_until_the_warning_was_read = VaultDelivery.objects.count()
    settings.RUNQY_REMOVED = ()
    delete_old_rows(at_once=2)

    assert (kept, kept_until_the_warning_was_read) == (5, 5)
    assert {record.worker_id for record in VaultDelivery.objects.all()} == {"alive", "new"}


def test_deliveries_are_listed_newest_first_in_pages() -> None:
    fill(A="1")
    for worker_id in ("w1", "w2", "w1", "w3"):
        deliver(worker_id, "api-keys")
    store_deliveries()

    first = list_deliveries("api-keys", limit=3)
    second = list_deliveries("api-keys", limit=3, before=first[-1].pk)
    of_one = list_deliveries("api-keys", limit=3, worker_id="w1")

    assert [delivery.worker_id for delivery in first] == ["w3", "w1", "w2"]
    assert [delivery.worker_id for delivery in second] == ["w1"]
    assert [delivery.worker_id for delivery in of_one] == ["w1", "w1"]


def test_a_delivery_is_current_until_an_entry_is_set_or_deleted() -> None:
    fill(A="1", B="1")
    deliver("w1", "api-keys")
    store_deliveries()

    def is_current() -> bool:
        return list_deliveries("api-keys", limit=1)[0].is_current

    set_entry(vault="api-keys", key="A", value="1", is_secret=False)
    untouched = is_current()
    delete_entry(vault="api-keys", key="B")
    without_b = is_current()
    set_entry(vault="api-keys", key="B", value="1")

    assert (untouched, without_b, is_current()) == (True, False, False)


def test_deliveries_outlive_their_vault_and_an_unknown_vault_is_not_found() -> None:
    fill(A="1")
    deliver("w1", "api-keys")
    store_deliveries()

    delete_vault(name="api-keys")

    assert not list_deliveries("api-keys", limit=1)[0].is_current
    assert list_deliveries("api-keys", limit=1, worker_id="other") == []
    with pytest.raises(VaultNotFound):
        list_deliveries("other", limit=1)


@pytest.mark.usefixtures("stopped_clock")
def test_live_workers_with_the_current_values_are_listed() -> None:
    fill(A="1")
    fill("other", A="1")
    for queue, vaults in {"mail": ("api-keys",), "post": ("api-keys", "other"), "plain": ("other",)}.items():
        save(queue, *vaults)
    for worker_id, queue in {"w1": "mail", "w2": "post", "w3": "mail", "w4": "plain"}.items():
        live(worker_id, queue)
    deliver("w1", "api-keys")
    deliver("w2", "api-keys", "other", queue="post")
    deliver("dead", "api-keys")
    set_entry(vault="api-keys", key="A", value="2")
    deliver("w2", "api-keys", "other", queue="post")
    store_deliveries()

    workers = list_vault_workers(get_broker(), "api-keys")

    assert [(h.worker_id, h.queue, h.is_current) for h in workers] == [
        ("w1", "mail", False),
        ("w2", "post", True),
        ("w3", "mail", False),
    ]
    assert [h.delivery is None for h in workers] == [False, False, True]


def test_the_values_of_each_worker_are_listed_by_vault() -> None:
    fill(A="1")
    fill("other", B="1")
    save("mail", "api-keys", git_token="vault://other/B")
    deliver("w1", "api-keys", git_token="vault://other/B")
    deliver("w2", "api-keys")
    set_entry(vault="api-keys", key="A", value="2")
    deliver("w1", "api-keys", git_token="vault://other/B")
    store_deliveries()

    found = get_worker_vaults(["w1", "w2", "w3"])
    statuses = {
        worker_id: [(h.vault, dict(h.versions), h.is_current) for h in held] for worker_id, held in found.items()
    }

    assert statuses == {
        "w1": [("api-keys", {"A": 2}, True), ("other", {"B": 1}, True)],
        "w2": [("api-keys", {"A": 1}, False)],
        "w3": [],
    }
    save("mail")
    assert get_worker_vaults(["w1"]) == {"w1": []}


@pytest.mark.usefixtures("stopped_clock")
def test_the_number_of_queries_does_not_depend_on_the_number_of_workers(django_assert_num_queries: Any) -> None:
    fill(A="1")
    fill("other", B="1")
    save("mail", "api-keys", "other")
    ids = [f"w{n}" for n in range(40)]
    for worker_id in ids:
        live(worker_id)
        deliver(worker_id, "api-keys", "other")
    store_deliveries()
    broker = get_broker()

    with django_assert_num_queries(3):
        assert all(len(held) == 2 for held in get_worker_vaults(ids).values())
    with django_assert_num_queries(3):
        assert len(list_vault_workers(broker, "api-keys")) == 40


def test_recording_a_delivery_does_not_query_the_database(django_assert_num_queries: Any) -> None:
    fill(A="1")
    deliver("w1", "api-keys")

    with django_assert_num_queries(1):  # for newer configuration
        deliver("w1", "api-keys")
