"""Estimating memory, and history."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.finishing import archive
from runqy.broker.keys import QueueKeys
from runqy.broker.measuring import Day, estimate_memory, read_history
from tests.support.tasks import QUEUE, put, take_one

KEYS = QueueKeys(QUEUE)
NOW_NS = 1_700_000_000_000_000_000


def test_an_empty_queue_takes_nothing(broker: Broker) -> None:
    assert broker.run(estimate_memory([QUEUE, "none"])) == [0, 0]


def test_the_memory_of_equal_tasks_is_what_they_take(broker: Broker) -> None:
    put(broker, *[f"t{n:02}" for n in range(50)], payload=b'"%s"' % (b"x" * 1000))
    one = broker.client.memory_usage(KEYS.task("t00"), samples=0)

    (total,) = broker.run(estimate_memory([QUEUE]))

    # Equal hashes differ by some per cent, as far as Redis has come with growing their tables.
    assert total == pytest.approx(50 * one + broker.client.memory_usage(KEYS.pending), rel=0.1)


def test_every_state_and_group_counts_and_ids_without_a_task_do_no_harm(broker: Broker) -> None:
    put(broker, "t1", "t2")
    put(broker, "t3", process_at_s=broker.now_s() + 60)
    taken = take_one(broker)
    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=NOW_NS))
    (before,) = broker.run(estimate_memory([QUEUE]))
    broker.client.sadd(KEYS.groups, "g")
    broker.client.zadd(KEYS.group("g"), {"t2": 1})
    broker.client.zadd(KEYS.completed, {"ghost": 1})

    (after,) = broker.run(estimate_memory([QUEUE]))

    sizes = [broker.client.memory_usage(KEYS.task(task_id), samples=0) for task_id in ("t1", "t2", "t3")]
    assert before > sum(sizes)
    assert after == pytest.approx(before + sizes[1] + broker.client.memory_usage(KEYS.completed), abs=2)


def test_history_tells_each_day_the_latest_first(broker: Broker) -> None:
    broker.client.set(KEYS.processed_on("2023-11-14"), 7)
    broker.client.set(KEYS.failed_on("2023-11-14"), 2)
    broker.client.set(KEYS.processed_on("2023-11-12"), 1)

    assert broker.run(read_history(QUEUE, days=3, now_ns=NOW_NS)) == [
        Day(date="2023-11-14", processed=7, failed=2),
        Day(date="2023-11-13", processed=0, failed=0),
        Day(date="2023-11-12", processed=1, failed=0),
    ]


def test_a_queue_with_a_key_of_another_type_hides_no_other_queue(broker: Broker) -> None:
    broker.client.set(QueueKeys("spoilt").pending, "x")
    put(broker, "t1")

    spoilt, other = broker.run(estimate_memory(["spoilt", QUEUE]))

    assert spoilt == 0
    assert other > 0
