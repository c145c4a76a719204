"""What tasks stream: the chunks of their last run, each once and in order, and how clients notice them."""

import msgspec
import pytest
import redis as redis_py

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys, ended_channel
from runqy.broker.pubsub import TaskEndSubscriber
from runqy.broker.tasks.chunks import (
    GAP,
    MAX_CHUNKS,
    ChunkBatch,
    TaskChunks,
    count_dropped,
    mark_gap,
    read_chunks,
    write_chunks,
)
from runqy.broker.tasks.finish import complete, requeue
from runqy.broker.tasks.inspector import run_tasks
from runqy.broker.tasks.lease import Lease, LeasedTask
from runqy.broker.tasks.output import KEPT_S
from runqy.broker.tasks.reader import read_statuses
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerFull
from tests.support import environment, event_loop
from tests.support.full_redis import full_redis
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fail, put, take_one

KEYS = QueueKeys(QUEUE)


def batch_of(taken: LeasedTask, *entries: bytes, offset: int = 0, retention_s: int = 0) -> ChunkBatch:
    return ChunkBatch(
        lease=taken.lease, run_number=taken.run_number, offset=offset, entries=entries, retention_s=retention_s
    )


def stream(broker: Broker, taken: LeasedTask, *entries: bytes, offset: int = 0, retention_s: int = 0) -> int | None:
    """Write what a run streamed; returns how many chunks are stored, None if the lease was lost."""
    return broker.run(write_chunks([batch_of(taken, *entries, offset=offset, retention_s=retention_s)]))[0]


def chunks_of(broker: Broker, *, run: int = 0, offset: int = 0) -> TaskChunks:
    return broker.run(read_chunks(QUEUE, "t1", run=run, offset=offset))


def position_of(broker: Broker) -> tuple[int, int]:
    (status,) = broker.run(read_statuses([(QUEUE, "t1")]))
    assert status is not None
    return status.chunks


@pytest.fixture
def taken(broker: Broker) -> LeasedTask:
    """Return a task that runs."""
    put(broker, "t1", retention_s=3600)
    return take_one(broker)


def test_chunks_are_read_from_any_position(broker: Broker, taken: LeasedTask) -> None:
    stream(broker, taken, b'"a"', b'"b"')
    stream(broker, taken, b'{"c":1}', offset=2)

    assert chunks_of(broker) == TaskChunks(run=1, entries=(b'"a"', b'"b"', b'{"c":1}'), end=3)
    assert chunks_of(broker, run=1, offset=2) == TaskChunks(run=1, offset=2, entries=(b'{"c":1}',), end=3)
    assert chunks_of(broker, run=1, offset=9) == TaskChunks(run=1, offset=9, end=3)
    assert chunks_of(broker, run=7, offset=2).offset == 0
    assert position_of(broker) == (1, 3)


def test_chunks_that_are_written_again_after_a_lost_reply_are_kept_once(broker: Broker, taken: LeasedTask) -> None:
    stream(broker, taken, b"1", b"2")
    stream(broker, taken, b"1", b"2", b"3")
    stream(broker, taken, b"2", offset=1)

    assert chunks_of(broker).entries == (b"1", b"2", b"3")


def test_chunks_after_missing_ones_are_not_written(broker: Broker, taken: LeasedTask) -> None:
    stream(broker, taken, b"1", b"2", b"3")
    redis_of(broker).rpop(KEYS.chunks("t1"))  # as a failover may lose the last write

    assert stream(broker, taken, b"4", offset=3) == 2
    assert stream(broker, taken, b"3", b"4", offset=2) == 4

    assert chunks_of(broker).entries == (b"1", b"2", b"3", b"4")


def test_a_long_stream_is_read_in_parts(broker: Broker, taken: LeasedTask) -> None:
    entries = [b'"%d%s"' % (number, b"x" * 400) for number in range(MAX_CHUNKS)]
    stream(broker, taken, *entries)

    found: list[bytes] = []
    while len(found) < MAX_CHUNKS:
        part = chunks_of(broker, run=1, offset=len(found))
        assert 0 < sum(map(len, part.entries)) <= 1 << 20
        found += part.entries

    assert found == entries


def test_a_new_run_replaces_the_chunks(broker: Broker, taken: LeasedTask) -> None:
    stream(broker, taken, b"1", b"2")
    fail(broker, taken)
    between = chunks_of(broker).entries
    again = take_one(broker)
    begun = chunks_of(broker, run=1, offset=2)
    is_left = redis_of(broker).exists(KEYS.chunks("t1"))
    stream(broker, again, b"3")

    assert between == (b"1", b"2")
    assert begun == TaskChunks(run=2)
    assert not is_left
    assert chunks_of(broker, run=1, offset=1) == TaskChunks(run=2, entries=(b"3",), end=1)
    assert stream(broker, taken, b"late", offset=2) is None


def test_every_dequeue_raises_the_number_of_the_run(broker: Broker, taken: LeasedTask) -> None:
    fail(broker, taken)
    second = take_one(broker)
    broker.run(requeue(second.lease, now_ns=broker.now_ns()))
    third = take_one(broker)
    broker.run(complete(third.lease, third.message, b"1", now_ns=broker.now_ns()))
    broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))
    fourth = take_one(broker)

    assert [(run.attempt, run.run_number) for run in (taken, second, third, fourth)] == [(1, 1), (2, 2), (2, 3), (1, 4)]
    assert position_of(broker) == (4, 0)


def test_a_run_that_begins_again_raises_its_number(broker: Broker, taken: LeasedTask) -> None:
    stream(broker, taken, b"1", b"2")
    again = msgspec.structs.replace(taken, run_number=2)
    begun = stream(broker, again)
    empty = chunks_of(broker, run=1, offset=2)
    stream(broker, again, b"3")
    is_late = stream(broker, taken, b"late", offset=2) is None
    broker.run(requeue(taken.lease, now_ns=broker.now_ns()))

    assert (begun, empty, is_late) == (0, TaskChunks(run=2), True)
    assert chunks_of(broker) == TaskChunks(run=2, entries=(b"3",), end=1)
    assert take_one(broker).run_number == 3


def test_only_the_run_with_the_lease_may_write(broker: Broker, taken: LeasedTask) -> None:
    foreign = LeasedTask(lease=Lease(QUEUE, "t1", "foreign"), message=taken.message, lease_end_s=0, run_number=1)

    assert stream(broker, foreign, b"1") is None
    assert not broker.run(mark_gap(batch_of(foreign, b"1")))

    assert not redis_of(broker).exists(KEYS.chunks("t1"))
    assert chunks_of(broker) == TaskChunks(run=1)


def test_chunks_expire_after_their_task(broker: Broker, taken: LeasedTask) -> None:
    kept_s = 100 * 24 * 3600
    stream(broker, taken, b"1", retention_s=kept_s)

    assert KEPT_S + kept_s - 60 < redis_of(broker).ttl(KEYS.chunks("t1")) <= KEPT_S + kept_s


def test_a_task_with_the_id_of_a_deleted_one_shows_only_its_own_chunks(broker: Broker, taken: LeasedTask) -> None:
    stream(broker, taken, b'"old"')
    redis_of(broker).delete(KEYS.task("t1"))  # as another program does, which knows no chunks

    put(broker, "t1")
    before = chunks_of(broker)
    stream(broker, take_one(broker), b'"new"')

    assert before == TaskChunks()
    assert chunks_of(broker).entries == (b'"new"',)


def test_chunks_of_another_type_are_replaced(broker: Broker, taken: LeasedTask) -> None:
    stream(broker, taken, b"1")
    redis_of(broker).delete(KEYS.chunks("t1"))
    redis_of(broker).set(KEYS.chunks("t1"), "a worker's")

    unreadable = chunks_of(broker)
    stored = stream(broker, taken, b"2", offset=1)
    stream(broker, taken, b"1", b"2")

    assert (unreadable, stored) == (TaskChunks(), 0)
    assert chunks_of(broker).entries == (b"1", b"2")


@pytest.mark.parametrize(("entry", "number"), [(GAP, 1), (b"!3", 3), (b"!", 1), (b"!0", 1), (b'"!3"', 0), (b"", 0)])
def test_an_entry_stands_for_the_chunks_that_were_dropped(entry: bytes, number: int) -> None:
    assert count_dropped(entry) == number


def test_a_full_redis_takes_no_chunks_and_records_the_gap(single_broker: Broker) -> None:
    put(single_broker, "t1", retention_s=60)
    taken = take_one(single_broker)
    stream(single_broker, taken, b"1")
    last = batch_of(taken, b"2", b"3", offset=1)

    with full_redis(redis_of(single_broker)):
        completion = complete(taken.lease, taken.message, b"1", now_ns=single_broker.now_ns())
        written, *_ = single_broker.run_all([write_chunks([last]), mark_gap(last), completion])

    assert isinstance(written, BrokerFull)
    assert chunks_of(single_broker) == TaskChunks(run=1, entries=(b"1", GAP, GAP), end=3)
    assert chunks_of(single_broker, run=1, offset=2).entries == (GAP,)


def test_a_run_that_began_again_in_a_full_redis_shows_no_chunks_of_the_first(single_broker: Broker) -> None:
    put(single_broker, "t1", retention_s=60)
    taken = take_one(single_broker)
    stream(single_broker, taken, b"1", b"2")
    last = msgspec.structs.replace(batch_of(taken, b"3", b"4"), run_number=taken.run_number + 1)

    with full_redis(redis_of(single_broker)):
        completion = complete(taken.lease, taken.message, b"1", now_ns=single_broker.now_ns())
        written, *_ = single_broker.run_all([write_chunks([last]), mark_gap(last), completion])

    assert isinstance(written, BrokerFull)
    assert chunks_of(single_broker, run=1, offset=2) == TaskChunks(run=2, entries=(GAP, GAP), end=2)


def test_clients_are_notified_of_chunks_and_of_a_new_run(single_broker: Broker, redis: redis_py.Redis) -> None:
    put(single_broker, "t1", retention_s=60)
    first = take_one(single_broker)
    target = RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))

    async def main() -> list[str]:
        seen: list[str] = []
        subscriber = TaskEndSubscriber(
            target, on_end=lambda _: seen.append("end"), on_chunks=lambda task_id: seen.append(f"chunks of {task_id}")
        )
        await subscriber.start()
        await subscriber.watch("t1")
        await event_loop.wait_until(lambda: redis.pubsub_numsub(ended_channel("t1"))[0][1] == 1)
        stream(single_broker, first, b"1")
        stream(single_broker, first, b"1")  # a repetition
        await event_loop.wait_until(lambda: len(seen) == 1)
        fail(single_broker, first)
        second = take_one(single_broker)
        await event_loop.wait_until(lambda: len(seen) == 2)
        single_broker.run(complete(second.lease, second.message, b"1", now_ns=single_broker.now_ns()))
        await event_loop.wait_until(lambda: len(seen) == 3)
        await subscriber.close()
        return seen

    assert event_loop.run(main()) == ["chunks of t1", "chunks of t1", "end"]
