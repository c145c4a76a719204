"""Which runs a cancellation ends when two queues have tasks of the same id, by the program that publishes it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.dequeue import QueueWeight
from runqy.core.environment.connection_urls import RedisTarget
from tests.support import environment, event_loop
from tests.support.event_loop import wait_until
from tests.support.redis_client import redis_of
from tests.support.tasks import listed, put, take
from workers.runtime.consumer import Consumer
from workers.runtime.consumer_state import ConsumeConfig
from workers.runtime.redis_connections import RedisConnections, WorkerSubscription
from workers.runtime.retries import QueuePolicy
from workers.runtime.task_runs import Run, RunResult, RunStatus

TARGET = RedisTarget(addresses=(("127.0.0.1", environment.SERVER.port),))
QUEUES = ("cancel_a", "cancel_b")
OTHER = "cancel_of_another_worker"
ID = "t1"
WAKE_TOKEN = "2f1c7a52-9f0b-4c1e-8a43-0d2a5c7e9b16:0a1b2c3d4e5f"


@dataclass
class HoldingPool:
    """Runs tasks until they are ended."""

    consumer: Consumer
    held: list[Run] = field(default_factory=list)
    is_ready: bool = True
    capacity: int = 100

    def submit(self, *runs: Run) -> None:
        for run in runs:
            self.held.append(run)
            self.consumer.run_started(run)

    def end_run(self, run: Run, result: RunResult) -> None:
        self.consumer.run_ended(run, result)

    def requeue_unstarted(self) -> None:
        pass

    def check_runs(self, now_s: float) -> None:
        pass


def config(wake_token: str) -> ConsumeConfig:
    return ConsumeConfig(
        worker_id="w1",
        wake_token=wake_token,
        concurrency=4,
        weights=tuple(QueueWeight(queue=queue) for queue in QUEUES),
        is_strict=False,
        policy=QueuePolicy(),
    )


def put_same_id(broker: Broker, queue: str) -> None:
    """Enqueue a task as asynq's clients do: without a lookup, which lets its id be used once."""
    put(broker, ID, queue=queue)
    redis_of(broker).delete(keys.lookup(ID))


def cancel_by_runqy(queue: str) -> Callable[[Broker], object]:
    return lambda broker: broker.run(cancel(queue, ID, now_ns=broker.now_ns()))


def cancel_by_asynq(broker: Broker) -> object:
    return redis_of(broker).publish(keys.CANCEL_CHANNEL, ID)


def cancel_by_older_server(broker: Broker) -> object:
    redis_of(broker).hset(keys.QueueKeys(QUEUES[0]).task(ID), "cancel", broker.now_ns())
    return cancel_by_asynq(broker)


OLDER = "wake"
"""A token without a process, as workers of the release before have them."""


@pytest.mark.parametrize(
    ("cancel_task", "wake_token", "ended"),
    [
        (cancel_by_runqy(QUEUES[0]), WAKE_TOKEN, {QUEUES[0]}),
        (cancel_by_runqy(QUEUES[0]), OLDER, {QUEUES[0]}),
        (cancel_by_runqy(OTHER), WAKE_TOKEN, set()),
        (cancel_by_older_server, WAKE_TOKEN, {QUEUES[0]}),
        (cancel_by_asynq, WAKE_TOKEN, {*QUEUES}),
    ],
    ids=["own channel", "leased before an upgrade", "another worker's", "older server", "asynq's tools"],
)
def test_a_cancellation_ends_only_the_runs_that_are_meant(
    single_broker: Broker, cancel_task: Callable[[Broker], object], wake_token: str, ended: set[str]
) -> None:
    for queue in (OTHER, *QUEUES):
        put_same_id(single_broker, queue)
    take(single_broker, 1, OTHER)
    put(single_broker, "last", queue=QUEUES[1])

    async def act() -> set[str]:
        connections = RedisConnections(TARGET)
        await connections.acquire()
        consumer = Consumer(connections, config(wake_token))
        subscription = WorkerSubscription(WAKE_TOKEN, consumer.receive_cancellation)
        await connections.listen(subscription)
        pool = HoldingPool(consumer)
        consumer.begin(pool)  # type: ignore[arg-type]
        await wait_until(lambda: len(pool.held) == 3)
        last = next(run for run in pool.held if run.task_id == "last")

        cancel_task(single_broker)
        redis_of(single_broker).publish(keys.CANCEL_CHANNEL, "last")
        await wait_until(lambda: last.result)

        canceled = {run.task.lease.queue for run in pool.held if run is not last and run.result}
        consumer.stop_dequeuing()
        for run in pool.held:
            consumer.run_ended(run, RunResult(RunStatus.SUCCEEDED, output=b"1"))
        await consumer.emptied.wait()
        connections.unsubscribe(subscription)
        await consumer.close()
        await connections.release()
        return canceled

    assert event_loop.run(act()) == ended
    states = {queue: listed(single_broker, queue) for queue in QUEUES}
    assert {queue for queue in QUEUES if ID in states[queue].get("archived", ())} == ended
