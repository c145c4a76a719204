"""Enqueuing a single task under a lock or an idempotency key."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.enqueue import (
    IDEMPOTENCY_TTL_S,
    EnqueuedTooLate,
    IdempotencyKey,
    IdempotencyRecord,
    LockConflict,
    Replayed,
    TaskCreated,
    UniqueOutcome,
    enqueue_unique,
    find_replayed,
)
from runqy.broker.tasks.enqueue_batch import BatchPart, RequestToken, enqueue_unique_batch
from runqy.broker.tasks.finish import complete
from runqy.errors import IdempotencyKeyReused, TaskAlreadyExists
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, listed, message, new_task, put, take_one

KEYS = QueueKeys(QUEUE)
LOCK = KEYS.lock("invoice 7")
NOW_NS = 1_700_000_000_500_000_000
NOW_S = NOW_NS // 1_000_000_000
ONCE = IdempotencyKey(scope="s", fingerprint="f")
RECORD = KEYS.created("s")


def make(
    broker: Broker,
    task: Any,
    response: bytes = b"",
    now_ns: int = NOW_NS,
    *,
    until_s: int | None = None,
    **record: Any,
) -> UniqueOutcome:
    """Create a task; with a response also a record."""
    idempotency_key = record.pop("idempotency_key", ONCE)
    kept = IdempotencyRecord(idempotency_key, response, **record) if response else None
    request = enqueue_unique(task, now_ns=now_ns, record=kept, until_s=until_s, is_cluster=broker.is_cluster)
    return broker.run(request)


def locked(task_id: str, **options: Any) -> Any:
    """Return a task with the lock."""
    return new_task(task_id, unique_key="invoice 7", **options)


def test_a_task_is_stored_as_by_other_verbs(broker: Broker) -> None:
    assert make(broker, new_task("t1")) is TaskCreated.NOW
    assert make(broker, new_task("t2", process_at_s=NOW_S + 60)) is TaskCreated.NOW

    assert listed(broker) == {"pending": ["t1"], "scheduled": ["t2"]}
    stamp = str(NOW_NS).encode()
    limits = {"ttl_archived": b"259200", "ttl_completed": b"86400", "active_timeout": b"1800"}
    common = {"enqueued": stamp} | limits
    assert fields(broker, "t1") == {"state": b"pending", "pending_since": stamp, **common}
    assert fields(broker, "t2") == {"state": b"scheduled", **common}
    assert redis_of(broker).zscore(KEYS.scheduled, "t2") == NOW_S + 60
    assert redis_of(broker).hget(keys.lookup("t2"), "queue") == QUEUE.encode()
    assert redis_of(broker).smembers(keys.QUEUES) == {QUEUE.encode()}
    assert not redis_of(broker).exists(RECORD)


def test_an_existing_id_takes_no_lock(broker: Broker) -> None:
    put(broker, "t1")

    with pytest.raises(TaskAlreadyExists):
        make(broker, locked("t1"))
    assert not redis_of(broker).exists(LOCK)


def test_a_lock_is_asynqs_and_names_its_task(broker: Broker) -> None:
    make(broker, locked("t1", unique_for_s=60, process_at_s=NOW_S + 1000))

    assert redis_of(broker).get(LOCK) == b"t1"
    assert 1000 < redis_of(broker).ttl(LOCK) <= 1060
    assert fields(broker, "t1")["unique_key"] == LOCK.encode()
    assert message(broker, "t1").unique_key == LOCK


def test_a_lock_conflict_names_the_task_with_the_lock(broker: Broker) -> None:
    make(broker, locked("t1"))

    assert make(broker, locked("t2"), now_ns=NOW_NS + 1) == LockConflict("t1")
    assert listed(broker) == {"pending": ["t1"]}
    assert not redis_of(broker).exists(KEYS.task("t2"))
    assert redis_of(broker).ttl(LOCK) == -1


@pytest.mark.parametrize("lock_s", [0, 60])
def test_a_lock_whose_task_is_over_or_gone_is_taken_over(broker: Broker, lock_s: int) -> None:
    redis_of(broker).set(LOCK, "gone")
    make(broker, locked("t1"))
    redis_of(broker).hset(KEYS.task("t1"), "state", "archived")  # like asynq's tools, which keep the lock

    assert make(broker, locked("t2", unique_for_s=lock_s), now_ns=NOW_NS + 1) is TaskCreated.NOW
    assert redis_of(broker).get(LOCK) == b"t2"
    assert (redis_of(broker).ttl(LOCK) > 0) == bool(lock_s)


def test_a_task_wakes_an_idle_worker(broker: Broker) -> None:
    redis_of(broker).zadd(KEYS.idle, {"channel": NOW_NS // 1_000_000 + 1000})

    make(broker, new_task("t1"))

    assert not redis_of(broker).exists(KEYS.idle)


@pytest.mark.parametrize("response", [b"", b"n"])
def test_a_request_that_is_run_again_creates_its_task_once(broker: Broker, response: bytes) -> None:
    outcomes = [make(broker, locked("t1"), response), make(broker, locked("t1"), response)]

    assert outcomes == [TaskCreated.NOW] * 2
    assert listed(broker) == {"pending": ["t1"]}


@pytest.mark.parametrize("response", [b"", b"n"])
def test_a_request_that_is_run_again_after_its_task_was_completed_and_deleted_creates_none(
    broker: Broker, response: bytes
) -> None:
    make(broker, locked("t1", retention_s=0), response)
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    outcome = make(broker, locked("t1", retention_s=0), response)

    assert outcome is TaskCreated.NOW
    assert listed(broker) == {}
    assert not redis_of(broker).exists(LOCK)


def test_a_record_keeps_the_note_for_a_day(broker: Broker) -> None:
    make(broker, new_task("t1"), b"n")

    assert redis_of(broker).hgetall(RECORD) == {b"fingerprint": b"f", b"response": b"n"}
    assert IDEMPOTENCY_TTL_S - 60 < redis_of(broker).ttl(RECORD) <= IDEMPOTENCY_TTL_S
    assert broker.run(find_replayed(QUEUE, ONCE)) == Replayed(b"n", "")


def test_a_repetition_gets_the_firsts_note(broker: Broker) -> None:
    make(broker, new_task("t1"), b"first")

    assert make(broker, new_task("t2"), b"second", now_ns=NOW_NS + 1) == Replayed(b"first", "")
    assert listed(broker) == {"pending": ["t1"]}


def test_a_repetition_reports_the_task_as_created_even_when_it_is_gone(broker: Broker) -> None:
    make(broker, new_task("t1", retention_s=0), b"n")
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))

    assert make(broker, new_task("t1"), b"n") is TaskCreated.NOW
    assert listed(broker) == {}


def test_another_request_under_the_same_key_is_refused(broker: Broker) -> None:
    make(broker, new_task("t1"), b"n")
    other = IdempotencyKey(scope="s", fingerprint="g")

    with pytest.raises(IdempotencyKeyReused):
        make(broker, new_task("t2"), b"m", idempotency_key=other)
    with pytest.raises(IdempotencyKeyReused):
        broker.run(find_replayed(QUEUE, other))
    assert listed(broker) == {"pending": ["t1"]}


def test_a_batch_and_a_task_under_the_same_key_are_different_requests(broker: Broker) -> None:
    part, batch = BatchPart(queue=QUEUE, tasks=[new_task("t2")]), IdempotencyKey(scope="s", fingerprint="of a batch")
    make(broker, new_task("t1"), b"n")

    with pytest.raises(IdempotencyKeyReused):
        broker.run(enqueue_unique_batch(part, RequestToken("m2", NOW_NS), batch, is_cluster=broker.is_cluster))
    redis_of(broker).delete(RECORD)
    broker.run(enqueue_unique_batch(part, RequestToken("m2", NOW_NS), batch, is_cluster=broker.is_cluster))
    with pytest.raises(IdempotencyKeyReused):
        make(broker, new_task("t3"), b"n")


@pytest.mark.parametrize("keeps_conflict", [True, False])
def test_a_conflict_is_recorded_only_if_wanted(broker: Broker, keeps_conflict: bool) -> None:
    make(broker, locked("t1"))
    again = {"response": b"n", "now_ns": NOW_NS + 1, "keeps_conflict": keeps_conflict}

    outcomes = [make(broker, locked("t2"), **again), make(broker, locked("t2"), **again)]  # type: ignore[arg-type]

    assert outcomes == [LockConflict("t1")] * 2
    assert broker.run(find_replayed(QUEUE, ONCE)) == (Replayed(b"n", "t1") if keeps_conflict else None)
    assert redis_of(broker).get(LOCK) == b"t1"


@pytest.mark.parametrize("is_late", [True, False])
def test_a_task_that_reaches_redis_too_late_is_not_stored(broker: Broker, is_late: bool) -> None:
    broker.measure_clock()
    until_s = broker.now_s() + (-60 if is_late else 600)  # by Redis's own clock: a process may have been stopped

    outcome = make(broker, locked("t1"), b"response", until_s=until_s)

    assert outcome is (EnqueuedTooLate.BY_REDIS if is_late else TaskCreated.NOW)
    assert listed(broker) == ({} if is_late else {"pending": ["t1"]})
    assert bool(redis_of(broker).exists(LOCK)) is not is_late
    assert bool(redis_of(broker).exists(RECORD)) is not is_late


def test_fifty_at_once_make_one_task(single_broker: Broker) -> None:
    def one(number: int) -> UniqueOutcome:
        record = IdempotencyRecord(ONCE, b"response of t%d" % number)
        return single_broker.run(enqueue_unique(new_task(f"t{number}"), now_ns=NOW_NS + number, record=record))

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(one, range(50)))

    (first,) = listed(single_broker)["pending"]
    assert outcomes.count(TaskCreated.NOW) == 1
    assert outcomes.count(Replayed(f"response of {first}".encode(), "")) == 49
