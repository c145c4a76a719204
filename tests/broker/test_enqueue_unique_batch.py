"""Enqueuing batches under locks or an idempotency key."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.enqueue import IDEMPOTENCY_TTL_S, IdempotencyKey, LockConflict, TaskCreated
from runqy.broker.tasks.enqueue_batch import (
    BatchPart,
    EnqueuedPart,
    RequestToken,
    delete_idempotency_record,
    enqueue_unique_batch,
    find_enqueued_part,
)
from runqy.broker.tasks.finish import archive, complete
from runqy.errors import IdempotencyKeyReused, TaskAlreadyExists
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, listed, message, new_task, put, take, take_one

KEYS = QueueKeys(QUEUE)
LOCK = KEYS.lock("invoice 7")
NOW_NS = 1_700_000_000_500_000_000
NOW_S = NOW_NS // 1_000_000_000
ONCE = IdempotencyKey(scope="s", fingerprint="f")
RECORD = KEYS.created("s")


def make(
    broker: Broker,
    *tasks: Any,
    by: str = "m1",
    idempotency_key: IdempotencyKey | None = None,
    now_ns: int = NOW_NS,
    **part: Any,
) -> EnqueuedPart:
    """Create tasks as one part."""
    whole = BatchPart(queue=QUEUE, tasks=tasks, **part)
    return broker.run(
        enqueue_unique_batch(whole, RequestToken(by, now_ns), idempotency_key, is_cluster=broker.is_cluster)
    )


def locked(task_id: str, **options: Any) -> Any:
    """Return a task with the lock."""
    return new_task(task_id, unique_key="invoice 7", **options)


def test_tasks_are_stored_as_by_other_verbs(broker: Broker) -> None:
    enqueued = make(broker, new_task("t1"), new_task("t2", process_at_s=NOW_S + 60), new_task("t3"))

    assert enqueued.outcomes == [TaskCreated.NOW] * 3
    assert listed(broker) == {"pending": ["t1", "t3"], "scheduled": ["t2"]}
    stamp = str(NOW_NS).encode()
    limits = {"ttl_archived": b"259200", "ttl_completed": b"86400", "active_timeout": b"1800"}
    common = {"enqueued": stamp} | limits
    assert fields(broker, "t1") == {"state": b"pending", "pending_since": stamp, **common}
    assert fields(broker, "t2") == {"state": b"scheduled", **common}
    assert redis_of(broker).zscore(KEYS.scheduled, "t2") == NOW_S + 60
    assert redis_of(broker).hget(keys.lookup("t3"), "queue") == QUEUE.encode()
    assert redis_of(broker).smembers(keys.QUEUES) == {QUEUE.encode()}
    assert not redis_of(broker).exists(RECORD)


def test_an_existing_id_takes_no_lock(broker: Broker) -> None:
    put(broker, "t1")

    enqueued = make(broker, locked("t1"), new_task("t2"), new_task("t2"))

    assert [isinstance(outcome, TaskAlreadyExists) for outcome in enqueued.outcomes] == [True, False, True]
    assert not redis_of(broker).exists(LOCK)


def test_a_lock_is_asynqs_and_names_its_task(broker: Broker) -> None:
    make(broker, locked("t1", unique_for_s=60))

    assert LOCK.startswith(f"asynq:{{{QUEUE}}}:unique:{QUEUE}:")
    assert redis_of(broker).get(LOCK) == b"t1"
    assert 0 < redis_of(broker).ttl(LOCK) <= 60
    assert fields(broker, "t1")["unique_key"] == LOCK.encode()
    assert message(broker, "t1").unique_key == LOCK


def test_a_lock_covers_the_time_before_the_task_is_due(broker: Broker) -> None:
    make(broker, locked("t1", unique_for_s=60, process_at_s=NOW_S + 1000))

    assert 1000 < redis_of(broker).ttl(LOCK) <= 1060


def test_a_lock_until_the_end_does_not_expire(broker: Broker) -> None:
    make(broker, locked("t1"))

    assert redis_of(broker).ttl(LOCK) == -1


@pytest.mark.parametrize("process_at_s", [None, NOW_S + 60])
def test_a_lock_conflict_names_the_task_with_the_lock(broker: Broker, process_at_s: int | None) -> None:
    make(broker, locked("t1"))

    enqueued = make(broker, locked("t2", process_at_s=process_at_s), new_task("t3"), now_ns=NOW_NS + 1)

    assert enqueued.outcomes == [LockConflict("t1"), TaskCreated.NOW]
    assert listed(broker) == {"pending": ["t1", "t3"]}
    assert not redis_of(broker).exists(KEYS.task("t2"))


def test_of_two_in_one_call_the_first_has_the_lock(broker: Broker) -> None:
    enqueued = make(broker, locked("t1"), locked("t2"))

    assert enqueued.outcomes == [TaskCreated.NOW, LockConflict("t1")]


@pytest.mark.parametrize("lock_s", [0, 60])
def test_a_lock_whose_task_is_over_or_gone_is_taken_over(broker: Broker, lock_s: int) -> None:
    redis_of(broker).set(LOCK, "gone")
    make(broker, locked("t1"))
    redis_of(broker).hset(KEYS.task("t1"), "state", "archived")  # like asynq's tools, which keep the lock

    enqueued = make(broker, locked("t2", unique_for_s=lock_s), now_ns=NOW_NS + 1)

    assert enqueued.outcomes == [TaskCreated.NOW]
    assert redis_of(broker).get(LOCK) == b"t2"
    assert (redis_of(broker).ttl(LOCK) > 0) == bool(lock_s)


@pytest.mark.parametrize("end", ["complete", "archive"])
def test_a_lock_is_free_after_every_end(broker: Broker, end: str) -> None:
    make(broker, locked("t1"))
    taken = take_one(broker)

    if end == "complete":
        broker.run(complete(taken.lease, taken.message, b"1", now_ns=NOW_NS))
    else:
        broker.run(archive(taken.lease, taken.message, error="boom", now_ns=NOW_NS))

    assert not redis_of(broker).exists(LOCK)


def test_a_request_that_is_run_again_creates_its_tasks_once(broker: Broker) -> None:
    part = BatchPart(queue=QUEUE, tasks=[locked("t1"), new_task("t2")])
    request = enqueue_unique_batch(part, RequestToken("m1", NOW_NS), is_cluster=broker.is_cluster)

    outcomes = [broker.run(request).outcomes, broker.run(request).outcomes]

    assert outcomes == [[TaskCreated.NOW] * 2] * 2
    assert listed(broker) == {"pending": ["t1", "t2"]}


def test_a_request_that_is_run_again_after_its_tasks_were_completed_and_deleted_creates_none(broker: Broker) -> None:
    part = BatchPart(queue=QUEUE, tasks=[locked("t1", retention_s=0), new_task("t2", retention_s=0), new_task("t3")])
    request = enqueue_unique_batch(part, RequestToken("m1", NOW_NS), is_cluster=broker.is_cluster)
    broker.run(request)
    for taken in take(broker, 2):
        broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    outcomes = broker.run(request).outcomes

    assert outcomes == [TaskCreated.NOW] * 3
    assert listed(broker) == {"pending": ["t3"]}
    assert not redis_of(broker).exists(LOCK)


def test_a_record_holds_its_request_and_outcomes(broker: Broker) -> None:
    make(broker, new_task("t1"), idempotency_key=ONCE, response=b"n")

    assert redis_of(broker).hgetall(RECORD) == {
        b"fingerprint": b"f",
        b"request_token": b"m1",
        b"now_ns": str(NOW_NS).encode(),
        b"response:0": b"n",
        b"outcomes:0": b"[1]",
    }
    assert IDEMPOTENCY_TTL_S - 60 < redis_of(broker).ttl(RECORD) <= IDEMPOTENCY_TTL_S
    assert broker.run(find_enqueued_part(QUEUE, ONCE)) == EnqueuedPart(
        request_token=RequestToken("m1", NOW_NS), response=b"n", outcomes=[TaskCreated.NOW]
    )


def test_another_request_gets_the_response_of_the_first(broker: Broker) -> None:
    make(broker, new_task("t1"), idempotency_key=ONCE, response=b"first")

    enqueued = make(broker, new_task("t2"), by="m2", idempotency_key=ONCE, response=b"second", now_ns=NOW_NS + 1)

    assert enqueued == EnqueuedPart(
        request_token=RequestToken("m1", NOW_NS), response=b"first", outcomes=[TaskCreated.NOW]
    )
    assert listed(broker) == {"pending": ["t1"]}


def test_the_same_request_gets_its_own_response_even_when_the_task_is_gone(broker: Broker) -> None:
    make(broker, new_task("t1", retention_s=0), idempotency_key=ONCE, response=b"n")
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))

    enqueued = make(broker, new_task("t1"), idempotency_key=ONCE, response=b"n")

    assert (enqueued.request_token.token, enqueued.outcomes) == ("m1", [TaskCreated.NOW])
    assert listed(broker) == {}


def test_a_part_that_the_first_request_has_not_stored_is_left_to_it(broker: Broker) -> None:
    make(broker, new_task("t1"), idempotency_key=ONCE, response=b"n", number=0)

    other = make(broker, new_task("t2"), by="m2", idempotency_key=ONCE, response=b"n", number=1)
    same = make(broker, new_task("t3"), idempotency_key=ONCE, response=b"n", number=1)

    assert (other.request_token.token, other.response, other.outcomes) == ("m1", b"", [])
    assert same.outcomes == [TaskCreated.NOW]
    assert listed(broker) == {"pending": ["t1", "t3"]}


def test_another_request_under_the_same_key_is_refused(broker: Broker) -> None:
    make(broker, new_task("t1"), idempotency_key=ONCE)
    other = IdempotencyKey(scope="s", fingerprint="g")

    with pytest.raises(IdempotencyKeyReused):
        make(broker, new_task("t2"), by="m2", idempotency_key=other)
    with pytest.raises(IdempotencyKeyReused):
        broker.run(find_enqueued_part(QUEUE, other))
    assert listed(broker) == {"pending": ["t1"]}


def test_a_refusal_is_recorded_too(broker: Broker) -> None:
    make(broker, locked("t1"))

    make(broker, locked("t2"), by="m2", idempotency_key=ONCE, now_ns=NOW_NS + 1)

    expected = EnqueuedPart(request_token=RequestToken("m2", NOW_NS + 1), response=b"", outcomes=[LockConflict("t1")])
    assert broker.run(find_enqueued_part(QUEUE, ONCE)) == expected
    assert redis_of(broker).get(LOCK) == b"t1"


def test_the_record_of_a_request_without_a_stored_task_can_be_deleted(broker: Broker) -> None:
    make(broker, locked("t1"))
    make(broker, locked("t2"), by="m2", idempotency_key=ONCE)

    assert not broker.run(delete_idempotency_record(QUEUE, ONCE, RequestToken("m3", NOW_NS)))
    assert redis_of(broker).exists(RECORD)
    assert broker.run(delete_idempotency_record(QUEUE, ONCE, RequestToken("m2", NOW_NS)))
    assert not redis_of(broker).exists(RECORD)


def test_the_record_of_a_request_with_a_stored_task_is_kept(broker: Broker) -> None:
    make(broker, locked("t1"))
    make(broker, locked("t2"), by="m2", idempotency_key=ONCE, number=0)
    make(broker, new_task("t3"), by="m2", idempotency_key=ONCE, number=1)  # its reply may have been lost

    assert not broker.run(delete_idempotency_record(QUEUE, ONCE, RequestToken("m2", NOW_NS)))
    redis_of(broker).hset(RECORD, "outcomes:1", "not JSON")
    assert not broker.run(delete_idempotency_record(QUEUE, ONCE, RequestToken("m2", NOW_NS)))
    assert redis_of(broker).exists(RECORD)


def test_fifty_at_once_make_one_task(single_broker: Broker) -> None:
    def one(number: int) -> EnqueuedPart:
        part = BatchPart(queue=QUEUE, tasks=[new_task(f"t{number}")], response=b"n")
        return single_broker.run(enqueue_unique_batch(part, RequestToken(f"t{number}", NOW_NS + number), ONCE))

    with ThreadPoolExecutor(16) as pool:
        creations = list(pool.map(one, range(50)))

    tokens = {enqueued.request_token.token for enqueued in creations if isinstance(enqueued, EnqueuedPart)}
    assert len(creations) == 50
    assert listed(single_broker) == {"pending": [*tokens]}


def test_a_part_without_tasks_stores_its_response(broker: Broker) -> None:
    enqueued = make(broker, idempotency_key=ONCE, response=b"all wrong")

    assert enqueued.outcomes == []
    assert broker.run(find_enqueued_part(QUEUE, ONCE)) == EnqueuedPart(
        request_token=RequestToken("m1", NOW_NS), response=b"all wrong", outcomes=[]
    )
