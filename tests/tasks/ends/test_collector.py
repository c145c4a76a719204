"""Moving ends from Redis to their consumers."""

from collections.abc import Callable, Sequence

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection
from django.utils import timezone

from queues.deletion import delete_queue
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.keys import UNREAD_ENDS, QueueKeys
from runqy.broker.streams.ends import Notify, count_ends
from runqy.broker.tasks.finish import complete
from runqy.maintenance import streams
from runqy.maintenance.models import FailedRow
from tasks import ends as collector
from tasks.duties import TaskEnds
from tasks.ends import CollectedEnd, EndsCollector
from tasks.transactions import BatchSize
from tests.support.redis_client import redis_of
from tests.support.tasks import QUEUE, put, take_one
from tests.tasks.ends.conftest import consumer

NOTIFY = Notify(batch="b")


def finish(broker: Broker, *task_ids: str, queue: str = QUEUE) -> None:
    for task_id in task_ids:
        put(broker, task_id, queue=queue, notify=NOTIFY)
        taken = take_one(broker, queue)
        broker.run(complete(taken.lease, taken.message, b"1", now_ns=broker.now_ns()))


def collect(broker: Broker, *queues: str) -> set[str]:
    return EndsCollector().collect_all(broker, queues or (QUEUE,), None)


def waiting(broker: Broker, queue: str = QUEUE) -> int:
    return broker.run(count_ends(queue))


def test_the_duty_gives_each_end_to_the_consumers_with_its_queue(
    broker: Broker, save_queue: Callable[..., None], consumed: list[CollectedEnd]
):
    save_queue("orders", "high:5")
    (redis_queue,) = get_fresh_catalog(0).redis_queues()
    finish(broker, "t1", "t2", queue=redis_queue)
    finish(broker, "t3", queue="undefined")

    TaskEnds().run_tick(broker)

    assert [(each.end.task_id, each.redis_queue, each.queue) for each in consumed] == [
        ("t1", redis_queue, "orders"),
        ("t2", redis_queue, "orders"),
        ("t3", "undefined", "undefined"),
    ]
    assert consumed[0].position < consumed[1].position
    assert waiting(broker, redis_queue) == waiting(broker, "undefined") == 0


def test_streams_are_read_to_their_end(broker: Broker, consumed: list[CollectedEnd], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "READ_MAX", 2)
    monkeypatch.setattr(streams, "READ_MIN", 2)
    finish(broker, *(f"t{number}" for number in range(5)))
    redis_of(broker).xadd(QueueKeys(QUEUE).ends, {"end": "forged"})
    finish(broker, "last")

    assert collect(broker, QUEUE, "other") == {QUEUE, "other"}
    assert [each.end.task_id for each in consumed] == ["t0", "t1", "t2", "t3", "t4", "last"]
    assert waiting(broker) == 0


def test_no_end_is_skipped_when_transactions_become_smaller(
    broker: Broker, consumed: list[CollectedEnd], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(BatchSize, "adapt", lambda self, count, held_s: setattr(self, "value", 1))
    finish(broker, *(f"t{number}" for number in range(6)))

    EndsCollector(BatchSize(3)).collect_all(broker, [QUEUE], None)

    assert [each.end.task_id for each in consumed] == [f"t{number}" for number in range(6)]


def test_entries_stay_while_the_database_is_away(
    broker: Broker, consumed: list[CollectedEnd], monkeypatch: pytest.MonkeyPatch
):
    def fail(ends: Sequence[CollectedEnd]) -> None:
        raise OperationalError("gone")

    finish(broker, "t1")
    with monkeypatch.context() as patched:
        patched.setattr(collector, "_consumers", [consumer(fail)])
        TaskEnds().run_tick(broker)
    assert waiting(broker) == 1

    TaskEnds().run_tick(broker)
    assert [each.end.task_id for each in consumed] == ["t1"]


def test_an_end_that_the_database_refuses_does_not_stop_the_others(
    broker: Broker, consumed: list[CollectedEnd], monkeypatch: pytest.MonkeyPatch
):
    def refuse(ends: Sequence[CollectedEnd]) -> None:
        if "bad" in {each.end.task_id for each in ends}:
            raise DataError("too long")

    monkeypatch.setattr(collector, "_consumers", [consumer(refuse), consumer(consumed.extend)])
    finish(broker, "t1", "bad", "t2")

    collect(broker)

    assert [each.end.task_id for each in consumed] == ["t1", "t2"]
    assert waiting(broker) == 0


def test_an_end_is_stored_if_the_row_it_refers_to_is_deleted_meanwhile(
    broker: Broker, consumed: list[CollectedEnd], monkeypatch: pytest.MonkeyPatch
):
    """PostgreSQL checks foreign keys at the commit."""
    refusals = [IntegrityError("no such endpoint")]

    def refuse_once(ends: Sequence[CollectedEnd]) -> None:
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(collector, "_consumers", [consumer(refuse_once), consumer(consumed.extend)])
    finish(broker, "t1")

    collect(broker)

    assert [each.end.task_id for each in consumed] == ["t1"]


def test_an_end_that_cannot_be_consumed_stays_and_holds_up_no_other(
    broker: Broker, consumed: list[CollectedEnd], monkeypatch: pytest.MonkeyPatch
):
    def fail(ends: Sequence[CollectedEnd]) -> None:
        if any(each.end.task_id.startswith("evil") for each in ends):
            raise KeyError("unexpected")

    monkeypatch.setattr(streams, "READ_MIN", 2)
    monkeypatch.setattr(streams, "READ_MAX", 2)
    monkeypatch.setattr(collector, "_consumers", [consumer(fail), consumer(consumed.extend)])
    finish(broker, "evil1", "evil2", "t1", "t2", queue="mixed")
    finish(broker, "t3")

    read_through = collect(broker, "mixed", QUEUE)
    told = sorted(each.end.task_id for each in consumed)
    finish(broker, "t4", queue="mixed")
    collect(broker, "mixed")
    left = waiting(broker, "mixed")
    FailedRow.objects.update(paused_until=timezone.now())
    monkeypatch.setattr(collector, "_consumers", [consumer(consumed.extend)])

    assert (read_through, told, left) == ({QUEUE}, ["t1", "t2", "t3"], 2)
    assert collect(broker, "mixed") == {"mixed"}
    assert sorted(each.end.task_id for each in consumed) == ["evil1", "evil2", "t1", "t2", "t3", "t4"]
    assert not FailedRow.objects.exists()


def test_what_is_read_from_redis_is_read_before_the_transaction(
    broker: Broker, consumed: list[CollectedEnd], monkeypatch: pytest.MonkeyPatch
):
    seen: list[bool] = []

    def prepare(ends: Sequence[CollectedEnd]) -> Callable[[], None]:
        seen.append(connection.in_atomic_block)
        return lambda: seen.append(connection.in_atomic_block)

    monkeypatch.setattr(collector, "_consumers", [collector.Consumer(prepare), consumer(consumed.extend)])
    finish(broker, "t1")

    collect(broker)

    assert seen == [False, True]
    assert len(consumed) == 1


def test_ends_of_a_deleted_queue_are_those_of_its_name(
    broker: Broker, save_queue: Callable[..., None], consumed: list[CollectedEnd]
):
    save_queue("orders", "high:5", "low:1")
    redis_queues = get_fresh_catalog(0).redis_queues()
    for number, redis_queue in enumerate(redis_queues):
        put(broker, f"t{number}", queue=redis_queue, notify=NOTIFY)

    delete_queue(broker, name="orders", force=True)
    TaskEnds().run_tick(broker)

    assert {(each.end.task_id, each.queue, each.end.outcome.value) for each in consumed} == {
        ("t0", "orders", "deleted"),
        ("t1", "orders", "deleted"),
    }
    assert not redis_of(broker).exists(UNREAD_ENDS, *(QueueKeys(name).ends for name in redis_queues))
