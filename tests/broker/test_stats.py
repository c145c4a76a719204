"""Counting the tasks of queues."""

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import pause
from runqy.broker.queues.stats import count_tasks, read_queue_names
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, take

KEYS = QueueKeys(QUEUE)


def test_tasks_are_counted_by_state(broker: Broker) -> None:
    put(broker, "c", "r", "a", "x", "p1", "p2")
    put(broker, "s", process_at_s=broker.now_s() + 60)
    redis_of(broker).zadd(KEYS.group("g1"), {"g": 1})
    redis_of(broker).sadd(KEYS.groups, "g1")
    completed, failed, archived, _ = take(broker, 4)
    now_ns = broker.now_ns()
    broker.run(complete(completed.lease, completed.message, now_ns=now_ns))
    broker.run(retry(failed.lease, failed.message, Failure(error="e", retry_at_s=1), now_ns=now_ns))
    broker.run(archive(archived.lease, archived.message, error="e", now_ns=now_ns))

    (counts,) = broker.run(count_tasks([QUEUE], now_ns=now_ns))

    assert (counts.pending, counts.active, counts.scheduled, counts.retry) == (2, 1, 1, 1)
    assert (counts.archived, counts.completed, counts.aggregating) == (1, 1, 1)
    assert counts.size == 8
    assert (counts.processed, counts.failed, counts.processed_today, counts.failed_today) == (3, 2, 3, 2)
    assert not counts.is_paused


def test_latency_is_the_age_of_the_oldest_pending_task(broker: Broker) -> None:
    put(broker, "old")
    put(broker, "new")
    since = int(redis_of(broker).hget(KEYS.task("old"), "pending_since"))

    (counts,) = broker.run(count_tasks([QUEUE], now_ns=since + 2_500_000_000))

    assert counts.latency_s == pytest.approx(2.5)


def test_a_time_that_gos_worker_wrote_is_in_seconds(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "pending_since", 1_800_000_000)

    (counts,) = broker.run(count_tasks([QUEUE], now_ns=1_800_000_090 * 10**9))

    assert counts.latency_s == pytest.approx(90)


@pytest.mark.parametrize("since", ["", "soon", "0", "9" * 5000])
def test_unknown_latency_is_zero(broker: Broker, since: str) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "pending_since", since)

    (counts,) = broker.run(count_tasks([QUEUE], now_ns=broker.now_ns()))

    assert counts.latency_s == 0


def test_several_queues_are_counted_in_their_order(broker: Broker) -> None:
    put(broker, "t1", queue="a")
    put(broker, "t2", "t3", queue="b")
    broker.run(pause("a", now_ns=broker.now_ns()))

    counts = broker.run(count_tasks(["b", "none", "a"], now_ns=broker.now_ns()))

    assert [(c.queue, c.pending, c.is_paused) for c in counts] == [("b", 2, False), ("none", 0, False), ("a", 1, True)]


def test_queues_are_known_once_they_had_a_task(broker: Broker) -> None:
    put(broker, "t1", queue="b")
    put(broker, "t2", queue="a")

    assert broker.run(read_queue_names()) == ["a", "b"]


@pytest.mark.parametrize(
    "words",
    [
        ("SET", KEYS.pending, "x"),
        ("SET", KEYS.groups, "x"),
        ("SET", KEYS.processed, "x"),
        ("SET", KEYS.failed, "9" * 5000),
        ("HSET", KEYS.failed, "a", "b"),
    ],
    ids=["pending", "groups", "text", "digits", "hash"],
)
def test_a_worker_cannot_hide_other_queues(broker: Broker, words: tuple[str, ...]) -> None:
    redis_of(broker).execute_command(*words)
    put(broker, "t1", queue="other")

    mine, other = broker.run(count_tasks([QUEUE, "other"], now_ns=broker.now_ns()))

    assert (mine.size, mine.processed, mine.failed, other.pending) == (0, 0, 0, 1)
