"""Removing ids from a pending list that is too long to scan."""

import random
from collections.abc import Callable

import pytest

from runqy.broker.broker import Broker
from runqy.broker.duties.pending_timeouts import PendingTask, archive_timed_out
from runqy.broker.keys import QueueKeys
from runqy.broker.scripts import Script, script
from runqy.broker.tasks import cancel as cancel_module
from runqy.broker.tasks import inspector
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.enqueue import enqueue
from runqy.broker.tasks.finish import requeue
from runqy.broker.tasks.inspector import archive_tasks, delete_tasks
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, new_task, take_one

KEYS = QueueKeys(QUEUE)
NOW_NS = 1_700_000_000_000_000_000
LONG = 30_000
"""Ids of a list in whose middle none is near an end."""


def pending(broker: Broker) -> list[str]:
    """Return the ids that wait, the newest first."""
    return [task_id.decode() for task_id in redis_of(broker).lrange(KEYS.pending, 0, -1)]


def fill(broker: Broker, count: int, time_of: Callable[[int], int | None]) -> list[str]:
    """Enqueue tasks with different times, and return their ids, the newest first."""
    ids = [f"t{number}" for number in range(count)]
    pipeline = redis_of(broker).pipeline(transaction=False)
    for number, task_id in enumerate(ids):
        content: dict[str, str | int] = {"msg": "", "state": "pending"}
        since = time_of(number)
        pipeline.hset(KEYS.task(task_id), mapping=content | ({} if since is None else {"pending_since": since}))
    pipeline.lpush(KEYS.pending, *ids)
    pipeline.execute()
    return ids[::-1]


def lrem_calls(broker: Broker) -> int:
    """Return how often ids were looked for by a walk since the statistics were reset."""
    return int(redis_of(broker).info("commandstats").get("cmdstat_lrem", {}).get("calls", 0))


def cancel_one(broker: Broker, task_id: str) -> None:
    broker.run(cancel(QUEUE, task_id, now_ns=NOW_NS))


def delete_one(broker: Broker, task_id: str) -> None:
    broker.run(delete_tasks(QUEUE, [task_id]))


def archive_one(broker: Broker, task_id: str) -> None:
    broker.run(archive_tasks(QUEUE, [task_id], now_ns=NOW_NS))


def archive_overdue_one(broker: Broker, task_id: str) -> None:
    """Archive a task that exceeded its pending timeout."""
    since = redis_of(broker).hget(KEYS.task(task_id), "pending_since").decode()
    broker.run(archive_timed_out(QUEUE, [PendingTask(task_id, since)], timeout_s=1, now_ns=NOW_NS))


@pytest.mark.parametrize("remove", [cancel_one, delete_one, archive_one, archive_overdue_one])
def test_an_id_deep_in_a_long_list_leaves_without_a_walk(
    single_broker: Broker, remove: Callable[[Broker, str], None]
) -> None:
    before = fill(single_broker, LONG, lambda number: NOW_NS + number // 700)  # as batches of 700 are stored
    redis_of(single_broker).config_resetstat()

    remove(single_broker, "t15000")

    assert lrem_calls(single_broker) == 0
    newest, *others = before
    others[others.index("t15000")] = newest
    assert pending(single_broker) == others


def test_a_task_moved_deep_into_the_list_is_found_there(single_broker: Broker) -> None:
    fill(single_broker, LONG, lambda number: NOW_NS + number)
    cancel_one(single_broker, "t15000")
    redis_of(single_broker).config_resetstat()

    cancel_one(single_broker, f"t{LONG - 1}")

    assert lrem_calls(single_broker) == 0
    assert sorted(pending(single_broker)) == sorted(f"t{n}" for n in range(LONG) if n not in (15_000, LONG - 1))


@pytest.mark.parametrize("number", [0, 5, LONG - 5, LONG - 1])
def test_near_an_end_all_keep_their_order(single_broker: Broker, number: int) -> None:
    before = fill(single_broker, LONG, lambda number: NOW_NS + number)

    cancel_one(single_broker, f"t{number}")

    before.remove(f"t{number}")
    assert pending(single_broker) == before


@pytest.mark.parametrize("time_of", [lambda _: None, lambda _: NOW_NS, lambda number: NOW_NS - number])
def test_an_id_that_is_not_found_by_its_time_is_removed(
    single_broker: Broker, time_of: Callable[[int], int | None]
) -> None:
    before = fill(single_broker, LONG, time_of)

    cancel_one(single_broker, "t12000")

    before.remove("t12000")
    assert sorted(pending(single_broker)) == sorted(before)


@pytest.fixture
def short_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a list of some dozen ids count as long."""
    sizes = {"NEAR_END = 10000": "NEAR_END = 3", "MARGIN = 50": "MARGIN = 2"}
    sizes |= {"20000": "9", "2000": "6", "499": "3", "500": "4"}

    def shrunk(name: str) -> Script:
        source = script(name).source
        for size, small in sizes.items():
            source = source.replace(size, small)
        return Script(name, source)

    monkeypatch.setattr(cancel_module, "script", shrunk)
    monkeypatch.setattr(inspector, "script", shrunk)


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_order_exactly_the_right_id_leaves(single_broker: Broker, seed: int) -> None:
    chance = random.Random(seed)
    now_ns = NOW_NS
    removals = (cancel_one, delete_one, archive_one)
    for step in range(250):
        now_ns += chance.choice((0, 1_000, 10**9))
        before = pending(single_broker)
        action = chance.random()
        if action < 0.45 or not before:
            for number in range(chance.randint(1, 6)):
                task = new_task(f"s{step}-{number}")
                single_broker.run(enqueue(task, now_ns=now_ns, is_cluster=False))
            if chance.random() < 0.2:  # by a host whose clock differs
                task_id = pending(single_broker)[0]
                redis_of(single_broker).hset(KEYS.task(task_id), "pending_since", now_ns - chance.randint(0, 3 * 10**9))
        elif action < 0.6:
            taken = take_one(single_broker)
            if chance.random() < 0.7:
                single_broker.run(requeue(taken.lease, now_ns=now_ns))
            if chance.random() < 0.3:  # as asynq requeues tasks
                redis_of(single_broker).hdel(KEYS.task(taken.lease.task_id), "pending_since")
        elif action < 0.65:
            task_id = chance.choice(before)
            since = int(redis_of(single_broker).hget(KEYS.task(task_id), "pending_since") or 0)
            redis_of(single_broker).hset(KEYS.task(task_id), "pending_since", since // 10**9)  # as Go's runqy-worker
        else:
            task_id = chance.choice(before)

            chance.choice(removals)(single_broker, task_id)

            kept = [other for other in before if other != task_id]
            moved = [before[0] if other == task_id else other for other in before][1:]
            assert pending(single_broker) in (kept, moved)
