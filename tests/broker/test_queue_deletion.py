"""Removing a Redis queue: nothing of it is left, and nothing of its neighbours is touched."""

import pytest

from runqy.broker import keys as redis_keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.deletion import delete_indexed_tasks, delete_redis_queue
from runqy.broker.queues.pausing import pause
from runqy.broker.states import TaskState
from runqy.broker.tasks.finish import archive, complete
from runqy.errors import LeaseLost
from tests.support.redis_client import redis_of
from tests.support.tasks import fields, listed, put, take, take_one

KEYS = QueueKeys("mail")


def names(broker: Broker) -> list[str]:
    """Return all keys in Redis."""
    return sorted(key.decode() for key in redis_of(broker).scan_iter(count=1000))


def fill(broker: Broker) -> None:
    """Create a task in every state, and the other keys of queues."""
    put(broker, "done", "dead", "running", retention_s=60)
    done, dead, _ = (take_one(broker) for _ in range(3))
    broker.run(complete(done.lease, done.message, b"1", now_ns=broker.now_ns()))
    broker.run(archive(dead.lease, dead.message, error="boom", now_ns=broker.now_ns()))
    put(broker, "waiting")
    put(broker, "later", process_at_s=broker.now_s() + 3600)
    client = redis_of(broker)
    client.hset(KEYS.task("again"), mapping={"msg": b"", "state": "retry"})
    client.zadd(KEYS.retry, {"again": 1})
    client.hset(KEYS.task("grouped"), mapping={"msg": b"", "state": "aggregating", "group": "g"})
    client.zadd(KEYS.group("g"), {"grouped": 1})
    client.sadd(KEYS.groups, "g")
    client.hset(KEYS.task("nowhere"), mapping={"msg": b"", "state": "pending"})
    client.hset(redis_keys.lookup("nowhere"), "queue", "mail")
    lock = KEYS.lock_prefix + "mail:abc"
    client.hset(KEYS.task("waiting"), "unique_key", lock)
    client.set(lock, "waiting")
    client.set(KEYS.lock_prefix + "mail:of-nobody", "gone")
    client.zadd(KEYS.idle, {"runqy:wake:w": 1})
    broker.run(pause("mail", now_ns=broker.now_ns()))


@pytest.fixture
def neighbours(broker: Broker) -> list[str]:
    """Return the keys of queues whose names are alike."""
    put(broker, "n1", queue="mail_high")
    put(broker, "n2", queue="ma")
    redis_of(broker).set("asynq:t:{mail}:x", "a lookup of an id that looks like a queue's key")
    return names(broker)


def test_nothing_is_left_and_neighbours_stay(broker: Broker, neighbours: list[str]) -> None:
    fill(broker)

    deleted = delete_redis_queue(broker, "mail")

    assert names(broker) == neighbours
    assert redis_of(broker).smembers(redis_keys.QUEUES) == {b"mail_high", b"ma"}
    assert deleted.tasks == dict.fromkeys(TaskState, 1)


def test_keys_that_are_not_text_are_deleted(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(
        KEYS.task("").encode() + b"\xff", mapping={"msg": b"", "state": "aggregating", "group": b"\xfe"}
    )
    redis_of(broker).zadd(KEYS.group("").encode() + b"\xfe", {b"\xff": 1})
    redis_of(broker).sadd(KEYS.groups, b"\xfe")
    redis_of(broker).set(KEYS.output("").encode() + b"\xff", "text")

    delete_redis_queue(broker, "mail")

    assert names(broker) == []


def test_many_tasks_go_in_steps(broker: Broker) -> None:
    put(broker, *[f"t{number}" for number in range(7)])

    gone = broker.run(delete_indexed_tasks(KEYS, KEYS.pending, limit=3))

    assert len(gone) == 3
    left = listed(broker)["pending"]
    assert sorted([*gone, *left]) == [f"t{number}" for number in range(7)]
    assert [bool(fields(broker, task_id)) for task_id in gone] == [False] * 3
    assert delete_redis_queue(broker, "mail").tasks[TaskState.PENDING] == 4


def test_a_lock_that_belongs_to_another_task_stays(broker: Broker) -> None:
    put(broker, "t1")
    lock = KEYS.lock_prefix + "mail:abc"
    redis_of(broker).hset(KEYS.task("t1"), "unique_key", lock)
    redis_of(broker).set(lock, "t2")

    broker.run(delete_indexed_tasks(KEYS, KEYS.pending))

    assert redis_of(broker).get(lock) == b"t2"


def test_a_lookup_that_names_another_queue_by_now_stays(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(redis_keys.lookup("t1"), "queue", "other")

    delete_redis_queue(broker, "mail")

    assert redis_of(broker).hget(redis_keys.lookup("t1"), "queue") == b"other"


def test_a_task_taken_from_a_worker_cannot_be_finished_by_it(broker: Broker) -> None:
    put(broker, "t1")
    (taken,) = take(broker)
    delete_redis_queue(broker, "mail")

    with pytest.raises(LeaseLost):
        broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))
    assert names(broker) == []


def test_a_queue_that_is_not_there_is_removed_too(broker: Broker) -> None:
    assert not any(delete_redis_queue(broker, "mail").tasks.values())


def test_keys_of_another_type_are_removed_too(broker: Broker) -> None:
    for key in (KEYS.pending, KEYS.completed, KEYS.groups, KEYS.task("text")):
        redis_of(broker).set(key, "x")
    lock = KEYS.lock("k")
    redis_of(broker).rpush(lock, "x")
    redis_of(broker).hset(KEYS.task("t1"), mapping={"state": "archived", "unique_key": lock})
    redis_of(broker).zadd(KEYS.archived, {"t1": 1, "text": 2})

    delete_redis_queue(broker, "mail")

    assert names(broker) == []
