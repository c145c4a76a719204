"""Recovering tasks of lost workers."""

import threading
from collections.abc import Callable

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties import recoverer
from runqy.broker.duties.recoverer import LeaselessWatch, LostTask
from runqy.broker.states import RunOutcome, TaskState
from runqy.broker.streams.run_counters import read_run_counters
from runqy.broker.tasks import cancel, finish
from runqy.broker.tasks.lease import extend
from runqy.errors import LeaseLost
from tests.support.maintenance_duties import KEYS, QUEUE, MovingClock, indexes_of, message_of, put, state_of, take
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed

PAST_GRACE_S = 61


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


@pytest.fixture
def recover(broker: Broker) -> Callable[[], list[tuple[LostTask, TaskState]]]:
    watch = LeaselessWatch()
    return lambda: broker.run(recoverer.recover_lost(broker, [QUEUE], watch))


def test_a_task_whose_lease_ended_is_due_again_and_one_retry_is_spent(
    broker: Broker, clock: MovingClock, recover: Callable
) -> None:
    put(broker, "t", max_retry=2)
    take(broker)
    clock.advance(PAST_GRACE_S)
    before_s = broker.now_s()

    recover()

    message = message_of(broker, "t")
    assert (indexes_of(broker, "t"), state_of(broker, "t")) == (["retry"], "retry")
    assert (message.retried, message.error_msg, message.payload) == (1, "asynq: task lease expired", b"{}")
    assert before_s <= message.last_failed_at <= broker.now_s()
    assert redis_of(broker).zscore(KEYS.retry, "t") <= broker.now_s()
    assert not redis_of(broker).hexists(KEYS.task("t"), "owner")


def test_the_lost_attempt_counts_as_failed(broker: Broker, clock: MovingClock, recover: Callable) -> None:
    put(broker, "t")
    take(broker)
    clock.advance(PAST_GRACE_S)

    recover()

    counters = [key for key in redis_of(broker).scan_iter("asynq:{q}:*ed*") if b"processed" in key or b"failed" in key]
    assert {redis_of(broker).get(key) for key in counters} == {b"1"}
    assert len(counters) == 4
    assert sorted(redis_of(broker).ttl(key) > 89 * 86_400 for key in counters) == [False, False, True, True]
    (counted,) = broker.run(read_run_counters([QUEUE]))
    assert counted[RunOutcome.LOST] == 1


@pytest.mark.parametrize(("max_retry", "is_free"), [(0, True), (1, False)])
def test_a_lock_is_free_once_its_task_is_given_up(
    *, broker: Broker, clock: MovingClock, recover: Callable, max_retry: int, is_free: bool
) -> None:
    put(broker, "t", max_retry=max_retry)
    redis_of(broker).hset(KEYS.task("t"), "unique_key", KEYS.lock("u"))
    redis_of(broker).set(KEYS.lock("u"), "t")
    take(broker)
    clock.advance(PAST_GRACE_S)

    recover()

    assert redis_of(broker).exists(KEYS.lock("u")) == (0 if is_free else 1)


def test_a_lease_within_the_grace_is_not_changed(broker: Broker, clock: MovingClock, recover: Callable) -> None:
    put(broker, "t")
    take(broker)
    clock.advance(58)

    assert recover() == []
    assert indexes_of(broker, "t") == ["active", "lease"]


def test_a_task_without_retries_left_is_archived_and_its_waiters_are_notified(
    broker: Broker, clock: MovingClock, recover: Callable
) -> None:
    put(broker, "t", max_retry=0)
    take(broker)
    clock.advance(PAST_GRACE_S)

    with subscribed(redis_of(broker), "runqy:ended:t") as subscription:
        recover()
        notified = subscription.next()

    assert (indexes_of(broker, "t"), state_of(broker, "t")) == (["archived"], "archived")
    assert (message_of(broker, "t").retried, message_of(broker, "t").error_msg) == (0, "asynq: task lease expired")
    assert notified == ("runqy:ended:t", b"archived")


def test_a_cancelled_task_is_archived_as_cancelled(broker: Broker, clock: MovingClock, recover: Callable) -> None:
    put(broker, "t")
    take(broker)
    broker.run(cancel.cancel(QUEUE, "t", now_ns=broker.now_ns()))
    clock.advance(PAST_GRACE_S)

    recover()

    assert indexes_of(broker, "t") == ["archived"]
    assert message_of(broker, "t").error_msg == "canceled"


def test_the_lost_worker_cannot_finish_any_more(broker: Broker, clock: MovingClock, recover: Callable) -> None:
    put(broker, "t")
    taken = take(broker)
    clock.advance(PAST_GRACE_S)
    recover()

    with pytest.raises(LeaseLost):
        broker.run(finish.complete(taken.lease, taken.message, b"late", now_ns=broker.now_ns()))

    assert indexes_of(broker, "t") == ["retry"]
    assert not redis_of(broker).hexists(KEYS.task("t"), "result")


def test_a_worker_that_extends_between_the_two_steps_keeps_its_task(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    taken = take(broker)
    clock.advance(PAST_GRACE_S)
    _, (lost,) = broker.run(recoverer.find_lost(QUEUE, now_ns=broker.now_ns(), grace_s=30))
    broker.run(extend([taken.lease], now_ns=broker.now_ns()))

    stored = redis_of(broker).hget(KEYS.task("t"), "msg")
    outcome = broker.run(recoverer.recover(lost, stored, now_ns=broker.now_ns()))

    assert outcome is None
    assert (indexes_of(broker, "t"), state_of(broker, "t")) == (["active", "lease"], "active")


def test_a_task_leased_again_between_the_two_steps_keeps_its_new_lease(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    first = take(broker)
    clock.advance(PAST_GRACE_S)
    _, (lost,) = broker.run(recoverer.find_lost(QUEUE, now_ns=broker.now_ns(), grace_s=30))
    broker.run(finish.requeue(first.lease, now_ns=broker.now_ns()))
    second = take(broker)
    redis_of(broker).zadd(KEYS.lease, {"t": int(float(lost.lease))})

    outcome = broker.run(recoverer.recover(lost, b"", now_ns=broker.now_ns()))

    assert outcome is None
    assert redis_of(broker).hget(KEYS.task("t"), "owner") == second.lease.token.encode()


def test_a_cancel_between_the_two_steps_is_not_overlooked(broker: Broker, clock: MovingClock) -> None:
    put(broker, "t")
    take(broker)
    clock.advance(PAST_GRACE_S)
    _, (lost,) = broker.run(recoverer.find_lost(QUEUE, now_ns=broker.now_ns(), grace_s=30))
    broker.run(cancel.cancel(QUEUE, "t", now_ns=broker.now_ns()))

    assert broker.run(recoverer.recover(lost, b"", now_ns=broker.now_ns())) is None
    assert indexes_of(broker, "t") == ["active", "lease"]


def test_a_running_id_without_a_lease_is_recovered_once_it_was_seen_twice(
    broker: Broker, clock: MovingClock, recover: Callable
) -> None:
    put(broker, "t")
    take(broker)
    redis_of(broker).delete(KEYS.lease)

    first = recover()
    clock.advance(recoverer.LEASELESS_GRACE_S)
    second = recover()

    assert (first, [state for _, state in second]) == ([], [TaskState.RETRY])
    assert indexes_of(broker, "t") == ["retry"]


def test_a_task_whose_lease_is_written_after_its_id_is_not_lost(
    broker: Broker, clock: MovingClock, recover: Callable
) -> None:
    put(broker, "t")
    lease_end_s = take(broker).lease_end_s
    redis_of(broker).delete(KEYS.lease)
    recover()
    clock.advance(recoverer.LEASELESS_GRACE_S)
    redis_of(broker).zadd(KEYS.lease, {"t": lease_end_s})

    assert recover() == []
    assert indexes_of(broker, "t") == ["active", "lease"]


def test_ids_without_a_task_leave_the_indexes(broker: Broker, clock: MovingClock, recover: Callable) -> None:
    redis_of(broker).lpush(KEYS.active, "ghost", "leaseless")
    redis_of(broker).zadd(KEYS.lease, {"ghost": 1, "inactive": 1})
    redis_of(broker).hset(KEYS.task("ghost"), "state", "active")
    recover()
    clock.advance(recoverer.LEASELESS_GRACE_S)

    recover()

    assert not redis_of(broker).exists(KEYS.active, KEYS.lease, KEYS.task("ghost"))


@pytest.mark.parametrize("state", ["pending", "retry", "archived", "completed"])
def test_a_leftover_active_entry_of_a_correctly_listed_task_is_only_removed(
    broker: Broker, recover: Callable, state: str
) -> None:
    put(broker, "t")
    if state != "pending":
        redis_of(broker).delete(KEYS.pending)
        redis_of(broker).zadd(KEYS.index(TaskState(state)), {"t": broker.now_s() + 99})
        redis_of(broker).hset(KEYS.task("t"), "state", state)
    redis_of(broker).lpush(KEYS.active, "t")
    redis_of(broker).zadd(KEYS.lease, {"t": 1})

    assert recover() == []
    assert (indexes_of(broker, "t"), state_of(broker, "t")) == ([state], state)
    assert message_of(broker, "t").retried == 0


def test_a_task_that_another_worker_registered_in_part_is_recovered(broker: Broker, recover: Callable) -> None:
    put(broker, "t")
    redis_of(broker).delete(KEYS.pending)
    redis_of(broker).zadd(KEYS.lease, {"t": 1})

    recover()

    assert (indexes_of(broker, "t"), state_of(broker, "t")) == (["retry"], "retry")
    assert not redis_of(broker).hexists(KEYS.task("t"), "pending_since")


def test_an_unreadable_message_is_archived_unchanged(broker: Broker, clock: MovingClock, recover: Callable) -> None:
    put(broker, "t")
    take(broker)
    redis_of(broker).hset(KEYS.task("t"), "msg", b"\xff\xff")
    clock.advance(PAST_GRACE_S)

    recover()

    assert indexes_of(broker, "t") == ["archived"]
    assert redis_of(broker).hget(KEYS.task("t"), "msg") == b"\xff\xff"


def test_a_field_that_only_newer_programs_know_survives(broker: Broker, clock: MovingClock, recover: Callable) -> None:
    unknown = b"\xfa\x07\x03new"  # field 127, bytes
    put(broker, "t")
    take(broker)
    stored = redis_of(broker).hget(KEYS.task("t"), "msg")
    redis_of(broker).hset(KEYS.task("t"), "msg", stored + unknown)
    clock.advance(PAST_GRACE_S)

    recover()

    assert redis_of(broker).hget(KEYS.task("t"), "msg").endswith(unknown)


def test_many_lost_tasks_are_all_recovered_by_two_recoverers_and_each_once(broker: Broker, clock: MovingClock) -> None:
    for i in range(130):
        put(broker, f"t{i}")
        take(broker)
    clock.advance(PAST_GRACE_S)
    recovered: list[tuple[LostTask, TaskState]] = []

    threads = [
        threading.Thread(
            target=lambda: recovered.extend(broker.run(recoverer.recover_lost(broker, [QUEUE], LeaselessWatch())))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(task.task_id for task, _ in recovered) == sorted(f"t{i}" for i in range(130))
    assert redis_of(broker).zcard(KEYS.retry) == 130
    assert redis_of(broker).get(KEYS.failed) == b"130"
    assert not redis_of(broker).exists(KEYS.active, KEYS.lease)


def test_more_lost_tasks_than_a_slice_are_recovered_in_one_run(
    broker: Broker, clock: MovingClock, recover: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recoverer, "SLICE_SIZE", 2)
    for i in range(7):
        put(broker, f"t{i}")
        take(broker)
    clock.advance(PAST_GRACE_S)

    assert len(recover()) == 7


def test_every_slice_of_a_long_active_list_is_looked_at(
    broker: Broker, clock: MovingClock, recover: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recoverer, "SLICE_SIZE", 2)
    for i in range(5):
        put(broker, f"t{i}")
        take(broker)
    redis_of(broker).zrem(KEYS.lease, "t4")
    recover()
    clock.advance(recoverer.LEASELESS_GRACE_S)

    assert [task.task_id for task, _ in recover()] == ["t4"]


def test_stale_aggregation_sets_go_back_to_a_group_that_aggregators_see(broker: Broker, recover: Callable) -> None:
    stale, fresh = f"{KEYS.group('g:1')}:set1", f"{KEYS.group('g2')}:set2"
    redis_of(broker).zadd(stale, {"a": 100, "b": 101})
    redis_of(broker).zadd(fresh, {"c": 102})
    redis_of(broker).zadd(KEYS.aggregation_sets, {stale: broker.now_s() - 1, fresh: broker.now_s() + 60})

    recover()

    assert redis_of(broker).zrange(KEYS.group("g:1"), 0, -1, withscores=True) == [(b"a", 100), (b"b", 101)]
    assert redis_of(broker).smembers(KEYS.groups) == {b"g:1"}
    assert redis_of(broker).zrange(KEYS.aggregation_sets, 0, -1) == [fresh.encode()]
    assert not redis_of(broker).exists(stale)
    assert redis_of(broker).exists(fresh)


def test_an_entry_that_names_no_aggregation_set_of_this_queue_is_dropped(broker: Broker, recover: Callable) -> None:
    elsewhere = "{q}elsewhere:set"
    redis_of(broker).zadd(elsewhere, {"a": 1})
    redis_of(broker).zadd(KEYS.aggregation_sets, {elsewhere: 1, KEYS.group(":x"): 1, "junk": 1})

    recover()

    assert not redis_of(broker).exists(KEYS.aggregation_sets, KEYS.groups, "{q}elsewhere")
    assert redis_of(broker).exists(elsewhere)


def test_a_leftover_active_entry_of_a_task_in_the_middle_of_a_long_list_is_only_removed(single_broker: Broker) -> None:
    broker, count, newest_ns, task_id = single_broker, 24_000, 1_700_000_000_000_000_000, "t12000"
    pipeline = redis_of(broker).pipeline(transaction=False)
    for number in range(count):
        fields = {"state": "pending", "pending_since": newest_ns - number, "msg": b"m"}
        pipeline.hset(KEYS.task(f"t{number}"), mapping=fields)
    pipeline.rpush(KEYS.pending, *(f"t{number}" for number in range(count)))
    pipeline.zadd(KEYS.lease, {task_id: 1})
    pipeline.lpush(KEYS.active, task_id)
    pipeline.execute()

    assert broker.run(recoverer.recover_lost(broker, [QUEUE], recoverer.LeaselessWatch())) == []

    assert (indexes_of(broker, task_id), state_of(broker, task_id)) == (["pending"], "pending")
