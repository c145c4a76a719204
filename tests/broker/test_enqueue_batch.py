"""Enqueuing many tasks."""

from collections.abc import Sequence

import pytest

from runqy.broker import constants, keys
from runqy.broker.broker import Broker
from runqy.broker.replies import Reply, ReplyLost
from runqy.broker.scripts import Command
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue_batch import enqueue_many
from runqy.broker.tasks.finish import complete
from runqy.errors import TaskAlreadyExists
from tests.support.links import Execute, wrap_link
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, listed, message, new_task, put, take


def test_tasks_of_several_queues_and_times_are_queued_in_order(broker: Broker) -> None:
    later = broker.now_s() + 60
    tasks = [
        new_task("a1", "a"),
        new_task("b1", "b"),
        new_task("a2", "a", process_at_s=later),
        new_task("a3", "a"),
        new_task("a4", "a", process_at_s=later + 1),
    ]

    outcomes = broker.run(enqueue_many(broker, tasks))

    pending, scheduled = TaskState.PENDING, TaskState.SCHEDULED
    assert outcomes == [pending, pending, scheduled, pending, scheduled]
    assert listed(broker, "a") == {"pending": ["a1", "a3"], "scheduled": ["a2", "a4"]}
    assert listed(broker, "b") == {"pending": ["b1"]}
    assert redis_of(broker).smembers(keys.QUEUES) == {b"a", b"b"}
    assert [redis_of(broker).hget(keys.lookup(task.id), "queue").decode() for task in tasks] == [t.queue for t in tasks]


def test_each_task_keeps_its_own_limits_and_its_place(broker: Broker) -> None:
    limits = [(60, 600, 6), (60, 600, 6), (7, 600, 6), (7, 70, 6), (60, 600, 6), (7, 70, 5)]
    names = ("ttl_archived_s", "retention_s", "timeout_s")
    tasks = [new_task(f"t{i}", **dict(zip(names, each, strict=True))) for i, each in enumerate(limits)]
    put(broker, "t1")  # refused in the middle of a group

    outcomes = broker.run(enqueue_many(broker, tasks))

    assert [isinstance(outcome, TaskAlreadyExists) for outcome in outcomes] == [i == 1 for i in range(len(tasks))]
    assert listed(broker)["pending"] == ["t1", "t0", "t2", "t3", "t4", "t5"]
    for task, each in list(zip(tasks, limits, strict=True))[2:]:
        stored = redis_of(broker).hmget(
            keys.QueueKeys(QUEUE).task(task.id), "ttl_archived", "ttl_completed", "active_timeout"
        )
        assert tuple(map(int, stored)) == each
        assert (message(broker, task.id).id, message(broker, task.id).timeout) == (task.id, task.timeout_s)


def test_each_task_has_its_own_outcome(broker: Broker) -> None:
    put(broker, "t2")

    first, second, third, again = broker.run(enqueue_many(broker, [new_task(i) for i in ("t1", "t2", "t3", "t1")]))

    assert first is third is TaskState.PENDING
    assert isinstance(second, TaskAlreadyExists)
    assert isinstance(again, TaskAlreadyExists)
    assert listed(broker) == {"pending": ["t2", "t1", "t3"]}


def test_more_tasks_than_one_call_carries_are_all_queued(broker: Broker) -> None:
    tasks = [new_task(f"t{i}", payload=str(i).encode()) for i in range(2 * constants.BATCH_MAX_TASKS + 7)]

    outcomes = broker.run(enqueue_many(broker, tasks))

    assert outcomes == [TaskState.PENDING] * len(tasks)
    assert listed(broker)["pending"] == [task.id for task in tasks]
    assert message(broker, "t700").payload == b"700"


def test_no_call_carries_more_than_a_mebibyte_unless_one_task_does(single_broker: Broker) -> None:
    sizes = [400_000, 400_000, 400_000, 3_000_000, 10]
    tasks = [new_task(f"t{i}", payload=b"x" * size) for i, size in enumerate(sizes)]
    redis_of(single_broker).config_resetstat()

    outcomes = single_broker.run(enqueue_many(single_broker, tasks))

    assert outcomes == [TaskState.PENDING] * len(tasks)
    assert listed(single_broker)["pending"] == [task.id for task in tasks]
    calls = redis_of(single_broker).info("commandstats")["cmdstat_evalsha"]
    # Two and one, the large one, the last; and the lookups of the two.
    assert calls["calls"] - calls["failed_calls"] == 4 + 1


def test_nothing_is_queued_from_nothing(single_broker: Broker) -> None:
    assert single_broker.run(enqueue_many(single_broker, [])) == []


def test_requests_with_lost_replies_are_repeated(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    lost_replies = iter([True])

    async def lose_first(execute: Execute, commands: Sequence[Command]) -> list[Reply]:
        replies = await execute(commands)
        if next(lost_replies, False):
            raise ReplyLost
        return replies

    wrap_link(monkeypatch, single_broker, lose_first)

    outcomes = single_broker.run(enqueue_many(single_broker, [new_task("t1"), new_task("t1"), new_task("t2")]))

    assert [isinstance(outcome, TaskAlreadyExists) for outcome in outcomes] == [False, True, False]
    assert listed(single_broker) == {"pending": ["t1", "t2"]}


@pytest.mark.parametrize("completed", [1, 2])
def test_a_batch_that_is_run_again_queues_no_task_that_was_completed_and_deleted(
    broker: Broker, stopped_clock: None, completed: int
) -> None:
    tasks = [new_task("t1", retention_s=0), new_task("t2", retention_s=0)]
    broker.run(enqueue_many(broker, tasks))
    for taken in take(broker, completed):
        broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    outcomes = broker.run(enqueue_many(broker, tasks))

    assert outcomes == [TaskState.PENDING] * 2
    assert listed(broker) == ({} if completed == 2 else {"pending": ["t2"]})
