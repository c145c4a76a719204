"""Dequeuing and finishing over a connection that loses replies, on a single server and a cluster."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from runqy.broker.async_broker import AsyncBroker
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.stats import count_tasks
from runqy.broker.request import Request, raise_error
from runqy.broker.scripts import Command
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.dequeue import QueueWeight
from runqy.broker.tasks.lease import LeasedTask
from runqy.core.environment.connection_urls import RedisTarget
from runqy.errors import BrokerUnavailable
from tests.support import environment, event_loop
from tests.support.event_loop import wait_until
from tests.support.maintenance_duties import MovingClock
from tests.support.redis_client import redis_of
from tests.workers.processes import add_task
from workers.runtime.consumer import MIN_POLL_INTERVAL_S, Consumer
from workers.runtime.consumer_state import ConsumeConfig
from workers.runtime.heartbeat import RunCounts
from workers.runtime.redis_connections import RedisConnections
from workers.runtime.retries import QueuePolicy
from workers.runtime.task_runs import Run, RunResult, RunStatus, make_run

QUEUES = ("mail_high", "mail_low")
SINGLE = RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))


@dataclass
class LossyBroker:
    """Runs operations, and loses the replies of some round trips."""

    broker: AsyncBroker
    is_lost: Callable[[int], bool]
    round_trips: int = 0
    sizes: list[int] = field(default_factory=list)
    """How many bytes each round trip carried."""

    @property
    def is_cluster(self) -> bool:
        return self.broker.is_cluster

    async def send(self, request: Request[Any]) -> Any:
        (outcome,) = await self.send_all([request])
        return raise_error(outcome)

    async def send_all(self, requests: Sequence[Request[Any]]) -> list[Any]:
        self.sizes.append(sum(_size(command) for request in requests for command in request.commands))
        outcomes = await self.broker.send_all(requests)
        self.round_trips += 1
        if self.is_lost(self.round_trips):
            raise BrokerUnavailable("the reply was lost")
        return outcomes


def _size(command: Command) -> int:
    return sum(len(argument) for argument in command.args if isinstance(argument, str | bytes))


@dataclass
class InstantPool:
    """Ends each run immediately."""

    consumer: Consumer
    result: RunResult
    ids: list[str] = field(default_factory=list)
    on_submit: Callable[[str], object] = lambda _: None
    is_ready: bool = True
    capacity: int = 100

    def submit(self, *runs: Run) -> None:
        for run in runs:
            self.ids.append(run.task_id)
            self.on_submit(run.task_id)
            self.consumer.run_started(run)
            self.consumer.run_ended(run, self.result)

    def requeue_unstarted(self) -> None:
        pass

    def check_runs(self, now_s: float) -> None:
        pass


class RestartingPool(InstantPool):
    """Starts each run twice, as one whose batch failed, then ends it."""

    def submit(self, *runs: Run) -> None:
        for run in runs:
            self.consumer.run_started(run)
            run.runs_alone, run.started_ns = True, 0
            self.consumer.run_sent_again(run)
        super().submit(*runs)


@dataclass
class LatePool:
    """Ends each run a little later, and records how many runs it has meanwhile."""

    consumer: Consumer
    held: list[int]
    count: int = 0
    is_ready: bool = True
    capacity: int = 100

    def submit(self, *runs: Run) -> None:
        for run in runs:
            self.count += 1
            self.held.append(self.count)
            self.consumer.run_started(run)
            asyncio.get_running_loop().call_later(random.uniform(0, 0.003), self.end, run)

    def end(self, run: Run) -> None:
        self.count -= 1
        self.consumer.run_ended(run, RunResult(RunStatus.SUCCEEDED, output=b"1"))

    def requeue_unstarted(self) -> None:
        pass

    def check_runs(self, now_s: float) -> None:
        pass


def config(*queues: str) -> ConsumeConfig:
    return ConsumeConfig(
        worker_id="w1",
        wake_token="wake",
        concurrency=4,
        weights=tuple(QueueWeight(queue=queue, priority=n + 1) for n, queue in enumerate(queues)),
        is_strict=False,
        policy=QueuePolicy(),
    )


def drain(target: RedisTarget, count: int, is_lost: Callable[[int], bool]) -> tuple[list[str], int]:
    """Let a consumer dequeue and finish a number of tasks; return their ids and its round trips."""

    async def run() -> tuple[list[str], int]:
        connections = RedisConnections(target)
        await connections.acquire()
        connections.tasks = lossy = LossyBroker(connections.tasks, is_lost)  # type: ignore[assignment]
        consumer = Consumer(connections, config(*QUEUES))
        pool = InstantPool(consumer, RunResult(RunStatus.SUCCEEDED, output=b"1"))
        consumer.begin(pool)  # type: ignore[arg-type]
        async with asyncio.timeout(60):
            while len(pool.ids) < count:
                await asyncio.sleep(0.01)
            consumer.stop_dequeuing()
            await consumer.emptied.wait()
        await consumer.close()
        connections.tasks = lossy.broker
        await connections.release()
        return pool.ids, lossy.round_trips

    return event_loop.run(run())


@pytest.fixture
def target(broker: Broker, request: pytest.FixtureRequest) -> RedisTarget:
    """Return where the broker's Redis is."""
    return request.getfixturevalue("cluster_target") if broker.is_cluster else SINGLE


@pytest.mark.parametrize("lost_every", [3, 5])
def test_lost_replies_lose_no_task_and_run_none_twice(broker: Broker, target: RedisTarget, lost_every: int) -> None:
    ids = [add_task(broker, n, queue=QUEUES[n % 2]) for n in range(24)]

    seen, _ = drain(target, 24, lambda round_trip: round_trip % lost_every == 0)

    counts = broker.run(count_tasks(QUEUES, now_ns=broker.now_ns()))
    assert sorted(seen) == sorted(ids)
    assert sum(queue.completed for queue in counts) == 24
    assert sum(queue.active + queue.pending for queue in counts) == 0


def test_the_round_trip_that_records_also_dequeues(single_broker: Broker) -> None:
    for n in range(40):
        add_task(single_broker, n, queue=QUEUES[n % 2])

    _, round_trips = drain(SINGLE, 40, lambda _: False)

    assert round_trips <= 13


def test_tasks_dequeued_after_the_stop_are_requeued(single_broker: Broker) -> None:
    async def stop_during_a_dequeue() -> None:
        connections = RedisConnections(SINGLE)
        await connections.acquire()
        consumer = Consumer(connections, config("mail_low"))
        consumer.begin(InstantPool(consumer, RunResult(RunStatus.SUCCEEDED)))  # type: ignore[arg-type]
        while consumer.emptied.is_set():
            await asyncio.sleep(0)
        consumer.stop_dequeuing()
        async with asyncio.timeout(20):
            await consumer.emptied.wait()
        await consumer.close()
        await connections.release()

    add_task(single_broker, 1, queue="mail_low")

    event_loop.run(stop_during_a_dequeue())

    (counts,) = single_broker.run(count_tasks(["mail_low"], now_ns=single_broker.now_ns()))
    assert (counts.pending, counts.completed, counts.active) == (1, 0, 0)


def consume(act: Callable[[Consumer], Coroutine[Any, Any, None]]) -> None:
    """Use a consumer of one queue, and wait until it holds no task."""

    async def run() -> None:
        connections = RedisConnections(SINGLE)
        await connections.acquire()
        consumer = Consumer(connections, config("mail_low"))
        async with asyncio.timeout(20):
            await act(consumer)
            consumer.stop_dequeuing()
            await consumer.emptied.wait()
        await consumer.close()
        await connections.release()

    event_loop.run(run())


def test_a_task_whose_key_is_broken_keeps_no_other_from_being_recorded(single_broker: Broker) -> None:
    ids = [add_task(single_broker, n, queue="mail_low") for n in range(4)]

    def break_key(task_id: str) -> None:
        if task_id == ids[1]:
            redis_of(single_broker).set(QueueKeys("mail_low").task(task_id), "not a hash")

    async def act(consumer: Consumer) -> None:
        pool = InstantPool(consumer, RunResult(RunStatus.SUCCEEDED, output=b"1"), on_submit=break_key)
        consumer.begin(pool)  # type: ignore[arg-type]
        await wait_until(lambda: len(pool.ids) == 4)

    with capture_logs() as entries:
        consume(act)

    assert [entry["task_id"] for entry in entries if entry["event"] == "finish_failed"] == [ids[1]]
    (counts,) = single_broker.run(count_tasks(["mail_low"], now_ns=single_broker.now_ns()))
    assert counts.completed == 3


def test_a_bug_where_a_reply_is_handled_strands_no_run(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        add_task(single_broker, n, queue="mail_low")
    real, failures = RunCounts.record_outcome, [KeyError("a bug")]

    def fail_once(*arguments: Any) -> None:
        real(*arguments)
        while failures:
            raise failures.pop()

    async def act(consumer: Consumer) -> None:
        pool = InstantPool(consumer, RunResult(RunStatus.SUCCEEDED, output=b"1"))
        consumer.begin(pool)  # type: ignore[arg-type]
        await wait_until(lambda: len(pool.ids) == 4)

    monkeypatch.setattr(RunCounts, "record_outcome", fail_once)
    with capture_logs() as entries:
        consume(act)

    (counts,) = single_broker.run(count_tasks(["mail_low"], now_ns=single_broker.now_ns()))
    assert counts.completed == 4
    assert [entry["event"] for entry in entries if "failed" in entry["event"]] == ["round_trip_failed"]


def test_a_task_that_meets_a_bug_costs_no_other_one(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [add_task(single_broker, n, queue="mail_low") for n in range(4)]

    def make(task: LeasedTask, *, now_ns: int) -> Any:
        if task.lease.task_id == ids[1]:
            raise KeyError("a bug")
        return make_run(task, now_ns=now_ns)

    async def act(consumer: Consumer) -> None:
        pool = InstantPool(consumer, RunResult(RunStatus.SUCCEEDED, output=b"1"))
        consumer.begin(pool)  # type: ignore[arg-type]
        await wait_until(lambda: len(pool.ids) == 3)

    monkeypatch.setattr("workers.runtime.consumer.make_run", make)
    with capture_logs() as entries:
        consume(act)

    (counts,) = single_broker.run(count_tasks(["mail_low"], now_ns=single_broker.now_ns()))
    assert (counts.completed, counts.retry + counts.archived) == (3, 1)
    assert [entry["task_id"] for entry in entries if entry["event"] == "task_not_started"] == [ids[1]]


def test_a_cancel_replaces_a_requeue_that_was_not_sent(single_broker: Broker) -> None:
    ids = [add_task(single_broker, n, queue="mail_low") for n in range(4)]

    async def act(consumer: Consumer) -> None:
        def cancel_first(task_id: str) -> None:
            if task_id == ids[3]:
                consumer.stop_dequeuing()
                (token,) = [run.task.lease.token for run in consumer.runs.values() if run.task_id == ids[0]]
                consumer.cancel_run(token)

        pool = InstantPool(consumer, RunResult(RunStatus.REQUEUED), on_submit=cancel_first)
        consumer.begin(pool)  # type: ignore[arg-type]
        await wait_until(lambda: len(pool.ids) == 4)

    consume(act)

    keys = QueueKeys("mail_low")
    assert redis_of(single_broker).zrange(keys.archived, 0, -1) == [ids[0].encode()]
    assert redis_of(single_broker).llen(keys.pending) == 3


class RecordingLoop(asyncio.SelectorEventLoop):
    """Records for when callbacks are scheduled."""

    def __init__(self) -> None:
        self.due_s: list[float] = []
        super().__init__()

    def call_at(self, when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        self.due_s.append(when)
        return super().call_at(when, *args, **options)


def test_consumers_that_begin_together_poll_at_different_multiples_of_an_interval() -> None:
    async def poll() -> None:
        consumers = [Consumer(RedisConnections(SINGLE), config("mail_low")) for _ in range(40)]
        await asyncio.sleep(0)
        for consumer in consumers:
            await consumer.close()

    with asyncio.Runner(loop_factory=RecordingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, RecordingLoop)
        runner.run(poll())

    assert len(loop.due_s) == 40
    assert len({*loop.due_s}) > 2
    assert all((due_s / MIN_POLL_INTERVAL_S).is_integer() for due_s in loop.due_s)


def test_no_more_tasks_are_held_than_there_are_slots(single_broker: Broker) -> None:
    for n in range(200):
        add_task(single_broker, n, queue="mail_low")
    held: list[int] = []

    async def act(consumer: Consumer) -> None:
        pool = LatePool(consumer, held)
        consumer.begin(pool)  # type: ignore[arg-type]
        await wait_until(lambda: len(held) == 200)

    consume(act)

    assert max(held) == 4


def test_round_trips_carry_a_mebibyte_of_results_and_less_after_one_that_failed(single_broker: Broker) -> None:
    result = RunResult(RunStatus.SUCCEEDED, output=b'"' + b"x" * 200_000 + b'"')

    async def run() -> list[int]:
        connections = RedisConnections(SINGLE)
        await connections.acquire()
        connections.tasks = lossy = LossyBroker(connections.tasks, lambda n: n == 2)  # type: ignore[assignment]
        consumer = Consumer(connections, replace(config("mail_low"), concurrency=12))
        pool = InstantPool(consumer, result)
        consumer.begin(pool)  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            while len(pool.ids) < 12:
                await asyncio.sleep(0.01)
            consumer.stop_dequeuing()
            await consumer.emptied.wait()
        await consumer.close()
        connections.tasks = lossy.broker
        await connections.release()
        return [size // 200_000 for size in lossy.sizes]

    for n in range(12):
        add_task(single_broker, n, queue="mail_low")

    results = asyncio.run(run())

    assert results[:3] == [0, 5, 2]
    assert max(results) <= 5
    (counts,) = single_broker.run(count_tasks(["mail_low"], now_ns=single_broker.now_ns()))
    assert counts.completed == 12


def test_a_run_that_starts_again_is_under_way_once(single_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[RunCounts] = []

    async def act(consumer: Consumer) -> None:
        counts.append(consumer.counts)
        pool = RestartingPool(consumer, RunResult(RunStatus.SUCCEEDED, output=b"1"))
        consumer.begin(pool)  # type: ignore[arg-type]
        await wait_until(lambda: len(pool.ids) == 2)

    for number in range(2):
        add_task(single_broker, number, queue="mail_low")

    consume(act)
    MovingClock(monkeypatch).advance(3600)

    assert counts[0].mean_running == 0
    assert +counts[0].take(["mail_low"])["mail_low"].by_outcome() == {RunOutcome.COMPLETED: 2}
