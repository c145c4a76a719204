"""Workers without children, in one process: the worker's own consumer and heartbeat on connections of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker.constants import HEARTBEAT_S
from runqy.broker.tasks.dequeue import QueueWeight
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.broker.workers.redis_users import new_wake_token
from runqy.core.environment.connection_urls import RedisTarget
from workers.runtime.consumer import Consumer
from workers.runtime.consumer_state import ConsumeConfig
from workers.runtime.heartbeat import WorkerIdentity, send_heartbeat
from workers.runtime.redis_connections import RedisConnections, WorkerSubscription
from workers.runtime.retries import QueuePolicy
from workers.runtime.task_runs import Run, RunResult, RunStatus

_SUCCESS = RunResult(RunStatus.SUCCEEDED, output=b"null")


@dataclass(eq=False)
class InstantPool:
    """Ends each run at once."""

    consumer: Consumer
    capacity: int
    ended: int = 0

    def submit(self, *runs: Run) -> None:
        self.ended += len(runs)
        for run in runs:
            self.consumer.run_started(run)
            self.consumer.run_ended(run, _SUCCESS)

    def requeue_unstarted(self) -> None:
        """Nothing waits for a child."""

    def check_runs(self, now_s: float) -> None:
        """No run takes time."""


class SimulatedWorker:
    """A worker of one queue."""

    def __init__(self, target: RedisTarget, queue: str, *, number: int, concurrency: int) -> None:
        instance_id = f"00000000-0000-4000-8000-{number:012}"
        self._connections = RedisConnections(target)
        self._identity = WorkerIdentity(
            worker_id=f"bench-{number}", instance_id=instance_id, server_id=f"{instance_id}-1"
        )
        self._queue, self._concurrency = queue, concurrency
        self._token = new_wake_token(instance_id)
        self._heartbeats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._connections.acquire()
        config = ConsumeConfig(
            worker_id=self._identity.worker_id,
            wake_token=self._token,
            concurrency=self._concurrency,
            weights=(QueueWeight(queue=self._queue),),
            is_strict=False,
            policy=QueuePolicy(),
        )
        self._consumer = Consumer(self._connections, config)
        self._pool = InstantPool(self._consumer, self._concurrency)
        self._listener = WorkerSubscription(self._token, lambda *_: self._consumer.wake())
        await self._connections.listen(self._listener)
        self._consumer.begin(self._pool)  # type: ignore[arg-type]
        self._heartbeats = asyncio.ensure_future(self._beat())

    @property
    def ended(self) -> int:
        """How many tasks it has run."""
        return self._pool.ended

    def pause(self) -> None:
        self._consumer.stop_dequeuing()

    def resume(self) -> None:
        self._consumer.resume()

    async def wait_until_recorded(self) -> None:
        await self._consumer.emptied.wait()

    async def stop(self) -> None:
        self.pause()
        await self.wait_until_recorded()
        if self._heartbeats:
            self._heartbeats.cancel()
        await self._consumer.close()
        self._connections.unsubscribe(self._listener)
        await self._connections.release()

    async def _beat(self) -> None:
        while True:
            record = WorkerRecord(
                worker_id=self._identity.worker_id,
                host=self._identity.host,
                pid=self._identity.pid,
                server_id=self._identity.server_id,
                queue=self._queue,
                redis_queues={self._queue: 1},
                concurrency=self._concurrency,
                state=WorkerState.READY,
                started_at_s=self._identity.started_at_s,
            )
            await self._connections.measure_clock()
            counted = self._consumer.counts.take([self._queue])
            runs = self._consumer.runs.values()
            lease_s = self._consumer.config.lease_s
            await send_heartbeat(self._connections.leases, record, runs, lease_s=lease_s, counted=counted)
            await asyncio.sleep(HEARTBEAT_S)


async def start_workers(
    target: RedisTarget, queues: Sequence[str], count: int, *, concurrency: int
) -> list[SimulatedWorker]:
    """Start workers, each of which serves one of the queues."""
    workers = [
        SimulatedWorker(target, queues[number % len(queues)], number=number, concurrency=concurrency)
        for number in range(count)
    ]
    await asyncio.gather(*(worker.start() for worker in workers))
    return workers
