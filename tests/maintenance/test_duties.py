"""What one tick of each maintenance duty does."""

from datetime import timedelta

import pytest
from django.db import DatabaseError
from django.utils import timezone

from queues.definitions import LimitOverrides
from queues.duties import Republisher
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.audit.duties import AuditRecorder
from runqy.audit.models import AuditRecord
from runqy.audit.operations import record_in_redis
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.constants import ARCHIVE_MAX_AGE_S, LEASE_S
from runqy.broker.workers.records import LOST_TTL_S
from runqy.errors import ConfigurationUnavailable
from runqy.maintenance.base import Duty, make_duties
from runqy.maintenance.retention import RetentionRunner
from tasks import duties
from tasks.duties import Forwarder, Janitor, LookupSweeper, OrphanFinder, PendingTimeout, Recoverer
from tests.queues.samples import spec
from tests.support.maintenance_duties import MovingClock, indexes_of, message_of, put, state_of, take
from tests.support.redis_client import redis_of
from vaults.access_log import DELIVERIES_KEPT_S, VaultGrant, record_delivery
from vaults.duties import DeliveryRecorder
from vaults.models import VaultDelivery

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture
def broker(single_broker: Broker) -> Broker:
    return single_broker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


def save(name: str, *sub_queues: str, **limits: int) -> None:
    save_queue(spec=spec(name, *sub_queues, limits=LimitOverrides(**limits)), source=QueueSource.API)


@pytest.mark.parametrize("queue", ["mail_high", "unheard_of"])
def test_the_forwarder_serves_configured_queues_and_those_found_in_redis(broker: Broker, queue: str) -> None:
    save("mail", "high:10")
    put(broker, "t", queue=queue, process_at_s=broker.now_s() + 1)
    if queue == "mail_high":
        redis_of(broker).delete(keys.QUEUES)
    redis_of(broker).zadd(f"asynq:{{{queue}}}:scheduled", {"t": 1})

    Forwarder().run_tick(broker)

    assert indexes_of(broker, "t", queue) == ["pending"]


def test_the_recoverer_recovers_tasks_of_a_lost_worker(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t", queue="mail")
    take(broker, queue="mail")
    clock.advance(36)

    Recoverer(grace_s=30).run_tick(broker)
    early = indexes_of(broker, "t", "mail")
    Recoverer(grace_s=5).run_tick(broker)

    assert (early, indexes_of(broker, "t", "mail")) == (["active", "lease"], ["retry"])


@pytest.mark.parametrize(("lease_s", "grace_s"), [(3, 3), (600, 30)])
def test_the_grace_is_as_long_as_the_lease_but_at_most_30_s(
    broker: Broker, clock: MovingClock, settings, lease_s: int, grace_s: int
) -> None:
    settings.RUNQY_LEASE_S = lease_s
    put(broker, "t", queue="mail")
    take(broker, queue="mail")
    duty, found = Recoverer(), []
    for wait_s in (LEASE_S + grace_s - 1, 2):  # its lease is that of its worker
        clock.advance(wait_s)
        duty.run_tick(broker)
        found.append(indexes_of(broker, "t", "mail"))

    assert found == [["active", "lease"], ["retry"]]


def test_the_janitor_applies_ttl_archived(broker: Broker) -> None:
    save("mail", ttl_archived_s=100)
    for queue in ("mail", "unheard_of"):
        redis_of(broker).sadd(keys.QUEUES, queue)
        redis_of(broker).hset(f"asynq:{{{queue}}}:t:t", mapping={"state": "archived", "msg": b""})
        redis_of(broker).zadd(f"asynq:{{{queue}}}:archived", {"t": broker.now_s() - 101})

    Janitor().run_tick(broker)

    assert state_of(broker, "t", "mail") is None
    assert state_of(broker, "t", "unheard_of") == "archived"


def test_the_janitor_removes_workers_without_a_heartbeat(broker: Broker) -> None:
    redis_of(broker).zadd(keys.WORKER_RECORDS, {"w": broker.now_s() - LOST_TTL_S - 1})
    redis_of(broker).hset(keys.WORKER_CLAIMS, "w", f"{broker.now_s() - 901} key:1")

    Janitor().run_tick(broker)

    assert not redis_of(broker).exists(keys.WORKER_RECORDS, keys.WORKER_CLAIMS)


def test_the_pending_timeout_of_a_queue_is_applied(broker: Broker, clock: MovingClock) -> None:
    save("impatient", "high:5", pending_timeout_s=60)
    save("patient")
    put(broker, "a", queue="impatient_high")
    put(broker, "b", queue="patient")
    clock.advance(61)

    PendingTimeout().run_tick(broker)

    assert indexes_of(broker, "a", "impatient_high") == ["archived"]
    assert "pending_timeout of 60 s" in message_of(broker, "a", "impatient_high").error_msg
    assert indexes_of(broker, "b", "patient") == ["pending"]


def test_the_sweeper_and_the_finder_act_on_the_second_round(broker: Broker, clock: MovingClock) -> None:
    redis_of(broker).zadd(keys.WORKERS, {"vm:1": 1})
    redis_of(broker).hset(keys.lookup("gone"), "queue", "mail")
    put(broker, "lost", queue="mail")
    redis_of(broker).delete("asynq:{mail}:pending")
    sweeper, finder = LookupSweeper(), OrphanFinder()
    sweeper.run_tick(broker)
    finder.run_tick(broker)
    clock.advance(61)

    sweeper.run_tick(broker)
    finder.run_tick(broker)

    assert not redis_of(broker).exists(keys.lookup("gone"))
    assert indexes_of(broker, "lost", "mail") == ["pending"]


def test_the_republisher_restores_the_configuration_after_a_flush(broker: Broker) -> None:
    save("mail")
    redis_of(broker).flushall()

    Republisher().run_tick(broker)

    assert redis_of(broker).hkeys(keys.CONFIG_DOCUMENTS) == [b"queue:mail"]
    assert redis_of(broker).hexists(keys.QUEUE_REVISIONS, "mail")


def test_an_unavailable_database_does_not_stop_the_republisher(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise DatabaseError("no such host")

    monkeypatch.setattr("queues.duties.republish_configuration", away)

    Republisher().run_tick(broker)


def test_the_audit_recorder_moves_records_to_the_database(broker: Broker) -> None:
    record_in_redis(action="queue.paused", object_kind="queue", object_name="mail")

    AuditRecorder().run_tick(broker)

    assert AuditRecord.objects.get().object_name == "mail"


def test_the_delivery_recorder_moves_records_to_the_database(broker: Broker) -> None:
    record_delivery(worker_id="w1", queue="mail", grants=[VaultGrant(vault="v", versions={"A": 1}, state="s")])

    DeliveryRecorder().run_tick(broker)

    assert VaultDelivery.objects.get().worker_id == "w1"


def test_old_records_of_deliveries_are_deleted(broker: Broker) -> None:
    record_delivery(worker_id="w1", queue="mail", grants=[VaultGrant(vault="v", versions={"A": 1}, state="s")])
    DeliveryRecorder().run_tick(broker)
    VaultDelivery.objects.update(at=timezone.now() - timedelta(seconds=2 * DELIVERIES_KEPT_S))

    RetentionRunner().run_tick(broker)

    assert not VaultDelivery.objects.exists()


@pytest.mark.parametrize(
    ("duty", "operation"),
    [
        (AuditRecorder(), "move_pending"),
        (DeliveryRecorder(), "store_deliveries"),
    ],
)
def test_an_unavailable_database_does_not_stop_the_duties_that_use_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, duty: Duty, operation: str
) -> None:
    def away() -> None:
        raise DatabaseError("no such host")

    monkeypatch.setattr(f"{type(duty).__module__}.{operation}", away)

    duty.run_tick(broker)


@pytest.mark.parametrize("duty", make_duties(), ids=lambda duty: duty.name)
def test_a_tick_on_an_empty_redis_adds_no_task(broker: Broker, duty: Duty) -> None:
    duty.run_tick(broker)

    stored = {"heartbeat": keys.MAINTENANCE, "republisher": keys.CONFIG_REVISIONS, "served_queues": keys.SERVED}
    written = {stored[duty.name]} if duty.name in stored else set()
    assert {key.decode() for key in redis_of(broker).scan_iter("*")} == written


@pytest.mark.parametrize("duty", make_duties(), ids=lambda duty: duty.name)
def test_a_second_process_changes_nothing_after_the_first(broker: Broker, clock: MovingClock, duty: Duty) -> None:
    save("mail", pending_timeout_s=60)
    for i in range(3):
        put(broker, f"run{i}", queue="mail")
        take(broker, queue="mail")
        put(broker, f"wait{i}", queue="mail")
        put(broker, f"later{i}", queue="mail", process_at_s=broker.now_s() + 50)
    clock.advance(61)
    duty.run_tick(broker)
    before = {key: redis_of(broker).dump(key) for key in redis_of(broker).scan_iter("*")}

    type(duty)().run_tick(broker)

    assert {key: redis_of(broker).dump(key) for key in redis_of(broker).scan_iter("*")} == before


def test_invalid_queue_names_are_skipped(broker: Broker) -> None:
    redis_of(broker).sadd(keys.QUEUES, "good", "", "}bad", "b{ad", b"\xff")

    assert broker.run(duties.list_served_queues(broker)) == ["good"]


def test_queues_are_served_while_the_configuration_cannot_be_read(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        raise ConfigurationUnavailable

    save("mail", ttl_archived_s=100, pending_timeout_s=60)
    put(broker, "t", queue="mail")
    readable = broker.run(duties.get_archived_ttls_s(broker)), broker.run(duties.get_pending_timeouts_s())
    for name in ("get_catalog", "get_fresh_catalog"):
        monkeypatch.setattr(duties, name, unreadable)

    assert readable == ({"mail": 100}, {"mail": 60})
    assert broker.run(duties.get_archived_ttls_s(broker)) == {"mail": ARCHIVE_MAX_AGE_S}
    assert broker.run(duties.get_pending_timeouts_s()) == {}
