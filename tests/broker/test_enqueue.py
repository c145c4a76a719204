"""Enqueuing one task."""

from collections.abc import Sequence

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply, ReplyLost
from runqy.broker.scripts import Command
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.tasks.finish import complete
from runqy.errors import TaskAlreadyExists
from tests.support.links import Execute, wrap_link
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, fields, listed, message, new_task, put, take_one

NOW_NS = 1_700_000_000_123_456_789
NOW_S = NOW_NS // 1_000_000_000


def test_a_task_is_stored_as_asynq_stores_it(broker: Broker) -> None:
    state = broker.run(enqueue(new_task("t1", headers={"trace": "x"}), now_ns=NOW_NS, is_cluster=broker.is_cluster))

    assert state is TaskState.PENDING
    assert listed(broker) == {"pending": ["t1"]}
    stamp = str(NOW_NS).encode()
    assert fields(broker, "t1") == {
        "state": b"pending",
        "pending_since": stamp,
        "enqueued": stamp,
        "ttl_archived": b"259200",
        "ttl_completed": b"86400",
        "active_timeout": b"1800",
    }
    stored = message(broker, "t1")
    assert (stored.id, stored.type, stored.queue, stored.payload) == ("t1", QUEUE, QUEUE, b'{"n":1}')
    assert (stored.retry, stored.timeout, stored.deadline, stored.retention) == (3, 1800, 0, 86_400)
    assert dict(stored.headers) == {"trace": "x"}


def test_a_task_can_be_looked_up_and_its_queue_is_known(broker: Broker) -> None:
    put(broker, "t1")

    assert redis_of(broker).hgetall(keys.lookup("t1")) == {b"queue": QUEUE.encode()}
    assert redis_of(broker).smembers(keys.QUEUES) == {QUEUE.encode()}


@pytest.mark.parametrize("is_cluster", [True, False])
def test_where_redis_is_no_cluster_one_command_does_it_all(single_broker: Broker, is_cluster: bool) -> None:
    request = enqueue(new_task("t1"), now_ns=NOW_NS, is_cluster=is_cluster)

    assert single_broker.run(request) is TaskState.PENDING
    assert len(request.commands) == (3 if is_cluster else 1)
    assert redis_of(single_broker).hgetall(keys.lookup("t1")) == {b"queue": QUEUE.encode()}
    assert listed(single_broker) == {"pending": ["t1"]}


def test_no_key_of_a_task_expires(broker: Broker) -> None:
    put(broker, "t1")

    assert redis_of(broker).ttl(QueueKeys(QUEUE).task("t1")) == -1


def test_tasks_wait_in_the_order_of_their_enqueueing(broker: Broker) -> None:
    put(broker, "t1", "t2", "t3")

    assert listed(broker)["pending"] == ["t1", "t2", "t3"]


def test_a_task_for_later_is_scheduled(broker: Broker) -> None:
    state = broker.run(enqueue(new_task("t1", process_at_s=NOW_S + 60), now_ns=NOW_NS, is_cluster=broker.is_cluster))

    assert state is TaskState.SCHEDULED
    assert listed(broker) == {"scheduled": ["t1"]}
    assert redis_of(broker).zscore(QueueKeys(QUEUE).scheduled, "t1") == NOW_S + 60
    assert "pending_since" not in fields(broker, "t1")


def test_a_past_time_does_not_schedule(broker: Broker) -> None:
    state = broker.run(enqueue(new_task("t1", process_at_s=NOW_S), now_ns=NOW_NS, is_cluster=broker.is_cluster))

    assert state is TaskState.PENDING


@pytest.mark.parametrize("process_at_s", [None, NOW_S + 60])
def test_refuses_an_id_that_is_taken(broker: Broker, process_at_s: int | None) -> None:
    broker.run(enqueue(new_task("t1", payload=b"first"), now_ns=NOW_NS, is_cluster=broker.is_cluster))

    with pytest.raises(TaskAlreadyExists):
        broker.run(
            enqueue(
                new_task("t1", payload=b"second", process_at_s=process_at_s),
                now_ns=NOW_NS + 1,
                is_cluster=broker.is_cluster,
            )
        )
    assert message(broker, "t1").payload == b"first"
    assert listed(broker) == {"pending": ["t1"]}


@pytest.mark.parametrize("process_at_s", [None, NOW_S + 60])
def test_a_request_that_is_run_again_queues_its_task_once(broker: Broker, process_at_s: int | None) -> None:
    request = enqueue(new_task("t1", process_at_s=process_at_s), now_ns=NOW_NS, is_cluster=broker.is_cluster)

    states = [broker.run(request), broker.run(request)]

    assert states[0] is states[1]
    assert [*listed(broker).values()] == [["t1"]]


def test_a_request_that_is_run_again_after_its_task_was_completed_and_deleted_queues_nothing(broker: Broker) -> None:
    request = enqueue(new_task("t1", retention_s=0), now_ns=NOW_NS, is_cluster=broker.is_cluster)
    broker.run(request)
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    state = broker.run(request)

    assert state is TaskState.PENDING
    assert listed(broker) == {}


def test_a_scheduled_task_that_was_completed_and_deleted_is_not_scheduled_again(broker: Broker) -> None:
    due_s = broker.now_s() - 1
    now_ns = (due_s - 60) * 10**9
    request = enqueue(new_task("t1", retention_s=0, process_at_s=due_s), now_ns=now_ns, is_cluster=broker.is_cluster)
    broker.run(request)
    broker.run(forward_due(broker, [QUEUE]))
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    state = broker.run(request)

    assert state is TaskState.SCHEDULED
    assert listed(broker) == {}


def test_the_id_of_a_deleted_task_can_be_used_by_another_request(broker: Broker) -> None:
    put(broker, "t1", retention_s=0)
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))

    put(broker, "t1", payload=b"second", retention_s=0)

    assert message(broker, "t1").payload == b"second"


@pytest.mark.parametrize(
    ("options", "timeout", "deadline"),
    [({"timeout_s": 0}, 1800, 0), ({"timeout_s": 0, "deadline_s": 99}, 0, 99), ({"timeout_s": 5}, 5, 0)],
)
def test_a_task_always_has_a_limit(options: dict[str, int], timeout: int, deadline: int) -> None:
    built = NewTask(id="t1", queue=QUEUE, payload=b"", **options).message()

    assert (built.timeout, built.deadline) == (timeout, deadline)


def lose_first_reply(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> None:
    """Lose a broker's next replies after Redis has run the commands."""
    losses = iter([ReplyLost()])

    async def lose(execute: Execute, commands: Sequence[Command]) -> list[Reply]:
        replies = await execute(commands)
        for error in losses:
            raise error
        return replies

    wrap_link(monkeypatch, broker, lose)


def test_a_repetition_after_a_lost_reply_is_not_a_conflict(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_first_reply(monkeypatch, single_broker)

    state = single_broker.run(enqueue(new_task("t1"), now_ns=single_broker.now_ns(), is_cluster=False))

    assert state is TaskState.PENDING
    assert listed(single_broker) == {"pending": ["t1"]}


def test_a_lost_reply_does_not_hide_that_the_id_was_taken(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(single_broker, "t1")
    lose_first_reply(monkeypatch, single_broker)

    with pytest.raises(TaskAlreadyExists):
        single_broker.run(enqueue(new_task("t1"), now_ns=single_broker.now_ns(), is_cluster=False))
