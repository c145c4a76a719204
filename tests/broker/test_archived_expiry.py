"""The score of an archived task: its expiry, because Go's workers delete what has a score in the past."""

from runqy.broker.asynq_pb2 import TaskMessage
from runqy.broker.broker import Broker
from runqy.broker.constants import ARCHIVE_MAX_AGE_S
from runqy.broker.duties.janitor import ArchiveCursors, delete_expired
from runqy.broker.duties.recoverer import LeaselessWatch, recover_lost
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.finish import archive
from runqy.broker.tasks.inspector import run_tasks
from runqy.broker.tasks.reader import find_task
from runqy.broker.tasks.record import TaskRecord
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, put, take_one

KEYS = QueueKeys(QUEUE)


def put_archived(broker: Broker, task_id: str = "t1", **options: int) -> None:
    put(broker, task_id, **options)
    taken = take_one(broker)
    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=broker.now_ns()))


def archive_as_asynq(broker: Broker, task_id: str, at_s: int) -> None:
    """Archive a task as asynq's servers and its inspector do."""
    redis_of(broker).hset(KEYS.task(task_id), "state", "archived")
    redis_of(broker).zadd(KEYS.archived, {task_id: at_s})


def expire(broker: Broker, default_ttl_s: int = 259_200) -> int:
    return broker.run(delete_expired(broker, {QUEUE: default_ttl_s}, ArchiveCursors()))


def read(broker: Broker, task_id: str = "t1") -> TaskRecord:
    return broker.run(find_task(broker, task_id, [QUEUE]))


def test_a_go_worker_finds_nothing_to_delete_among_archived_tasks(broker: Broker) -> None:
    before_s = broker.now_s()
    put_archived(broker, ttl_archived_s=3600)

    assert redis_of(broker).zrange(KEYS.archived, "-inf", before_s + 3599, byscore=True) == []
    assert redis_of(broker).zrange(KEYS.archived, "-inf", broker.now_s() + 3600, byscore=True) == [b"t1"]


def test_a_lost_task_without_retries_left_is_archived_until_it_expires(broker: Broker) -> None:
    put(broker, "t1", max_retry=0, ttl_archived_s=3600)
    taken = take_one(broker)
    redis_of(broker).zadd(KEYS.lease, {taken.lease.task_id: 1})

    broker.run(recover_lost(broker, [QUEUE], LeaselessWatch()))

    assert redis_of(broker).zscore(KEYS.archived, "t1") == int(fields(broker, "t1")["archived_at"]) + 3600


def test_the_record_has_both_times(broker: Broker) -> None:
    before_s = broker.now_s()
    put_archived(broker, ttl_archived_s=3600)

    record = read(broker)

    assert record.archived_at_s is not None
    assert before_s <= record.archived_at_s <= broker.now_s()
    assert record.expires_at_s == record.archived_at_s + 3600 == record.score_s


def test_no_task_is_kept_longer_than_asynq_would(broker: Broker) -> None:
    put_archived(broker, ttl_archived_s=10**9)

    archived_s = int(fields(broker, "t1")["archived_at"])
    assert redis_of(broker).zscore(KEYS.archived, "t1") == archived_s + ARCHIVE_MAX_AGE_S
    assert read(broker).archived_at_s == archived_s


def test_a_task_of_another_producer_is_kept_for_its_queues_time_to_live(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hdel(KEYS.task("t1"), "ttl_archived")
    taken = take_one(broker)
    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=broker.now_ns() - 101 * 10**9))

    assert expire(broker, default_ttl_s=100) == 1
    assert not redis_of(broker).exists(KEYS.task("t1"))


def test_a_task_that_asynq_archived_is_kept_from_then_on(broker: Broker) -> None:
    put_archived(broker, "t1", ttl_archived_s=3600)
    at_s = broker.now_s() - 3000
    archive_as_asynq(broker, "t1", at_s)  # it had run again meanwhile; the field of its earlier end is left

    assert expire(broker) == 0
    assert (read(broker).archived_at_s, read(broker).expires_at_s) == (at_s, at_s + 3600)
    archive_as_asynq(broker, "t1", at_s - 601)
    assert expire(broker) == 1


def test_a_task_that_an_earlier_release_archived_is_kept_from_then_on(broker: Broker) -> None:
    at_s = broker.now_s() - 1000
    for task_id, ttl_s in (("short", 999), ("long", 1100)):
        message = TaskMessage(id=task_id, queue=QUEUE, type=QUEUE).SerializeToString()
        redis_of(broker).hset(KEYS.task(task_id), mapping={"msg": message, "ttl_archived": ttl_s})
        archive_as_asynq(broker, task_id, at_s)

    assert expire(broker) == 1
    assert read(broker, "long").archived_at_s == at_s


def test_a_task_that_runs_again_is_no_longer_archived(broker: Broker) -> None:
    put_archived(broker)

    broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))

    assert "archived_at" not in fields(broker, "t1")
