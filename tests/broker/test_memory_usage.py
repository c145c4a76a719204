"""Estimating memory, and history."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.memory import estimate_memory
from runqy.broker.queues.stats import DayCounts, read_history
from runqy.broker.tasks.chunks import ChunkBatch, write_chunks
from runqy.broker.tasks.finish import archive
from runqy.broker.tasks.output import OutputChunk, write_output
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, take_one

KEYS = QueueKeys(QUEUE)
NOW_NS = 1_700_000_000_000_000_000


def test_an_empty_queue_ends_no_run(broker: Broker) -> None:
    assert broker.run(estimate_memory([QUEUE, "none"])) == [0, 0]


def test_the_memory_of_equal_tasks_is_what_they_take(broker: Broker) -> None:
    put(broker, *[f"t{n:02}" for n in range(50)], payload=b'"%s"' % (b"x" * 1000))
    one = redis_of(broker).memory_usage(KEYS.task("t00"), samples=0)

    (total,) = broker.run(estimate_memory([QUEUE]))

    # Equal hashes differ by some per cent, as far as Redis has come with growing their tables.
    assert total == pytest.approx(50 * one + redis_of(broker).memory_usage(KEYS.pending), rel=0.1)


def test_the_output_and_the_chunks_of_tasks_count(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    (before,) = broker.run(estimate_memory([QUEUE]))
    broker.run(write_output([OutputChunk(lease=taken.lease, text=b"x" * 20_000)]))
    broker.run(write_chunks([ChunkBatch(lease=taken.lease, run_number=1, offset=0, entries=(b"1" * 20_000,))]))

    (after,) = broker.run(estimate_memory([QUEUE]))

    written = (KEYS.output("t1"), KEYS.chunks("t1"))
    assert after >= before + sum(redis_of(broker).memory_usage(key, samples=0) for key in written)


@pytest.mark.parametrize("huge", ["t00", "t57", "t99"])
def test_one_huge_task_counts_once(broker: Broker, huge: str) -> None:
    put(broker, *[f"t{n:02}" for n in range(100)], payload=b"{}")
    (before,) = broker.run(estimate_memory([QUEUE]))
    redis_of(broker).hset(KEYS.task(huge), "result", b"x" * 10_000_000)

    (after,) = broker.run(estimate_memory([QUEUE]))

    # It is counted when it is in the sample, and never for other tasks.
    assert before * 0.9 <= after < 10_000_000 * 2 + before


def test_tasks_of_different_sizes_are_estimated_within_a_factor(broker: Broker) -> None:
    for n in range(200):
        put(broker, f"t{n}", payload=b'"%s"' % (b"x" * (n * 100)))
    exact = sum(redis_of(broker).memory_usage(KEYS.task(f"t{n}"), samples=0) for n in range(200))

    (total,) = broker.run(estimate_memory([QUEUE]))

    assert exact * 0.5 < total < exact * 2


def test_every_state_and_group_counts_and_ids_without_a_task_are_ignored(broker: Broker) -> None:
    put(broker, "t1", "t2")
    put(broker, "t3", process_at_s=broker.now_s() + 60)
    taken = take_one(broker)
    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=NOW_NS))
    (before,) = broker.run(estimate_memory([QUEUE]))
    redis_of(broker).sadd(KEYS.groups, "g")
    redis_of(broker).zadd(KEYS.group("g"), {"t2": 1})
    redis_of(broker).zadd(KEYS.completed, {"ghost": 1})

    (after,) = broker.run(estimate_memory([QUEUE]))

    sizes = [redis_of(broker).memory_usage(KEYS.task(task_id), samples=0) for task_id in ("t1", "t2", "t3")]
    assert before > sum(sizes)
    assert after == pytest.approx(before + sizes[1] + redis_of(broker).memory_usage(KEYS.completed), abs=2)


def test_history_lists_the_latest_day_first(broker: Broker) -> None:
    redis_of(broker).set(KEYS.processed_on("2023-11-14"), 7)
    redis_of(broker).set(KEYS.failed_on("2023-11-14"), 2)
    redis_of(broker).set(KEYS.processed_on("2023-11-12"), 1)

    assert broker.run(read_history(QUEUE, days=3, now_ns=NOW_NS)) == [
        DayCounts(date="2023-11-14", processed=7, failed=2),
        DayCounts(date="2023-11-13", processed=0, failed=0),
        DayCounts(date="2023-11-12", processed=1, failed=0),
    ]


def test_a_queue_with_a_key_of_another_type_hides_no_other_queue(broker: Broker) -> None:
    redis_of(broker).set(QueueKeys("damaged").pending, "x")
    put(broker, "t1")

    damaged, other = broker.run(estimate_memory(["damaged", QUEUE]))

    assert damaged == 0
    assert other > 0
