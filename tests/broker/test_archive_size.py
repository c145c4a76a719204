"""The archive stays bounded."""

from runqy.broker import constants
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.finish import archive
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, listed, put, take_one

KEYS = QueueKeys(QUEUE)


def fill_archive(broker: Broker, count: int, first_score: int, *, apart_s: int = 1) -> None:
    """Put tasks into the archive."""
    pipeline = redis_of(broker).pipeline(transaction=False)
    for i in range(count):
        pipeline.hset(
            KEYS.task(f"a{i}"), mapping={"msg": b"", "state": "archived", "unique_key": KEYS.lock_prefix + f"{i}"}
        )
        pipeline.zadd(KEYS.archived, {f"a{i}": first_score + i * apart_s})
        pipeline.set(KEYS.lock_prefix + f"{i}", f"a{i}")
    pipeline.execute()


def archive_one(broker: Broker, **options: int) -> None:
    """Archive one more task."""
    put(broker, "new")
    taken = take_one(broker)
    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=broker.now_ns(), **options))


def test_tasks_that_are_too_old_are_deleted_with_their_locks(broker: Broker) -> None:
    fill_archive(broker, 3, broker.now_s() - constants.ARCHIVE_MAX_AGE_S - 1000, apart_s=600)

    archive_one(broker)

    assert listed(broker) == {"archived": ["a2", "new"]}
    assert [redis_of(broker).exists(KEYS.task(f"a{i}")) for i in range(3)] == [0, 0, 1]
    assert [redis_of(broker).exists(KEYS.lock_prefix + f"{i}") for i in range(3)] == [0, 0, 1]


def test_the_oldest_are_dropped_when_there_are_too_many(broker: Broker) -> None:
    fill_archive(broker, 5, broker.now_s() - 100)

    archive_one(broker, max_archived=3)

    assert listed(broker) == {"archived": ["a3", "a4", "new"]}
    assert [redis_of(broker).exists(KEYS.task(f"a{i}")) for i in range(5)] == [0, 0, 0, 1, 1]


def test_no_archiving_drops_more_than_a_bounded_number(single_broker: Broker) -> None:
    fill_archive(single_broker, 500, single_broker.now_s() - 1000)

    archive_one(single_broker, max_archived=10)

    assert redis_of(single_broker).zcard(KEYS.archived) == 401


def test_the_task_that_is_archived_is_never_the_one_dropped(broker: Broker) -> None:
    fill_archive(broker, 4, broker.now_s() + 10**6)  # they are kept for longer

    archive_one(broker, max_archived=2)

    assert "new" in listed(broker)["archived"]
    assert redis_of(broker).hget(KEYS.task("new"), "state") == b"archived"


def test_a_task_that_runs_again_survives_its_old_archive_entry(broker: Broker) -> None:
    fill_archive(broker, 1, broker.now_s() - constants.ARCHIVE_MAX_AGE_S - 1)
    redis_of(broker).hset(KEYS.task("a0"), "state", "pending")

    archive_one(broker)

    assert listed(broker)["archived"] == ["new"]
    assert redis_of(broker).exists(KEYS.task("a0"))
