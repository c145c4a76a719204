"""Finding and reading tasks."""

from collections.abc import Iterator, Sequence

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.constants import LARGE_BYTES
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.request import Request
from runqy.broker.scripts import Command, command
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.finish import Failure, archive, complete, retry
from runqy.broker.tasks.reader import find_task, read_states, read_tasks
from runqy.errors import TaskNotFound
from tests.support.links import Execute, count_round_trips, wrap_link
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, take, take_one

NOW_NS = 1_700_000_000_500_000_000
NOW_S = 1_700_000_000
KEYS = QueueKeys(QUEUE)


@pytest.fixture
def round_trips(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the round trips of a broker."""
    return count_round_trips(monkeypatch, broker)


def test_a_task_is_found_by_its_id_in_one_round_trip_or_two_in_a_cluster(
    broker: Broker, round_trips: list[int]
) -> None:
    put(broker, "t1")
    round_trips.clear()

    record = broker.run(find_task(broker, "t1", ["other"]))

    assert (record.id, record.queue, record.state, record.payload) == ("t1", QUEUE, TaskState.PENDING, b'{"n":1}')
    assert len(round_trips) == (2 if broker.is_cluster else 1)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384, LARGE_BYTES + 1])
def test_redis_does_not_send_a_payload_that_is_not_wanted(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    put(broker, "t1", payload=b"x" * size, headers={"a": "b"})
    message = broker.run(find_task(broker, "t1")).message
    message.ClearField("payload")
    replies: list[list[Reply]] = []

    async def keep(execute: Execute, commands: Sequence[Command]) -> list[Reply]:
        replies.append(await execute(commands))
        return replies[-1]

    wrap_link(monkeypatch, broker, keep)

    record = broker.run(find_task(broker, "t1", wants_payload=False))

    # A large reply would cost another one.
    assert len(replies) == (2 if broker.is_cluster else 1)
    assert "x" * 100 not in repr(replies)
    assert (record.message, record.has_payload) == (message, False)


def test_a_payload_that_another_encoder_wrote_first_is_left_out_too(single_broker: Broker) -> None:
    put(single_broker, "t1", payload=b"secret")
    whole = single_broker.run(find_task(single_broker, "t1")).message.SerializeToString()
    payload = b"\x12\x06secret"
    reordered = payload + whole.replace(payload, b"")
    broken = b"\x0a" + b"\xff" * 1000
    for stored in (reordered, reordered.replace(payload, b"") + payload, broken, b"\x12\xff\xff\xff", b""):
        redis_of(single_broker).hset(KEYS.task("t1"), "msg", stored)

        record = single_broker.run(find_task(single_broker, "t1", wants_payload=False))

        assert (record.id, record.payload) == ("t1", b"")


def test_a_task_without_lookup_is_found_in_the_known_queues(broker: Broker, round_trips: list[int]) -> None:
    put(broker, "t1")
    redis_of(broker).delete(keys.lookup("t1"))
    round_trips.clear()

    record = broker.run(find_task(broker, "t1", ["a", "b", QUEUE]))

    assert record.queue == QUEUE
    assert len(round_trips) == 2
    with pytest.raises(TaskNotFound):
        broker.run(find_task(broker, "t1", ["a", "b"]))


def test_a_lookup_that_points_nowhere_does_not_hide_the_task(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(keys.lookup("t1"), "queue", "elsewhere")

    assert broker.run(find_task(broker, "t1", ["a", QUEUE])).queue == QUEUE


@pytest.mark.parametrize("has_lookup", [True, False])
def test_a_lookup_without_a_task_is_no_task(broker: Broker, has_lookup: bool) -> None:
    if has_lookup:
        redis_of(broker).hset(keys.lookup("t1"), "queue", QUEUE)

    with pytest.raises(TaskNotFound):
        broker.run(find_task(broker, "t1", [QUEUE]))


def test_a_scheduled_task_has_the_time_of_its_run(broker: Broker) -> None:
    run_at_s = broker.now_s() + 60
    put(broker, "t1", process_at_s=run_at_s)

    record = broker.run(find_task(broker, "t1"))

    assert (record.state, record.next_process_at_s) == (TaskState.SCHEDULED, run_at_s)


def test_a_running_task_shows_its_worker_start_and_deadline(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)

    record = broker.run(find_task(broker, "t1"))

    assert (record.state, record.worker_id, record.score_s) == (TaskState.ACTIVE, "w1", taken.lease_end_s)
    assert record.enqueued_at_ns <= record.started_at_ns
    assert record.pending_since_ns is None
    assert record.next_process_at_s is None


def test_a_completed_task_has_its_result(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, b'{"a": 1}', now_ns=NOW_NS))

    record = broker.run(find_task(broker, "t1"))

    assert (record.state, record.result, record.completed_at_s) == (TaskState.COMPLETED, b'{"a": 1}', NOW_S)
    assert record.score_s == NOW_S + 86_400


def test_a_completed_task_has_its_time_in_nanoseconds(broker: Broker) -> None:
    put(broker, "t1", "t2")
    first, second = take(broker, 2)
    broker.run(complete(first.lease, first.message, now_ns=NOW_NS + 123))
    broker.run(complete(second.lease, second.message, now_ns=NOW_NS))
    task = QueueKeys(first.lease.queue).task("t2")
    asynqs_own = command("HDEL", task, "completed", key=task)
    broker.run(Request((asynqs_own,), lambda replies: replies[0]))

    ends = [broker.run(find_task(broker, task_id)).completed_at_ns for task_id in ("t1", "t2")]

    assert ends == [NOW_NS + 123, NOW_S * 10**9]
    assert broker.run(find_task(broker, "t1")).completed_at_s == NOW_S


def test_an_exact_end_of_an_earlier_run_does_not_count(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    broker.run(complete(taken.lease, taken.message, now_ns=NOW_NS))
    task = QueueKeys(taken.lease.queue).task("t1")
    broker.run(Request((command("HSET", task, "completed", str(NOW_NS - 10**10), key=task),), lambda _: None))

    assert broker.run(find_task(broker, "t1")).completed_at_ns == NOW_S * 10**9


def test_a_retry_has_its_error_and_the_time_of_the_next_attempt(broker: Broker) -> None:
    put(broker, "t1")
    taken = take_one(broker)
    failure = Failure(error="boom", retry_at_s=NOW_S + 15)
    broker.run(retry(taken.lease, taken.message, failure, now_ns=NOW_NS))

    record = broker.run(find_task(broker, "t1"))

    assert (record.state, record.error, record.retried) == (TaskState.RETRY, "boom", 1)
    assert record.next_process_at_s == NOW_S + 15


def test_an_archived_task_has_its_time_and_whether_it_was_cancelled(broker: Broker) -> None:
    put(broker, "t1", "t2")
    taken = take_one(broker)
    broker.run(archive(taken.lease, taken.message, error="boom", now_ns=NOW_NS))
    broker.run(cancel(QUEUE, "t2", now_ns=NOW_NS))

    given_up, canceled = broker.run(find_task(broker, "t1")), broker.run(find_task(broker, "t2"))

    assert (given_up.archived_at_s, given_up.is_canceled, given_up.error) == (NOW_S, False, "boom")
    assert (canceled.archived_at_s, canceled.is_canceled, canceled.error) == (NOW_S, True, "canceled")


def test_many_tasks_are_read_in_order_in_one_round_trip(broker: Broker, round_trips: list[int]) -> None:
    put(broker, "t1")
    put(broker, "t2", queue="other")
    positions = [("other", "t2"), (QUEUE, "none"), (QUEUE, "t1")]
    round_trips.clear()

    records, states = broker.run(read_tasks(broker, positions)), broker.run(read_states(positions))

    assert [record and record.id for record in records] == ["t2", None, "t1"]
    assert states == [TaskState.PENDING, None, TaskState.PENDING]
    assert len(round_trips) == 2


@pytest.mark.parametrize(
    "remnant", [{"result": "late"}, {"state": "pending"}, {"msg": "", "state": "nonsense"}, {"msg": "", "x": "y"}]
)
def test_a_remnant_is_no_task(broker: Broker, remnant: dict[str, str]) -> None:
    redis_of(broker).hset(KEYS.task("t1"), mapping=remnant)

    with pytest.raises(TaskNotFound):
        broker.run(find_task(broker, "t1", [QUEUE]))


def test_a_damaged_message_is_shown_as_damaged(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), "msg", b"\xff\xff\xff")

    record = broker.run(find_task(broker, "t1"))

    assert (record.id, record.state, record.error) == ("t1", TaskState.PENDING, "the stored message is damaged")


def test_fields_of_gos_worker_outside_the_message_are_read(broker: Broker) -> None:
    put(broker, "t1")
    redis_of(broker).hset(KEYS.task("t1"), mapping={"retried": "2", "error_msg": "boom", "pending_since": "junk"})

    record = broker.run(find_task(broker, "t1"))

    assert (record.retried, record.error, record.pending_since_ns) == (2, "boom", None)
    redis_of(broker).hset(KEYS.task("t1"), "pending_since", 1_800_000_000)
    assert broker.run(find_task(broker, "t1")).pending_since_ns == 1_800_000_000 * 10**9


def test_a_score_with_a_fraction_is_cut_off(broker: Broker) -> None:
    put(broker, "t1", process_at_s=broker.now_s() + 60)
    redis_of(broker).zadd(KEYS.scheduled, {"t1": 1_800_000_000.75})

    assert broker.run(find_task(broker, "t1")).next_process_at_s == 1_800_000_000


def test_invalid_numbers_are_unknown(broker: Broker) -> None:
    put(broker, "t1", process_at_s=broker.now_s() + 60)
    fields = dict.fromkeys(("pending_since", "enqueued", "started", "cancel", "child_deaths", "attempts"), "9" * 5000)
    redis_of(broker).hset(KEYS.task("t1"), mapping=fields)
    redis_of(broker).zadd(KEYS.scheduled, {"t1": float("inf")})

    record = broker.run(find_task(broker, "t1"))

    assert (record.next_process_at_s, record.started_at_ns, record.enqueued_at_ns, record.attempts) == (None,) * 3 + (
        0,
    )
