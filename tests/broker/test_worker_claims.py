"""Whose a worker id is, and when it is free again."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from runqy.accounts.worker_credentials import SILENT_S
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.workers import heartbeats
from runqy.broker.workers.claims import claim_worker_id, delete_stale_claims
from runqy.broker.workers.records import DISCONNECTED_TTL_S, LOST_AFTER_S
from runqy.errors import WorkerIdTaken
from tests.broker.test_heartbeats import RECORD
from tests.support.redis_client import redis_of


def claim(broker: Broker, owner: str, worker_id: str = "w-1") -> None:
    broker.run(claim_worker_id(broker, worker_id, owner=owner, queue="mail", redis_queues=[*RECORD.redis_queues]))


def beat(broker: Broker) -> None:
    broker.run(heartbeats.write_heartbeat(RECORD, now_ns=broker.now_ns()))


def grow_old(broker: Broker, worker_id: str = "w-1", by_s: int = LOST_AFTER_S + 1) -> None:
    """Let a claim be older, by default than a record lives."""
    at_s, owner = redis_of(broker).hget(keys.WORKER_CLAIMS, worker_id).split(b" ", 1)
    redis_of(broker).hset(keys.WORKER_CLAIMS, worker_id, b"%d %s" % (int(at_s) - by_s, owner))


def test_only_its_owner_can_claim_an_id_again(broker: Broker) -> None:
    claim(broker, "key:1")
    beat(broker)
    claim(broker, "key:1")
    grow_old(broker)

    with pytest.raises(WorkerIdTaken, match="w-1 is used by a live worker"):
        claim(broker, "key:2")

    claim(broker, "key:1")
    claim(broker, "key:2", "w-2")


def test_an_id_without_a_heartbeat_is_reserved_for_a_minute(broker: Broker) -> None:
    claim(broker, "key:1")
    with pytest.raises(WorkerIdTaken):
        claim(broker, "key:2")

    grow_old(broker)
    claim(broker, "key:2")


def test_an_id_is_free_once_its_record_has_ended(broker: Broker) -> None:
    claim(broker, "key:1")
    beat(broker)
    grow_old(broker)

    broker.run(heartbeats.deregister(RECORD, now_ns=broker.now_ns()))

    claim(broker, "key:2")


def test_an_id_is_free_once_its_worker_is_lost(broker: Broker) -> None:
    claim(broker, "key:1")
    broker.run(heartbeats.write_heartbeat(RECORD, now_ns=broker.now_ns() - (LOST_AFTER_S + 1) * 10**9))
    grow_old(broker)

    claim(broker, "key:2")

    assert heartbeats.list_worker_records(broker) == []


def test_the_id_of_a_live_go_worker_cannot_be_claimed(broker: Broker) -> None:
    claim(broker, "key:1", "h:7")
    grow_old(broker, "h:7")
    redis_of(broker).hset(keys.go_worker("h:7"), mapping={"worker_id": "h:7", "queues": "map[mail:1]"})

    with pytest.raises(WorkerIdTaken):
        claim(broker, "key:2", "h:7")


def test_an_invalid_claim_has_no_owner(broker: Broker) -> None:
    redis_of(broker).hset(keys.WORKER_CLAIMS, "w-1", b"\xff never")

    claim(broker, "key:1")


def test_one_of_many_concurrent_claims_gets_the_id(broker: Broker) -> None:
    def is_claimed(number: int) -> bool:
        try:
            claim(broker, f"key:{number}")
        except WorkerIdTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(is_claimed, range(8)))

    assert claimed.count(True) == 1
    assert redis_of(broker).hget(keys.WORKER_CLAIMS, "w-1").split()[1] == b"key:%d" % claimed.index(True)


def test_claims_of_workers_that_are_gone_are_deleted(broker: Broker) -> None:
    beat(broker)
    for worker_id in ("w-1", "gone", "silent", "garbled"):
        claim(broker, "key:1", worker_id)
    for worker_id in ("w-1", "gone", "garbled"):
        grow_old(broker, worker_id, DISCONNECTED_TTL_S)
    grow_old(broker, "silent", int(SILENT_S) + LOST_AFTER_S)
    redis_of(broker).set(keys.worker_record("garbled"), "{}")

    broker.run(delete_stale_claims(broker))

    assert sorted(redis_of(broker).hkeys(keys.WORKER_CLAIMS)) == [b"garbled", b"silent", b"w-1"]


def test_many_claims_are_forgotten_in_pieces(broker: Broker) -> None:
    old = {f"worker-{number}": b"1 key:1" for number in range(1500)}
    redis_of(broker).hset(keys.WORKER_CLAIMS, mapping=old)  # type: ignore[arg-type]

    broker.run(delete_stale_claims(broker))

    assert redis_of(broker).hlen(keys.WORKER_CLAIMS) == 0


def test_a_worker_counts_only_for_queues_that_it_registered_for(broker: Broker) -> None:
    broker.run(claim_worker_id(broker, "w-1", owner="key:1", queue="inbox", redis_queues=["mail_low", "other"]))
    beat(broker)

    (record,) = heartbeats.list_worker_records(broker)

    assert (record.queue, record.redis_queues) == ("inbox", {"mail_low": 3})
    assert heartbeats.find_worker_record(broker, "w-1") == (record, False)


def test_a_record_without_a_claim_is_not_limited(broker: Broker) -> None:
    beat(broker)

    (record,) = heartbeats.list_worker_records(broker)

    assert record.redis_queues == RECORD.redis_queues
