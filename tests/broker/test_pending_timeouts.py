"""Archiving tasks that exceeded their pending timeout."""

import threading

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties import pending_timeouts
from runqy.broker.duties.pending_timeouts import PendingTask
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_counters import OutcomeCount, read_run_counters
from tests.support.maintenance_duties import KEYS, QUEUE, MovingClock, indexes_of, message_of, put, state_of, take
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


def archive_overdue(broker: Broker, timeout_s: int = 60) -> int:
    return broker.run(pending_timeouts.archive_all_timed_out(broker, {QUEUE: timeout_s}))


def test_a_task_that_waited_too_long_is_archived_with_the_reason(broker: Broker, clock: MovingClock) -> None:
    put(broker, "old")
    clock.advance(40)
    put(broker, "young")
    clock.advance(21)
    before_s = broker.now_s()

    assert archive_overdue(broker) == 1
    message = message_of(broker, "old")
    assert (indexes_of(broker, "old"), state_of(broker, "old")) == (["archived"], "archived")
    assert message.error_msg.startswith("waited in the queue for longer than its pending_timeout of 60 s: ")
    assert (message.id, message.payload, message.retry, message.retried) == ("old", b"{}", 3, 0)
    assert before_s <= message.last_failed_at <= broker.now_s()
    assert redis_of(broker).zscore(KEYS.archived, "old") == message.last_failed_at + 259_200
    assert int(redis_of(broker).hget(KEYS.task("old"), "archived_at")) == message.last_failed_at
    assert not redis_of(broker).hexists(KEYS.task("old"), "pending_since")
    assert indexes_of(broker, "young") == ["pending"]


def test_its_lock_is_free_again(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    redis_of(broker).hset(KEYS.task("t"), "unique_key", KEYS.lock("u"))
    redis_of(broker).set(KEYS.lock("u"), "t")
    clock.advance(61)

    archive_overdue(broker)

    assert not redis_of(broker).exists(KEYS.lock("u"))


def test_no_attempt_is_counted(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    clock.advance(61)

    archive_overdue(broker)

    assert not redis_of(broker).exists(KEYS.processed, KEYS.failed)


def test_waiting_clients_are_notified(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    clock.advance(61)

    with subscribed(redis_of(broker), "runqy:ended:t") as subscription:
        archive_overdue(broker)

        assert subscription.next() == ("runqy:ended:t", b"archived")


def test_tasks_without_a_timeout_wait_forever(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    clock.advance(10**6)

    assert archive_overdue(broker, timeout_s=0) == 0
    assert indexes_of(broker, "t") == ["pending"]


def test_more_than_a_slice_is_archived_in_one_sweep(broker: Broker, clock: MovingClock) -> None:
    for i in range(520):
        put(broker, f"t{i}")
    clock.advance(61)
    put(broker, "fresh")

    assert archive_overdue(broker) == 520
    assert redis_of(broker).lrange(KEYS.pending, 0, -1) == [b"fresh"]
    assert redis_of(broker).zcard(KEYS.archived) == 520
    (counters,) = broker.run(read_run_counters([QUEUE]))
    found = tuple(map(counters.by_outcome, OutcomeCount))
    assert [+each for each in found] == [{RunOutcome.EXPIRED: 520}] * 3


def test_tasks_are_archived_although_a_worker_replaced_the_counters(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    redis_of(broker).set(KEYS.run_counters, "no hash")
    clock.advance(61)

    assert archive_overdue(broker) == 1
    assert state_of(broker, "t") == "archived"


def test_a_slice_without_times_is_skipped(broker: Broker, clock: MovingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_timeouts, "BATCH_MAX_TASKS", 2)
    for task_id in ("run1", "run2", "old"):
        put(broker, task_id)
    for task_id in ("run1", "run2"):
        redis_of(broker).hdel(KEYS.task(task_id), "pending_since")
    clock.advance(61)

    assert archive_overdue(broker) == 1
    assert [indexes_of(broker, task_id) for task_id in ("run1", "run2", "old")] == [
        ["pending"],
        ["pending"],
        ["archived"],
    ]


def test_a_task_that_changed_between_the_two_steps_is_not_changed(broker: Broker) -> None:
    put(broker, "taken")
    put(broker, "back")
    seen = broker.run(pending_timeouts.list_pending(QUEUE))
    take(broker)
    redis_of(broker).hset(KEYS.task("back"), "pending_since", broker.now_ns() + 1)

    archived = broker.run(pending_timeouts.archive_timed_out(QUEUE, seen, timeout_s=1, now_ns=broker.now_ns()))

    assert archived == 0
    assert indexes_of(broker, "taken") == ["active", "lease"]
    assert indexes_of(broker, "back") == ["pending"]


def test_a_leftover_active_entry_does_not_archive_a_finished_task(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    redis_of(broker).hset(KEYS.task("t"), "state", "completed")
    clock.advance(61)

    assert archive_overdue(broker) == 0
    assert state_of(broker, "t") == "completed"


def test_two_processes_archive_each_task_once(broker: Broker, clock: MovingClock) -> None:
    for i in range(100):
        put(broker, f"t{i}")
    clock.advance(61)
    archived: list[int] = []

    threads = [threading.Thread(target=lambda: archived.append(archive_overdue(broker))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(archived) == 100
    assert redis_of(broker).zcard(KEYS.archived) == 100


@pytest.mark.parametrize("since", ["", "x", "-5", "1.5", "²", "9" * 5000])
def test_an_invalid_time_is_unknown(since: str) -> None:
    assert PendingTask("t", since).since_ns is None
    assert PendingTask("t", since).has_waited_s(1) == 0


def test_times_in_seconds_are_understood() -> None:
    assert PendingTask("t", "1700000000").has_waited_s(1_700_000_060_000_000_000) == 60
    assert PendingTask("t", "1700000000000000000").has_waited_s(1_700_000_060_000_000_000) == 60
