"""Taking and recording over a connection that loses replies, on a single server and a cluster."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from runqy.broker.broker import Broker
from runqy.broker.consuming import Share
from runqy.broker.counting import count_tasks
from runqy.broker.links import Link, Reply
from runqy.broker.scripts import Command
from runqy.errors import BrokerUnavailable
from tests.workers.processes import add_task
from workers.runtime.consumer import Consumer
from workers.runtime.exchange import Exchange
from workers.runtime.runs import Ending, Fate, Run
from workers.runtime.settling import RetryPolicy
from workers.runtime.taking import Terms

QUEUES = ("mail_high", "mail_low")


@dataclass
class LosingLink:
    """Runs commands, and loses some of the replies."""

    link: Link
    is_lost: Callable[[int], bool]
    trips: int = 0

    @property
    def is_cluster(self) -> bool:
        return self.link.is_cluster

    def execute(self, commands: Sequence[Command]) -> list[Reply]:
        replies = self.link.execute(commands)
        self.trips += 1
        if self.is_lost(self.trips):
            raise BrokerUnavailable("the reply was lost")
        return replies


@dataclass
class InstantPool:
    """Ends each run at once."""

    consumer: Consumer
    ending: Ending
    ids: list[str] = field(default_factory=list)
    is_ready: bool = True
    capacity: int = 100

    def give(self, run: Run) -> None:
        self.ids.append(run.task_id)
        self.consumer.run_started(run)
        self.consumer.run_ended(run, self.ending)

    def return_unstarted(self) -> None:
        pass

    def check(self, now_s: float) -> None:
        pass


async def drain(broker: Broker, count: int, ending: Ending, **options: Any) -> list[str]:
    """Let a consumer take and end tasks until it has seen so many; returns their ids."""
    terms = Terms(
        worker_id="w1",
        shares=tuple(Share(queue=queue, priority=n + 1) for n, queue in enumerate(QUEUES)),
        is_strict=False,
        policy=RetryPolicy(),
    )
    exchange = Exchange(broker, on_refused=lambda: None)
    consumer = Consumer(exchange, terms, concurrency=4, wake_token="wake", **options)
    pool = InstantPool(consumer, ending)
    consumer.begin(pool)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        while len(pool.ids) < count:
            await asyncio.sleep(0.01)
        consumer.stop_taking()
        await consumer.emptied.wait()
    consumer.close()
    exchange.close()
    return pool.ids


@pytest.mark.parametrize("lost_every", [3, 5])
def test_lost_replies_lose_no_task_and_run_none_twice(broker: Broker, lost_every: int) -> None:
    ids = [add_task(broker, n, queue=QUEUES[n % 2]) for n in range(24)]
    link = broker.link
    broker.link = LosingLink(link, lambda trip: trip % lost_every == 0)

    seen = asyncio.run(drain(broker, 24, Ending(Fate.SUCCEEDED, result=b"1")))

    broker.link = link
    counts = broker.run(count_tasks(QUEUES, now_ns=broker.now_ns()))
    assert sorted(seen) == sorted(ids)
    assert sum(queue.completed for queue in counts) == 24
    assert sum(queue.active + queue.pending for queue in counts) == 0


def test_the_trip_that_records_also_takes(single_broker: Broker) -> None:
    for n in range(40):
        add_task(single_broker, n, queue=QUEUES[n % 2])
    link = LosingLink(single_broker.link, lambda _: False)
    single_broker.link = link

    asyncio.run(drain(single_broker, 40, Ending(Fate.SUCCEEDED, result=b"1")))

    assert link.trips <= 13


def test_what_comes_in_after_the_stop_goes_back(single_broker: Broker) -> None:
    async def stop_during_a_take() -> None:
        terms = Terms(worker_id="w1", shares=(Share(queue="mail_low"),), is_strict=False, policy=RetryPolicy())
        exchange = Exchange(single_broker, on_refused=lambda: None)
        consumer = Consumer(exchange, terms, concurrency=4, wake_token="wake")
        consumer.begin(InstantPool(consumer, Ending(Fate.SUCCEEDED)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        consumer.stop_taking()
        async with asyncio.timeout(20):
            await consumer.emptied.wait()
        consumer.close()
        exchange.close()

    add_task(single_broker, 1, queue="mail_low")

    asyncio.run(stop_during_a_take())

    (counts,) = single_broker.run(count_tasks(["mail_low"], now_ns=single_broker.now_ns()))
    assert counts.pending + counts.completed == 1
    assert counts.active == 0
