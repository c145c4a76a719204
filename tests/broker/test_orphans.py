"""Restoring tasks that are in no list."""

from collections.abc import Sequence
from itertools import count

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties import orphans
from runqy.broker.duties.janitor import StrayLockSearch
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command
from tests.support.links import Execute, wrap_link
from tests.support.maintenance_duties import KEYS, QUEUE, MovingClock, indexes_of, put, take
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


@pytest.fixture
def go_worker(request: pytest.FixtureRequest) -> None:
    broker = request.getfixturevalue("broker" if "broker" in request.fixturenames else "single_broker")
    redis_of(broker).zadd(keys.WORKERS, {"vm:17767": 1})


def lose(broker: Broker, task_id: str) -> None:
    """Pop a task like a worker that dies before it registers it."""
    put(broker, task_id)
    assert redis_of(broker).lrem(KEYS.pending, 1, task_id)


def walk(broker: Broker, search: orphans.OrphanSearch | StrayLockSearch) -> int:
    """Scan everything once."""
    restored = broker.run(search.run_step(broker))
    while not search.is_round_complete:
        restored += broker.run(search.run_step(broker))
    return restored


@pytest.mark.usefixtures("go_worker")
def test_a_lost_task_is_put_to_the_front_a_minute_after_it_was_seen(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "lost")
    put(broker, "waiting")
    search = orphans.OrphanSearch(step=3)

    early = walk(broker, search)
    clock.advance(50)
    early += walk(broker, search)
    clock.advance(11)
    restored = walk(broker, search)

    assert (early, restored) == (0, 1)
    assert redis_of(broker).lrange(KEYS.pending, 0, -1) == [b"waiting", b"lost"]


def test_without_go_workers_nothing_is_searched(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "lost")
    redis_of(broker).zadd(keys.WORKERS, {"asynq:workers:{h:1:s}": broker.now_s() + 10})
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)

    assert walk(broker, search) == 0
    assert indexes_of(broker, "lost") == []


@pytest.mark.usefixtures("go_worker")
def test_tasks_that_are_listed_stay_as_they_are(broker: Broker, clock: MovingClock) -> None:
    put(broker, "running")
    take(broker)
    for i in range(20):
        put(broker, f"t{i}")
    put(broker, "later", process_at_s=broker.now_s() + 1000)
    redis_of(broker).rpush(KEYS.pending, *redis_of(broker).rpop(KEYS.pending, 3))  # out of the order of age
    search = orphans.OrphanSearch()
    before = redis_of(broker).lrange(KEYS.pending, 0, -1)
    walk(broker, search)
    clock.advance(61)

    assert walk(broker, search) == 0
    assert redis_of(broker).lrange(KEYS.pending, 0, -1) == before


@pytest.mark.usefixtures("go_worker")
@pytest.mark.parametrize("index", ["active", "lease"])
def test_a_task_that_is_registered_in_the_end_is_not_put_back(broker: Broker, clock: MovingClock, index: str) -> None:
    lose(broker, "slow")
    search = orphans.OrphanSearch()
    walk(broker, search)
    if index == "active":
        redis_of(broker).lpush(KEYS.active, "slow")
    else:
        redis_of(broker).zadd(KEYS.lease, {"slow": broker.now_s() + 100})
    clock.advance(61)

    assert walk(broker, search) == 0
    assert indexes_of(broker, "slow") == [index]


@pytest.mark.usefixtures("go_worker")
def test_an_idle_worker_is_woken_for_a_task_that_came_back(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)
    channel = keys.wake_channel("token")
    redis_of(broker).zadd(KEYS.idle, {channel: broker.now_ns() // 1_000_000 + 600_000})

    with subscribed(redis_of(broker), channel) as subscription:
        walk(broker, search)

        assert subscription.next() == (channel, b"q")


@pytest.mark.usefixtures("go_worker")
def test_a_task_that_became_pending_again_starts_its_minute_again(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)
    redis_of(broker).hset(KEYS.task("t"), "pending_since", broker.now_ns())

    assert walk(broker, search) == 0
    clock.advance(61)
    assert walk(broker, search) == 1


@pytest.mark.usefixtures("go_worker")
def test_many_lost_tasks_are_restored_in_steps(broker: Broker, clock: MovingClock) -> None:
    for i in range(orphans.CHECKS_PER_STEP + 5):
        lose(broker, f"t{i}")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)

    first = broker.run(search.run_step(broker))
    second = broker.run(search.run_step(broker))

    assert (first, second) == (orphans.CHECKS_PER_STEP, 5)
    assert redis_of(broker).llen(KEYS.pending) == orphans.CHECKS_PER_STEP + 5


@pytest.mark.usefixtures("go_worker")
def test_two_searches_put_a_task_back_once(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    searches = [orphans.OrphanSearch(), orphans.OrphanSearch()]
    for search in searches:
        walk(broker, search)
    clock.advance(61)

    assert [walk(broker, search) for search in searches] == [1, 0]
    assert indexes_of(broker, "t") == ["pending"]


@pytest.mark.usefixtures("go_worker")
def test_a_time_in_seconds_as_go_workers_write_it_is_understood(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    redis_of(broker).hset(KEYS.task("t"), "pending_since", broker.now_s() - 5)
    put(broker, "front")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)

    assert walk(broker, search) == 1


LONG = 30_000
"""The length of a list in which most ids are far from both ends."""


def fill(broker: Broker, count: int = LONG) -> list[str]:
    """Fill the pending list with ids without tasks, the newest first, which no scan of tasks finds."""
    ids = [f"t{number}" for number in range(count)]
    redis_of(broker).rpush(KEYS.pending, *ids)
    return ids


def replace(broker: Broker, index: int, task_id: str) -> None:
    """Have an id of the list be that of a task, which another program made pending without a time."""
    redis_of(broker).hset(KEYS.task(task_id), mapping={"state": "pending", "msg": b"m"})
    redis_of(broker).lset(KEYS.pending, index, task_id)


def find_suspects(broker: Broker, clock: MovingClock) -> orphans.OrphanSearch:
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)
    return search


@pytest.mark.usefixtures("go_worker")
def test_a_lost_task_of_a_long_list_is_put_to_its_front(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "lost")
    fill(broker)
    search = find_suspects(broker, clock)

    assert walk(broker, search) == 1

    assert indexes_of(broker, "lost") == ["pending"]
    assert redis_of(broker).lindex(KEYS.pending, -1) == b"lost"


@pytest.mark.usefixtures("go_worker")
def test_a_task_in_the_middle_of_a_long_list_is_not_put_back(broker: Broker, clock: MovingClock) -> None:
    fill(broker)
    replace(broker, LONG // 2, "listed")
    search = find_suspects(broker, clock)

    assert walk(broker, search) == 0
    assert indexes_of(broker, "listed") == ["pending"]


@pytest.mark.usefixtures("go_worker")
def test_a_long_list_is_searched_in_slices(single_broker: Broker, clock: MovingClock) -> None:
    lose(single_broker, "lost")
    fill(single_broker)
    search = find_suspects(single_broker, clock)
    redis_of(single_broker).config_resetstat()

    single_broker.run(search.run_step(single_broker))

    calls = redis_of(single_broker).info("commandstats")
    assert calls["cmdstat_lrange"]["calls"] >= LONG // orphans.SLICE_SIZE
    assert indexes_of(single_broker, "lost") == ["pending"]


def test_ids_that_are_removed_between_slices_hide_no_other(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, client, slices = fill(single_broker), redis_of(single_broker), count()

    async def remove_newest(execute: Execute, commands: Sequence[Command]) -> list[Reply]:
        """Remove the newest ids of the pending list before each slice but the first."""
        is_slice = any(command.script is not None and command.script.name == "find_pending" for command in commands)
        if is_slice and next(slices):
            client.lpop(KEYS.pending, orphans.SLICE_OVERLAP)
        return await execute(commands)

    wrap_link(monkeypatch, single_broker, remove_newest)

    assert single_broker.run(orphans.find_listed(single_broker, QUEUE, ids)) == {*ids}


@pytest.mark.usefixtures("go_worker")
def test_locks_of_tasks_that_go_workers_deleted_are_deleted(broker: Broker) -> None:
    for name in ("waiting", "gone"):
        put(broker, name, unique_key=name)
    redis_of(broker).delete(KEYS.task("gone"))
    redis_of(broker).set(KEYS.lock("expiring"), "gone", ex=3600)  # as asynq's clients take them

    deleted = walk(broker, StrayLockSearch(step=3))

    assert deleted == 1
    assert [redis_of(broker).exists(KEYS.lock(name)) for name in ("waiting", "gone", "expiring")] == [1, 0, 1]


def test_without_go_workers_no_locks_are_searched(broker: Broker) -> None:
    redis_of(broker).set(KEYS.lock("gone"), "gone")

    assert walk(broker, StrayLockSearch()) == 0
    assert redis_of(broker).exists(KEYS.lock("gone"))
