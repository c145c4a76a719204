"""Enqueueing and reading tasks as operations, on a broker that the caller chooses."""

from collections.abc import Sequence

import pytest
import redis as redis_py

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from queues.queries import run_with_fresh_catalog, with_fresh_catalog
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.replies import Reply
from runqy.broker.scripts import Command
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import IdempotencyKey, NewTask
from runqy.configuration import snapshot
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, QueueFull, QueueNotFound, TaskNotFound
from tasks.enqueue_many import RequestedTasks, enqueue_tasks
from tasks.operations import enqueue_task
from tasks.queries import get_task
from tests.configuration.support import elsewhere
from tests.queues.samples import spec
from tests.support.links import Execute, wrap_link
from tests.support.redis_client import redis_of
from tests.support.servers import free_port

pytestmark = pytest.mark.usefixtures("queues")


def lose_connection(monkeypatch: pytest.MonkeyPatch, broker: Broker, *, after: int) -> None:
    """Lose a broker's connection after some round trips, before the next commands are sent."""
    left = iter(range(after))

    async def count_down(execute: Execute, commands: Sequence[Command]) -> list[Reply]:
        if next(left, None) is None:
            raise BrokerUnavailable
        return await execute(commands)

    wrap_link(monkeypatch, broker, count_down)


def task(queue: str = "simple", **options: object) -> NewTask:
    """Return a requested task."""
    return NewTask.requested(queue=queue, payload=b"{}", **options)


@pytest.mark.parametrize("options", [{}, {"unique_key": "u"}])
def test_a_task_that_its_full_queue_refuses_leaves_no_lookup(broker: Broker, options: dict[str, object]) -> None:
    save_queue(spec=spec("small", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)
    broker.run(enqueue_task(broker, task("small")))

    with pytest.raises(QueueFull):
        broker.run(enqueue_task(broker, task("small", **options)))

    assert len(list(redis_of(broker).scan_iter(keys.lookup("*")))) == 1


def test_the_result_of_a_task_that_is_awaited_is_kept_for_a_minute(single_broker: Broker) -> None:
    awaited = single_broker.run(enqueue_task(single_broker, task(retention_s=0), is_awaited=True))

    assert awaited.record.message.retention == 60
    assert (
        single_broker.run(enqueue_task(single_broker, task(retention_s=90), is_awaited=True)).record.message.retention
        == 90
    )


def test_a_task_is_queued_and_read_on_any_broker(broker: Broker) -> None:
    enqueued = broker.run(enqueue_task(broker, task("inference.high")))

    record = broker.run(get_task(broker, enqueued.record.id))

    assert (record.id, record.queue, record.state) == (enqueued.record.id, "inference_high", TaskState.PENDING)
    with pytest.raises(TaskNotFound):
        broker.run(get_task(broker, enqueued.record.id, allowed_queues=frozenset({"simple"})))


def test_a_repeated_request_returns_the_task_of_the_first(broker: Broker) -> None:
    idempotency_key = IdempotencyKey(scope="s", fingerprint="f")
    first = broker.run(enqueue_task(broker, task(), idempotency_key=idempotency_key))

    second = broker.run(enqueue_task(broker, task(), idempotency_key=idempotency_key))

    assert (second.record.id, second.is_replayed) == (first.record.id, True)
    assert redis_of(broker).llen(QueueKeys("simple").pending) == 1


def test_a_task_with_the_same_unique_key_is_returned(broker: Broker) -> None:
    unique = task(unique_key="invoice 7", returns_existing=True)
    first = broker.run(enqueue_task(broker, unique))

    second = broker.run(enqueue_task(broker, unique))

    assert (second.record.id, second.is_existing) == (first.record.id, True)
    assert redis_of(broker).llen(QueueKeys("simple").pending) == 1


def test_an_unknown_queue_is_refused_without_a_round_trip() -> None:
    away = Broker(RedisTarget(addresses=(("127.0.0.1", free_port()),)))
    spec = RequestedTasks("unknown", [task("unknown")])
    for operation in (enqueue_task(away, task("unknown")), enqueue_tasks(away, spec=spec)):
        with pytest.raises(QueueNotFound):
            away.run(operation)


def test_an_operation_reads_only_the_snapshot_of_its_process(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with elsewhere():
        save_queue(spec=spec("new"), source=QueueSource.API)
    monkeypatch.setattr(snapshot, "get_broker", pytest.fail)

    with pytest.raises(QueueNotFound):
        single_broker.run(enqueue_task(single_broker, task("new")))
    snapshot.forget()
    with pytest.raises(ConfigurationUnavailable):
        single_broker.run(enqueue_task(single_broker, task("new")))


def test_a_blocking_caller_finds_a_queue_that_another_process_has_just_saved() -> None:
    with elsewhere():
        save_queue(spec=spec("new"), source=QueueSource.API)

    assert run_with_fresh_catalog(enqueue_task, task("new")).record.queue == "new"
    snapshot.forget()
    assert run_with_fresh_catalog(enqueue_task, task("new")).record.queue == "new"


def test_an_operation_is_repeated_only_on_a_newer_configuration() -> None:
    calls: list[int] = []

    def find_none() -> None:
        calls.append(1)
        raise QueueNotFound

    with pytest.raises(QueueNotFound):
        with_fresh_catalog(find_none)
    assert len(calls) == 1

    with elsewhere():
        save_queue(spec=spec("new"), source=QueueSource.API)
    with pytest.raises(QueueNotFound):
        with_fresh_catalog(find_none)
    assert len(calls) == 3


def test_a_batch_that_loses_redis_reports_the_tasks_that_are_not_enqueued(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    lose_connection(monkeypatch, single_broker, after=2)

    batch = single_broker.run(enqueue_tasks(single_broker, spec=RequestedTasks("simple", [task()] * 1200)))

    errors = [result.error and result.error.code for result in batch.results]
    assert errors == [None] * 1000 + ["broker_unavailable"] * 200
    assert redis.llen(QueueKeys("simple").pending) == 1000


def test_a_batch_that_finds_no_redis_is_unavailable_as_a_whole(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_connection(monkeypatch, single_broker, after=0)

    with pytest.raises(BrokerUnavailable):
        single_broker.run(enqueue_tasks(single_broker, spec=RequestedTasks("simple", [task()] * 2)))


def test_a_batch_with_an_idempotency_key_that_loses_redis_is_completed_by_its_repetition(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    batch, idempotency_key = RequestedTasks("simple", [task()] * 700), IdempotencyKey(scope="s", fingerprint="f")
    with monkeypatch.context() as away:
        lose_connection(away, single_broker, after=2)
        with pytest.raises(BrokerUnavailable):
            single_broker.run(enqueue_tasks(single_broker, spec=batch, idempotency_key=idempotency_key))
    assert redis.llen(QueueKeys("simple").pending) == 500

    repeated = single_broker.run(enqueue_tasks(single_broker, spec=batch, idempotency_key=idempotency_key))

    assert repeated.is_replayed
    assert len({result.task_id for result in repeated.results}) == 700
    assert redis.llen(QueueKeys("simple").pending) == 700
