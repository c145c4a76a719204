"""Forwarding due tasks."""

import threading

import pytest
import structlog

from runqy import clock
from runqy.broker import keys, scanning
from runqy.broker.broker import Broker
from runqy.broker.duties import forwarder
from runqy.broker.states import TaskState
from runqy.core.telemetry.failure_log import FailureLog
from tests.support.maintenance_duties import KEYS, QUEUE, indexes_of, message_of, put, state_of
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed


def schedule(broker: Broker, task_id: str, in_s: int) -> None:
    put(broker, task_id, process_at_s=broker.now_s() + in_s)


def make_due(broker: Broker, *task_ids: str, source: TaskState = TaskState.SCHEDULED) -> int:
    """Store due tasks, the longest due first."""
    due_s = broker.now_s() - len(task_ids)
    for position, task_id in enumerate(task_ids):
        schedule(broker, task_id, 100)
        redis_of(broker).zrem(KEYS.scheduled, task_id)
        redis_of(broker).zadd(KEYS.index(source), {task_id: due_s + position})
        redis_of(broker).hset(KEYS.task(task_id), "state", source.value)
    return due_s


@pytest.mark.parametrize("source", forwarder.SOURCES)
def test_due_tasks_become_pending_the_longest_due_first(broker: Broker, source: TaskState) -> None:
    make_due(broker, "first", "second", source=source)
    before_ns = broker.now_ns()

    moved = broker.run(forwarder.forward_due(broker, [QUEUE]))

    assert moved == 2
    assert redis_of(broker).lrange(KEYS.pending, 0, -1) == [b"second", b"first"]
    assert [indexes_of(broker, "first"), state_of(broker, "first")] == [["pending"], "pending"]
    since_ns = int(redis_of(broker).hget(KEYS.task("first"), "pending_since"))
    assert before_ns <= since_ns <= broker.now_ns()
    assert message_of(broker, "first").payload == b"{}"


def test_a_task_that_is_not_due_stays(broker: Broker) -> None:
    schedule(broker, "later", 60)

    assert broker.run(forwarder.forward_due(broker, [QUEUE])) == 0
    assert indexes_of(broker, "later") == ["scheduled"]


def test_more_than_a_batch_is_moved_in_one_sweep(broker: Broker) -> None:
    now_s = broker.now_s()
    ids = [f"t{i}" for i in range(1201)]
    for task_id in ids:
        redis_of(broker).hset(KEYS.task(task_id), mapping={"state": "retry", "msg": b""})
    redis_of(broker).zadd(KEYS.retry, dict.fromkeys(ids, now_s - 1))

    assert broker.run(forwarder.forward_due(broker, [QUEUE])) == 1201
    assert redis_of(broker).llen(KEYS.pending) == 1201
    assert not redis_of(broker).exists(KEYS.retry)


def test_ids_without_a_task_and_ids_listed_elsewhere_are_dropped(broker: Broker) -> None:
    make_due(broker, "ghost", "ended")
    redis_of(broker).delete(KEYS.task("ghost"))
    redis_of(broker).hset(KEYS.task("ended"), "state", "archived")

    broker.run(forwarder.forward_due(broker, [QUEUE]))

    assert not redis_of(broker).exists(KEYS.pending, KEYS.scheduled, KEYS.task("ghost"))
    assert state_of(broker, "ended") == "archived"


def test_a_grouped_task_goes_to_its_group_which_aggregators_then_see(broker: Broker) -> None:
    make_due(broker, "grouped")
    redis_of(broker).hset(KEYS.task("grouped"), "group", "g1")

    broker.run(forwarder.forward_due(broker, [QUEUE]))

    assert redis_of(broker).zscore(KEYS.group("g1"), "grouped") <= broker.now_s()
    assert redis_of(broker).smembers(KEYS.groups) == {b"g1"}
    assert state_of(broker, "grouped") == "aggregating"
    assert indexes_of(broker, "grouped") == []


def test_one_idle_worker_is_woken_for_each_task(broker: Broker) -> None:
    make_due(broker, "a", "b")
    listen_until_ms = broker.now_ns() // 1_000_000 + 600_000
    channels = [keys.wake_channel(f"token{i}") for i in range(3)]
    redis_of(broker).zadd(KEYS.idle, {channel: listen_until_ms + i for i, channel in enumerate(channels)})

    with subscribed(redis_of(broker), *channels) as subscription:
        broker.run(forwarder.forward_due(broker, [QUEUE]))

        assert {subscription.next(), subscription.next()} == {(channels[1], b"q"), (channels[2], b"q")}
        assert subscription.has_none(for_s=0.2)
    assert redis_of(broker).zrange(KEYS.idle, 0, -1) == [channels[0].encode()]


def test_forwarders_side_by_side_move_each_task_once(broker: Broker) -> None:
    make_due(broker, *(f"t{i}" for i in range(60)))
    moved: list[int] = []

    def forward_some() -> None:
        request = forwarder.forward(QUEUE, TaskState.SCHEDULED, now_ns=broker.now_ns(), limit=3)
        while count := broker.run(request):
            moved.append(count)

    threads = [threading.Thread(target=forward_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(moved) == 60
    assert sorted(redis_of(broker).lrange(KEYS.pending, 0, -1)) == sorted(f"t{i}".encode() for i in range(60))


def test_a_queue_in_disorder_does_not_stop_the_others_and_is_logged_once_a_minute(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_of(broker).set("asynq:{broken}:scheduled", "not a zset")
    monkeypatch.setattr(scanning, "_failures", FailureLog("ended"))
    logged = []
    for now, task_id in ((1000, "a"), (1059, "b"), (1060, "c")):
        monkeypatch.setattr(clock, "monotonic_s", lambda now=now: now)
        make_due(broker, task_id)
        with structlog.testing.capture_logs() as logs:
            assert broker.run(forwarder.forward_due(broker, ["broken", QUEUE])) == 1
        logged.append([(log["event"], log["queue"]) for log in logs])

    assert redis_of(broker).llen(KEYS.pending) == 3
    assert logged == [[("queue_left_out", "broken")], [], [("queue_left_out", "broken")]]
