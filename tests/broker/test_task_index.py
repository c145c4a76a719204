"""Which lookups are removed, and which are not."""

from collections.abc import Callable

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.tasks import reader as task_index
from runqy.broker.tasks.output import KEPT_S
from tests.support.maintenance_duties import KEYS, QUEUE, MovingClock, put
from tests.support.redis_client import redis_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


def walk(broker: Broker, sweep: task_index.LookupSweep) -> int:
    """Scan everything once."""
    removed = broker.run(sweep.run_step(broker))
    while not sweep.is_round_complete:
        removed += broker.run(sweep.run_step(broker))
    return removed


def lookups_left(broker: Broker) -> set[bytes]:
    return {key.removeprefix(b"asynq:t:") for key in redis_of(broker).scan_iter("asynq:t:*")}


def test_a_lookup_without_a_task_is_removed_a_minute_after_it_was_seen(broker: Broker, clock: MovingClock) -> None:
    for i in range(30):
        put(broker, f"kept{i}")
        put(broker, f"left{i}")
        redis_of(broker).delete(KEYS.task(f"left{i}"))
    sweep = task_index.LookupSweep(step=5)

    early = walk(broker, sweep)
    clock.advance(50)
    early += walk(broker, sweep)
    clock.advance(11)
    removed = walk(broker, sweep)

    assert (early, removed) == (0, 30)
    assert lookups_left(broker) == {f"kept{i}".encode() for i in range(30)}


def test_a_task_that_follows_its_lookup_keeps_it(broker: Broker, clock: MovingClock) -> None:
    redis_of(broker).hset(keys.lookup("t"), "queue", QUEUE)
    sweep = task_index.LookupSweep()
    walk(broker, sweep)
    put(broker, "t")
    clock.advance(61)

    assert walk(broker, sweep) == 0
    assert lookups_left(broker) == {b"t"}


def test_a_lookup_without_a_queue_is_removed_and_other_types_are_skipped(broker: Broker, clock: MovingClock) -> None:
    redis_of(broker).hset(keys.lookup("odd"), "other", "1")
    redis_of(broker).set(keys.lookup("text"), "x")
    redis_of(broker).hset(b"asynq:t:\xff", "queue", "q")
    sweep = task_index.LookupSweep()
    walk(broker, sweep)
    clock.advance(61)

    walk(broker, sweep)

    assert lookups_left(broker) == {b"text", b"\xff"}


def test_a_lookup_that_names_another_queue_by_now_stays(broker: Broker) -> None:
    redis_of(broker).hset(keys.lookup("t"), "queue", "elsewhere")

    assert broker.run(task_index.remove_lookup(QUEUE, "t")) is False
    assert lookups_left(broker) == {b"t"}


def test_lookups_of_deleted_tasks_go_in_one_call(broker: Broker) -> None:
    for i in range(600):
        redis_of(broker).hset(keys.lookup(f"t{i}"), "queue", QUEUE)

    broker.run(task_index.remove_lookups(broker, QUEUE, [f"t{i}" for i in range(599)]))

    assert lookups_left(broker) == {b"t599"}


def test_suspects_are_bounded(single_broker: Broker, clock: MovingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_index, "MAX_SUSPECTS", 3)
    for i in range(10):
        redis_of(single_broker).hset(keys.lookup(f"t{i}"), "queue", QUEUE)
    sweep = task_index.LookupSweep()
    walk(single_broker, sweep)
    clock.advance(61)

    assert walk(single_broker, sweep) == 3


@pytest.mark.parametrize("key_of", [KEYS.output, KEYS.chunks])
def test_what_a_task_wrote_that_another_program_deleted_is_removed_with_its_lookup(
    broker: Broker, clock: MovingClock, key_of: Callable[[str], str]
) -> None:
    for task_id in ("kept", "deleted"):
        put(broker, task_id)
        redis_of(broker).rpush(key_of(task_id), "text")
    redis_of(broker).delete(KEYS.task("deleted"))
    sweep = task_index.LookupSweep()
    walk(broker, sweep)
    clock.advance(61)

    assert walk(broker, sweep) == 1

    assert not redis_of(broker).exists(key_of("deleted"))
    assert redis_of(broker).exists(key_of("kept"))


@pytest.mark.parametrize("key_of", [KEYS.output, KEYS.chunks])
def test_what_a_task_wrote_lives_as_long_as_the_task(broker: Broker, key_of: Callable[[str], str]) -> None:
    for task_id, left_s in (("old", 60), ("new", 2 * KEPT_S)):
        put(broker, task_id)
        redis_of(broker).rpush(key_of(task_id), "text")
        redis_of(broker).expire(key_of(task_id), left_s)

    walk(broker, task_index.LookupSweep())

    assert [round(redis_of(broker).ttl(key_of(task_id)) / KEPT_S) for task_id in ("old", "new")] == [1, 2]
