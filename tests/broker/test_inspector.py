"""Running, archiving and deleting tasks on request."""

from collections.abc import Callable

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.inspector import (
    ActionOutcome,
    apply_to_all,
    archive_tasks,
    delete_tasks,
    release_tasks,
    run_tasks,
)
from tests.support.redis_client import redis_of
from tests.support.subscriptions import subscribed
from tests.support.tasks import QUEUE, fields, listed, message, put, take, take_one

KEYS = QueueKeys(QUEUE)
LOCK = KEYS.lock("order-1")
WAITING = ["pending", "scheduled", "retry", "aggregating"]


def put_in(broker: Broker, state: str, task_id: str = "t1") -> None:
    """Bring a task into a state; it owns a lock."""
    now_ns = broker.now_ns()
    put(broker, task_id, process_at_s=broker.now_s() + 600 if state == "scheduled" else None)
    if state in ("retry", "archived", "completed", "active"):
        taken = take_one(broker)
    if state == "retry":
        failure = Failure(error="boom", retry_at_s=broker.now_s() + 600)
        broker.run(retry(taken.lease, taken.message, failure, now_ns=now_ns))
    if state == "archived":
        broker.run(archive(taken.lease, taken.message, error="boom", now_ns=now_ns))
    if state == "completed":
        broker.run(complete(taken.lease, taken.message, b"1", now_ns=now_ns))
    if state == "aggregating":
        redis_of(broker).lrem(KEYS.pending, 0, task_id)
        redis_of(broker).hset(KEYS.task(task_id), mapping={"state": "aggregating", "group": "g"})
        redis_of(broker).zadd(KEYS.group("g"), {task_id: 1})
        redis_of(broker).sadd(KEYS.groups, "g")
    redis_of(broker).hset(KEYS.task(task_id), "unique_key", LOCK)
    redis_of(broker).set(LOCK, task_id)


def run_one(broker: Broker) -> ActionOutcome:
    """Return the outcome of running the task."""
    return broker.run(run_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))[0]


def archive_one(broker: Broker) -> ActionOutcome:
    """Return the outcome of archiving the task."""
    return broker.run(archive_tasks(QUEUE, ["t1"], now_ns=broker.now_ns()))[0]


def delete_one(broker: Broker) -> ActionOutcome:
    """Return the outcome of deleting the task."""
    return broker.run(delete_tasks(QUEUE, ["t1"]))[0]


@pytest.mark.parametrize("state", [*WAITING, "archived", "completed"])
def test_a_deleted_task_leaves_nothing_behind(broker: Broker, state: str) -> None:
    put_in(broker, state)

    assert delete_one(broker) is ActionOutcome.DONE

    assert listed(broker) == {}
    assert not redis_of(broker).exists(KEYS.task("t1"))
    assert not redis_of(broker).exists(LOCK)
    assert not redis_of(broker).exists(KEYS.groups)
    assert delete_one(broker) is ActionOutcome.NOT_FOUND


def test_the_lock_of_another_task_outlives_a_delete(broker: Broker) -> None:
    put_in(broker, "pending")
    redis_of(broker).set(LOCK, "another")

    delete_one(broker)

    assert redis_of(broker).get(LOCK) == b"another"


@pytest.mark.parametrize("verb", [run_one, archive_one, delete_one])
def test_a_running_task_is_not_changed(broker: Broker, verb: Callable[[Broker], ActionOutcome]) -> None:
    put_in(broker, "active")
    before = fields(broker, "t1"), listed(broker)

    assert verb(broker) is ActionOutcome.RUNNING
    assert (fields(broker, "t1"), listed(broker)) == before


@pytest.mark.parametrize("verb", [run_one, archive_one, delete_one])
def test_a_task_held_by_an_aggregator_is_not_changed(broker: Broker, verb: Callable[[Broker], ActionOutcome]) -> None:
    put_in(broker, "aggregating")
    redis_of(broker).delete(KEYS.group("g"))
    before = fields(broker, "t1")

    assert verb(broker) is ActionOutcome.WRONG_STATE
    assert fields(broker, "t1") == before


@pytest.mark.parametrize("verb", [run_one, archive_one, delete_one])
def test_a_missing_task_is_not_found(broker: Broker, verb: Callable[[Broker], ActionOutcome]) -> None:
    assert verb(broker) is ActionOutcome.NOT_FOUND


@pytest.mark.parametrize("state", WAITING)
def test_an_archived_task_is_kept_and_frees_its_lock(broker: Broker, state: str) -> None:
    put_in(broker, state)
    before_s = broker.now_s()

    assert archive_one(broker) is ActionOutcome.DONE

    assert listed(broker) == {"archived": ["t1"]}
    archived_s = int(fields(broker, "t1")["archived_at"])
    assert before_s <= archived_s <= broker.now_s()
    assert redis_of(broker).zscore(KEYS.archived, "t1") == archived_s + 259_200
    assert fields(broker, "t1")["state"] == b"archived"
    assert "pending_since" not in fields(broker, "t1")
    assert not redis_of(broker).exists(LOCK)
    assert archive_one(broker) is ActionOutcome.UNCHANGED


def test_a_completed_task_is_not_archived(broker: Broker) -> None:
    put_in(broker, "completed")

    assert archive_one(broker) is ActionOutcome.WRONG_STATE
    assert listed(broker) == {"completed": ["t1"]}


@pytest.mark.parametrize("state", ["scheduled", "retry", "aggregating", "archived", "completed"])
def test_a_task_that_is_run_is_pending_behind_the_others(broker: Broker, state: str) -> None:
    put_in(broker, state)
    put(broker, "other")
    before_ns = broker.now_ns()

    assert run_one(broker) is ActionOutcome.DONE
    assert before_ns <= int(fields(broker, "t1")["pending_since"]) <= broker.now_ns()
    assert listed(broker) == {"pending": ["other", "t1"]}
    assert run_one(broker) is ActionOutcome.UNCHANGED
    assert [taken.lease.task_id for taken in take(broker, 2)] == ["other", "t1"]


def test_an_archived_task_restarts(broker: Broker) -> None:
    put_in(broker, "archived")
    changed = message(broker, "t1")
    changed.retried, changed.completed_at = 3, 5
    stored = {"msg": changed.SerializeToString(), "retried": "2", "error_msg": "x", "child_deaths": "2", "cancel": "1"}
    stored["shared_deaths"] = "2"
    redis_of(broker).hset(KEYS.task("t1"), mapping=stored)
    redis_of(broker).expire(KEYS.task("t1"), 60)

    run_one(broker)

    again = message(broker, "t1")
    assert (again.retried, again.completed_at, again.payload, again.id) == (0, 0, changed.payload, "t1")
    assert redis_of(broker).ttl(KEYS.task("t1")) == -1
    assert not fields(broker, "t1").keys() & {
        "retried",
        "error_msg",
        "child_deaths",
        "shared_deaths",
        "cancel",
        "result",
    }


@pytest.mark.parametrize("holder", [None, "t1", "gone"])
def test_a_restarted_task_has_its_lock_again(broker: Broker, holder: str | None) -> None:
    put_in(broker, "archived")
    redis_of(broker).delete(LOCK)
    if holder:
        redis_of(broker).set(LOCK, holder)

    assert run_one(broker) is ActionOutcome.DONE
    assert redis_of(broker).get(LOCK) == b"t1"


def test_a_finished_task_is_not_run_while_another_has_its_lock(broker: Broker) -> None:
    put_in(broker, "archived")
    put_in(broker, "scheduled", "another")
    before = fields(broker, "t1")

    assert run_one(broker) is ActionOutcome.LOCKED
    assert (listed(broker), fields(broker, "t1")) == ({"archived": ["t1"], "scheduled": ["another"]}, before)
    assert redis_of(broker).get(LOCK) == b"another"


@pytest.mark.usefixtures("small_chunks")
def test_tasks_whose_locks_are_taken_do_not_keep_others_from_running(broker: Broker) -> None:
    for task_id in ("t1", "t2", "t3", "t4", "t5"):
        put_in(broker, "archived", task_id)
    for task_id in ("t4", "t5"):
        redis_of(broker).hdel(KEYS.task(task_id), "unique_key")
    put_in(broker, "scheduled", "another")

    swept = apply_to_all(broker, run_tasks, QUEUE, TaskState.ARCHIVED, limit=100)

    assert (swept.matched, swept.changed) == (5, 2)
    assert listed(broker) == {"archived": ["t1", "t2", "t3"], "pending": ["t4", "t5"], "scheduled": ["another"]}


def test_a_retry_that_is_run_early_keeps_its_count(broker: Broker) -> None:
    put_in(broker, "retry")

    run_one(broker)

    assert message(broker, "t1").retried == 1


def test_running_a_cancelled_task_removes_its_cancellation(broker: Broker) -> None:
    put(broker, "t1")
    broker.run(cancel(QUEUE, "t1", now_ns=broker.now_ns()))
    run_one(broker)

    taken = take_one(broker)
    failure = Failure(error="boom", retry_at_s=broker.now_s() + 600)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=broker.now_ns()))

    assert listed(broker) == {"retry": ["t1"]}


@pytest.mark.parametrize("verb", [archive_one, delete_one])
def test_clients_waiting_for_the_task_are_notified(
    single_broker: Broker, verb: Callable[[Broker], ActionOutcome]
) -> None:
    put(single_broker, "t1")
    with subscribed(redis_of(single_broker), keys.ended_channel("t1")) as subscription:
        verb(single_broker)

        assert subscription.next()[1] in (b"archived", b"deleted")


def test_idle_workers_are_woken_for_a_task_that_is_run(single_broker: Broker) -> None:
    put_in(single_broker, "archived")
    channel = keys.wake_channel("w")
    redis_of(single_broker).zadd(KEYS.idle, {channel: single_broker.now_ns() // 10**6 + 600_000})
    with subscribed(redis_of(single_broker), channel) as subscription:
        run_one(single_broker)

        assert subscription.next() == (channel, QUEUE.encode())


@pytest.mark.parametrize("channel", [keys.CANCEL_CHANNEL, keys.CHANGED_CHANNEL, "mail"])
def test_nothing_is_published_to_other_channels_than_those_of_idle_workers(single_broker: Broker, channel: str) -> None:
    put_in(single_broker, "archived")
    redis_of(single_broker).zadd(KEYS.idle, {channel: single_broker.now_ns() // 10**6 + 600_000})
    with subscribed(redis_of(single_broker), channel) as subscription:
        run_one(single_broker)

        assert subscription.has_none(for_s=0.2)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let three tasks need two script calls."""
    monkeypatch.setattr("runqy.broker.constants.BATCH_MAX_TASKS", 2)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("state", ["pending", "scheduled", "retry", "archived", "completed"])
def test_all_of_a_state_are_deleted_with_their_lookups(broker: Broker, state: str) -> None:
    for task_id in ("t1", "t2", "t3"):
        put_in(broker, state, task_id)

    swept = apply_to_all(broker, delete_tasks, QUEUE, TaskState(state), limit=100)

    assert (swept.matched, swept.changed) == (3, 3)
    assert listed(broker) == {}
    lookups = [keys.lookup(task_id) for task_id in ("t1", "t2", "t3")]
    assert not any(redis_of(broker).exists(key) for key in [*lookups, KEYS.task("t1"), KEYS.task("t3")])


@pytest.mark.usefixtures("small_chunks")
def test_at_most_the_limit_is_changed_oldest_first(broker: Broker) -> None:
    put(broker, "t1", "t2", "t3", "t4")

    swept = apply_to_all(broker, archive_tasks, QUEUE, TaskState.PENDING, limit=3)

    assert (swept.matched, swept.changed) == (4, 3)
    assert listed(broker) == {"pending": ["t4"], "archived": ["t1", "t2", "t3"]}


@pytest.mark.usefixtures("small_chunks")
def test_all_archived_tasks_are_run_in_order(broker: Broker) -> None:
    for task_id in ("t1", "t2", "t3"):
        put_in(broker, "archived", task_id)
        redis_of(broker).hdel(KEYS.task(task_id), "unique_key")

    apply_to_all(broker, run_tasks, QUEUE, TaskState.ARCHIVED, limit=100)

    assert listed(broker) == {"pending": ["t1", "t2", "t3"]}


@pytest.mark.parametrize("verb", [run_tasks, archive_tasks, delete_tasks, release_tasks])
def test_ids_without_a_task_and_of_another_state_leave_the_index(broker: Broker, verb: Callable[..., object]) -> None:
    put_in(broker, "scheduled", "t1")
    put_in(broker, "active", "t2")
    redis_of(broker).zadd(KEYS.scheduled, {"ghost": 1, "t2": 2})

    swept = apply_to_all(broker, verb, QUEUE, TaskState.SCHEDULED, limit=100)

    assert (swept.matched, swept.changed) == (3, 1)
    assert not redis_of(broker).exists(KEYS.scheduled)
    assert listed(broker)["active"] == ["t2"]
