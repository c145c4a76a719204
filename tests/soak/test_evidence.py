"""The evidence for the soak's checker is what Redis stores and what the tasks recorded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis as redis_py

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.finish import complete
from tests.support.tasks import QUEUE, put, take_one
from tools.soak.checker import Accepted, Evidence, check
from tools.soak.evidence import count_orphan_lookups, count_unended, read_state
from tools.soak.runs import Run, read_runs

KEYS = QueueKeys(QUEUE)
SIZES = dict.fromkeys(("pending", "active", "scheduled", "retry", "archived"), 0) | {"completed": 1}


@pytest.fixture
def done(single_broker: Broker, redis: redis_py.Redis) -> redis_py.Redis:
    """Leave one completed task, and return a client."""
    put(single_broker, "t1", payload=b'{"number":"7"}', retention_s=60)
    taken = take_one(single_broker)
    result = b'{"run":"r1","worker":"a"}'
    single_broker.run(complete(taken.lease, taken.message, result, now_ns=single_broker.now_ns()))
    return redis


def broken(redis: redis_py.Redis) -> set[str]:
    """Return the invariants that are broken by what Redis stores, if `t1` was accepted and ran once."""
    stored = read_state([QUEUE], [redis], {QUEUE: SIZES})
    evidence = Evidence(
        accepted={"t1": Accepted(task_id="t1", kind="ok")},
        tasks=stored.tasks,
        runs={"t1": [Run(task_id="t1", run_id="r1", worker="a", started_at=1.0, ended_at=2.0, outcome="ok")]},
        counts=stored.counts,
        dangling_ids=stored.dangling_ids,
        locks=stored.locks,
        orphan_lookups=stored.orphan_lookups,
    )
    return {violation.invariant for violation in check(evidence).violations}


def test_a_task_that_was_done_breaks_nothing(done: redis_py.Redis) -> None:
    assert broken(done) == set()
    assert count_unended([QUEUE], [done]) == 0
    assert count_orphan_lookups([QUEUE], [done]) == 0


DAMAGES: dict[str, tuple[Callable[[redis_py.Redis], object], set[str]]] = {
    "all of it gone": (
        lambda redis: (redis.delete(KEYS.task("t1"), keys.lookup("t1")), redis.zrem(KEYS.completed, "t1")),
        {"lost", "counters"},
    ),
    "its hash gone": (lambda redis: redis.delete(KEYS.task("t1")), {"lost", "counters", "lookups"}),
    "its lookup gone": (lambda redis: redis.delete(keys.lookup("t1")), {"lookups"}),
    "listed twice": (lambda redis: redis.lpush(KEYS.pending, "t1"), {"counters"}),
    "not listed": (lambda redis: redis.zrem(KEYS.completed, "t1"), {"counters"}),
    "counted twice": (lambda redis: redis.incr(KEYS.processed), {"counters"}),
    "locked": (lambda redis: redis.set(KEYS.lock("a"), "t1"), {"locks"}),
    "owned": (lambda redis: redis.hset(KEYS.task("t1"), "owner", "w1"), {"stuck"}),
    "another result": (lambda redis: redis.hset(KEYS.task("t1"), "result", '{"run":"r2"}'), {"result"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_in_redis_is_found(done: redis_py.Redis, name: str) -> None:
    damage, invariants = DAMAGES[name]

    damage(done)

    assert broken(done) == invariants


def test_a_task_that_waits_is_counted(single_broker: Broker, redis: redis_py.Redis) -> None:
    put(single_broker, "t1", "t2")
    take_one(single_broker)

    assert count_unended([QUEUE], [redis]) == 2


def test_runs_are_read_in_their_order_and_with_their_ends(tmp_path: Path) -> None:
    lines = [
        {"event": "start", "id": "t1", "run": "r2", "worker": "b", "at": 5.0},
        {"event": "start", "id": "t1", "run": "r1", "worker": "a", "at": 1.0},
        {"event": "end", "id": "t1", "run": "r2", "worker": "b", "at": 6.0, "outcome": "ok"},
    ]
    (tmp_path / "journal").write_text("".join(json.dumps(line) + "\n" for line in lines))

    first, second = read_runs(tmp_path / "journal")["t1"]

    assert (first.run_id, first.ended_at, first.outcome) == ("r1", None, "")
    assert (second.run_id, second.ended_at, second.outcome) == ("r2", 6.0, "ok")
