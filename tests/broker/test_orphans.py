"""Which tasks that stand in no list are put back, and when."""

import pytest

from runqy.broker import keys, orphans
from runqy.broker.broker import Broker
from tests.support.upkeep import KEYS, MovingClock, places_of, put, take


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovingClock:
    return MovingClock(monkeypatch)


@pytest.fixture
def go_worker(broker: Broker) -> None:
    broker.client.zadd(keys.WORKERS, {"vm:17767": 1})


def lose(broker: Broker, task_id: str) -> None:
    """Pop a task as a worker does that dies before it registers it."""
    put(broker, task_id)
    assert broker.client.lrem(KEYS.pending, 1, task_id)


def walk(broker: Broker, search: orphans.OrphanSearch) -> int:
    """Walk over everything once."""
    restored = search.run_step(broker)
    while not search.is_round_complete:
        restored += search.run_step(broker)
    return restored


@pytest.mark.usefixtures("go_worker")
def test_a_lost_task_is_put_to_the_front_a_minute_after_it_was_seen(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "lost")
    put(broker, "waiting")
    search = orphans.OrphanSearch(step=3)

    early = walk(broker, search)
    clock.advance(50)
    early += walk(broker, search)
    clock.advance(15)
    restored = walk(broker, search)

    assert (early, restored) == (0, 1)
    assert broker.client.lrange(KEYS.pending, 0, -1) == [b"waiting", b"lost"]


def test_without_go_workers_nothing_is_searched(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "lost")
    broker.client.zadd(keys.WORKERS, {"asynq:workers:{h:1:s}": broker.now_s() + 10})
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)

    assert walk(broker, search) == 0
    assert places_of(broker, "lost") == []


@pytest.mark.usefixtures("go_worker")
def test_tasks_that_are_listed_stay_as_they_are(broker: Broker, clock: MovingClock) -> None:
    put(broker, "running")
    take(broker)
    for i in range(20):
        put(broker, f"t{i}")
    put(broker, "later", process_at_s=broker.now_s() + 1000)
    broker.client.rpush(KEYS.pending, *broker.client.rpop(KEYS.pending, 3))  # out of the order of age
    search = orphans.OrphanSearch()
    before = broker.client.lrange(KEYS.pending, 0, -1)
    walk(broker, search)
    clock.advance(61)

    assert walk(broker, search) == 0
    assert broker.client.lrange(KEYS.pending, 0, -1) == before


@pytest.mark.usefixtures("go_worker")
@pytest.mark.parametrize("index", ["active", "lease"])
def test_a_task_that_is_registered_in_the_end_is_not_put_back(broker: Broker, clock: MovingClock, index: str) -> None:
    lose(broker, "slow")
    search = orphans.OrphanSearch()
    walk(broker, search)
    if index == "active":
        broker.client.lpush(KEYS.active, "slow")
    else:
        broker.client.zadd(KEYS.lease, {"slow": broker.now_s() + 100})
    clock.advance(61)

    assert walk(broker, search) == 0
    assert places_of(broker, "slow") == [index]


@pytest.mark.usefixtures("go_worker")
def test_an_idle_worker_is_woken_for_a_task_that_came_back(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)
    broker.client.zadd(KEYS.idle, {keys.wake_channel("token"): broker.now_ns() // 1_000_000 + 5000})
    subscription = broker.pubsub()
    subscription.subscribe(keys.wake_channel("token"))
    subscription.get_message(timeout=2)  # the confirmation

    walk(broker, search)

    assert subscription.get_message(timeout=2)["data"] == b"q"
    subscription.close()


@pytest.mark.usefixtures("go_worker")
def test_a_task_that_waits_anew_since_it_was_seen_starts_its_minute_again(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)
    broker.client.hset(KEYS.task("t"), "pending_since", broker.now_ns())

    assert walk(broker, search) == 0
    clock.advance(61)
    assert walk(broker, search) == 1


@pytest.mark.usefixtures("go_worker")
def test_many_lost_tasks_come_back_some_at_a_step(broker: Broker, clock: MovingClock) -> None:
    for i in range(orphans.CHECKS_A_STEP + 5):
        lose(broker, f"t{i}")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)

    first = search.run_step(broker)
    second = search.run_step(broker)

    assert (first, second) == (orphans.CHECKS_A_STEP, 5)
    assert broker.client.llen(KEYS.pending) == orphans.CHECKS_A_STEP + 5


@pytest.mark.usefixtures("go_worker")
def test_two_searches_put_a_task_back_once(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    searches = [orphans.OrphanSearch(), orphans.OrphanSearch()]
    for search in searches:
        walk(broker, search)
    clock.advance(61)

    assert [walk(broker, search) for search in searches] == [1, 0]
    assert places_of(broker, "t") == ["pending"]


@pytest.mark.usefixtures("go_worker")
def test_a_time_in_seconds_as_go_workers_write_it_is_understood(broker: Broker, clock: MovingClock) -> None:
    lose(broker, "t")
    broker.client.hset(KEYS.task("t"), "pending_since", broker.now_s() - 5)
    put(broker, "front")
    search = orphans.OrphanSearch()
    walk(broker, search)
    clock.advance(61)

    assert walk(broker, search) == 1
