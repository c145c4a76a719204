"""Deleting finished tasks."""

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties import janitor
from runqy.broker.duties.janitor import ArchiveCursors
from runqy.broker.tasks import finish
from tests.support.maintenance_duties import KEYS, QUEUE, MovingClock, indexes_of, put, take
from tests.support.redis_client import redis_of

HOUR_S = 3600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


def expire(
    broker: Broker, default_ttl_s: int = 72 * HOUR_S, rounds: ArchiveCursors | None = None, **options: int
) -> int:
    return broker.run(janitor.delete_expired(broker, {QUEUE: default_ttl_s}, rounds or ArchiveCursors(), **options))


def complete(broker: Broker, task_id: str, **options: object) -> None:
    put(broker, task_id, **options)
    taken = take(broker)
    broker.run(finish.complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))


def archive(broker: Broker, task_id: str, **options: object) -> None:
    put(broker, task_id, **options)
    taken = take(broker)
    broker.run(finish.archive(taken.lease, taken.message, error="e", now_ns=broker.now_ns()))


def archive_many(broker: Broker, ages_s: dict[str, int], ttl_s: int | None = None) -> None:
    now_s = broker.now_s()
    for task_id in ages_s:
        fields = {"state": "archived", "msg": b""} | ({} if ttl_s is None else {"ttl_archived": ttl_s})
        redis_of(broker).hset(KEYS.task(task_id), mapping=fields)
    redis_of(broker).zadd(KEYS.archived, {task_id: now_s - age_s for task_id, age_s in ages_s.items()})


def test_a_completed_task_is_deleted_with_its_lookup_when_its_time_is_over(broker: Broker, clock: MovingClock) -> None:
    complete(broker, "t", retention_s=100)
    clock.advance(101)

    assert expire(broker) == 1
    assert not redis_of(broker).exists(KEYS.completed)
    assert not redis_of(broker).exists(KEYS.task("t"))
    assert not redis_of(broker).exists(keys.lookup("t"))


def test_a_completed_task_is_kept_until_its_retention_is_over(broker: Broker, clock: MovingClock) -> None:
    complete(broker, "t", retention_s=100)
    clock.advance(95)

    assert expire(broker) == 0
    assert indexes_of(broker, "t") == ["completed"]
    assert redis_of(broker).exists(keys.lookup("t"))


def test_an_archived_task_is_kept_for_its_own_time_to_live(broker: Broker, clock: MovingClock) -> None:
    archive(broker, "short", ttl_archived_s=100)
    archive(broker, "long", ttl_archived_s=1000)
    clock.advance(101)

    assert expire(broker) == 1
    assert not redis_of(broker).exists(KEYS.task("short"))
    assert not redis_of(broker).exists(keys.lookup("short"))
    assert indexes_of(broker, "long") == ["archived"]


def test_an_archived_task_without_a_time_to_live_is_kept_for_its_queues(broker: Broker) -> None:
    archive_many(broker, {"old": 150, "young": 50})

    assert expire(broker, default_ttl_s=100) == 1
    assert redis_of(broker).zrange(KEYS.archived, 0, -1) == [b"young"]


def test_nothing_is_archived_for_longer_than_asynq_would(broker: Broker) -> None:
    archive_many(broker, {"ancient": 90 * 24 * HOUR_S, "old": 89 * 24 * HOUR_S}, ttl_s=10**9)

    assert expire(broker) == 1
    assert redis_of(broker).zrange(KEYS.archived, 0, -1) == [b"old"]


def test_the_oldest_go_when_too_many_are_archived(broker: Broker) -> None:
    archive_many(broker, {f"t{i}": 10 - i for i in range(5)})

    assert expire(broker, max_archived=3) == 2
    assert redis_of(broker).zrange(KEYS.archived, 0, -1) == [b"t2", b"t3", b"t4"]
    assert not redis_of(broker).exists(KEYS.task("t0"))


def test_a_short_lived_task_behind_many_long_lived_ones_is_found_by_the_walk(broker: Broker) -> None:
    archive_many(broker, {f"t{i}": 5000 for i in range(1100)}, ttl_s=10**6)
    archive_many(broker, {"behind": 1000}, ttl_s=10)
    rounds = ArchiveCursors()

    expired = [expire(broker, rounds=rounds) for _ in range(4)]

    assert expired == [0, 1, 0, 0]
    assert not redis_of(broker).exists(KEYS.task("behind"))
    assert redis_of(broker).zcard(KEYS.archived) == 1100


def test_more_than_a_batch_goes_in_one_sweep(broker: Broker) -> None:
    archive_many(broker, {f"t{i}": 1000 for i in range(1100)}, ttl_s=10)

    assert expire(broker) == 1100
    assert not redis_of(broker).exists(KEYS.archived)
    assert list(redis_of(broker).scan_iter("asynq:*")) == []


def test_only_the_lock_of_the_deleted_task_is_released(broker: Broker) -> None:
    archive_many(broker, {"own": 100, "lost": 100, "odd": 100}, ttl_s=10)
    for task_id in ("own", "lost"):
        redis_of(broker).hset(KEYS.task(task_id), "unique_key", f"{KEYS.lock_prefix}{task_id}")
    redis_of(broker).hset(KEYS.task("odd"), "unique_key", "elsewhere")
    redis_of(broker).set(f"{KEYS.lock_prefix}own", "own")
    redis_of(broker).set(f"{KEYS.lock_prefix}lost", "other")
    redis_of(broker).set("elsewhere", "odd")

    assert expire(broker) == 3
    assert not redis_of(broker).exists(f"{KEYS.lock_prefix}own")
    assert redis_of(broker).get(f"{KEYS.lock_prefix}lost") == b"other"
    assert redis_of(broker).get("elsewhere") == b"odd"


def test_a_task_in_another_state_only_loses_its_leftover_entry(broker: Broker) -> None:
    put(broker, "waiting")
    put(broker, "waiting2")
    redis_of(broker).zadd(KEYS.completed, {"waiting": 1})
    redis_of(broker).zadd(KEYS.archived, {"waiting2": 1})

    expire(broker)

    assert [indexes_of(broker, task_id) for task_id in ("waiting", "waiting2")] == [["pending"], ["pending"]]
    assert redis_of(broker).exists(KEYS.task("waiting"))
    assert redis_of(broker).exists(KEYS.task("waiting2"))


def test_ids_without_a_task_leave_the_archive(broker: Broker) -> None:
    redis_of(broker).zadd(KEYS.archived, {"ghost": broker.now_s() + 10_000})

    expire(broker)

    assert not redis_of(broker).exists(KEYS.archived)
