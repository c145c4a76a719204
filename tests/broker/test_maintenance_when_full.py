"""A Redis that has reached its memory limit is still drained, and its workers do not look dead."""

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties import forwarder, janitor, orphans, pending_timeouts, recoverer
from runqy.broker.tasks import reader as task_index
from runqy.broker.workers import heartbeats
from runqy.broker.workers.records import WorkerRecord
from tests.support.full_redis import full_redis
from tests.support.maintenance_duties import KEYS, QUEUE, MovingClock, indexes_of, put, take
from tests.support.redis_client import redis_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


def test_due_lost_and_overdue_tasks_move_on(single_broker: Broker, clock: MovingClock) -> None:
    put(single_broker, "lost")
    take(single_broker)
    put(single_broker, "due", process_at_s=single_broker.now_s() + 30)
    put(single_broker, "overdue")
    clock.advance(61)

    with full_redis(redis_of(single_broker)):
        single_broker.run(pending_timeouts.archive_all_timed_out(single_broker, {QUEUE: 60}))
        single_broker.run(forwarder.forward_due(single_broker, [QUEUE]))
        single_broker.run(recoverer.recover_lost(single_broker, [QUEUE], recoverer.LeaselessWatch()))

    indexes = [indexes_of(single_broker, task_id) for task_id in ("lost", "due", "overdue")]
    assert indexes == [["retry"], ["pending"], ["archived"]]


def test_groups_are_reclaimed_and_orphans_restored(single_broker: Broker, clock: MovingClock) -> None:
    stale = f"{KEYS.group('g')}:set"
    redis_of(single_broker).zadd(stale, {"a": 1})
    redis_of(single_broker).zadd(KEYS.aggregation_sets, {stale: 1})
    redis_of(single_broker).zadd(keys.WORKERS, {"vm:1": 1})
    put(single_broker, "orphan")
    redis_of(single_broker).delete(KEYS.pending)
    search = orphans.OrphanSearch()

    with full_redis(redis_of(single_broker)):
        single_broker.run(recoverer.recover_lost(single_broker, [QUEUE], recoverer.LeaselessWatch()))
        single_broker.run(search.run_step(single_broker))
        clock.advance(61)
        single_broker.run(search.run_step(single_broker))

    assert redis_of(single_broker).zcard(KEYS.group("g")) == 1
    assert indexes_of(single_broker, "orphan") == ["pending"]


def test_expired_tasks_are_deleted(single_broker: Broker, clock: MovingClock) -> None:
    redis_of(single_broker).hset(KEYS.task("done"), mapping={"state": "completed", "msg": b""})
    redis_of(single_broker).zadd(KEYS.completed, {"done": 1})
    redis_of(single_broker).hset(KEYS.task("dead"), mapping={"state": "archived", "msg": b""})
    redis_of(single_broker).zadd(KEYS.archived, {"dead": 1})
    redis_of(single_broker).hset(keys.lookup("gone"), "queue", QUEUE)
    sweep = task_index.LookupSweep()

    with full_redis(redis_of(single_broker)):
        single_broker.run(janitor.delete_expired(single_broker, {QUEUE: 60}, janitor.ArchiveCursors()))
        single_broker.run(heartbeats.remove_expired_workers(single_broker))
        single_broker.run(sweep.run_step(single_broker))
        clock.advance(61)
        single_broker.run(sweep.run_step(single_broker))

    assert redis_of(single_broker).dbsize() == 0


def test_workers_do_not_appear_disconnected(single_broker: Broker) -> None:
    record = WorkerRecord(
        worker_id="w", host="h", pid=1, server_id="s", queue=QUEUE, redis_queues={QUEUE: 1}, started_at_s=1
    )

    with full_redis(redis_of(single_broker)):
        single_broker.run(heartbeats.write_heartbeat(record, now_ns=single_broker.now_ns()))

    assert [found.worker_id for found in heartbeats.list_worker_records(single_broker)] == ["w"]
    assert redis_of(single_broker).zcard(keys.SERVERS) == 1
