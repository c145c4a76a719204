"""Lets clients wait for tasks on an event loop: each costs a future and a subscription, no thread."""

import asyncio
from collections import Counter

import msgspec
import structlog

from queues.names import AllowedQueues
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.pubsub import TaskEndSubscriber
from runqy.broker.reading import TaskProgress, read_progress
from runqy.broker.records import TaskRecord
from runqy.errors import BrokerUnavailable, RunqyError, TaskNotFound, TooManyWaiters
from tasks.queries import get_task

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""How often each waited-for task is looked at: only ends are published, and not by the workers of other systems."""
SLICES = 20
"""Into how many requests, spread evenly over POLL_S, the looks at all tasks are divided."""


class WaitingClient(msgspec.Struct, frozen=True, kw_only=True):
    """The client of a request that waits."""

    id: str
    """Of its key: one key has a share of all waiters."""
    allowed_queues: AllowedQueues = None
    holds_thread: bool = False
    """A thread blocks until the wait is over."""


class WaiterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many clients of a process may wait at once."""

    total: int
    threads: int
    """Of the total, those that hold a thread each."""

    @property
    def per_client(self) -> int:
        """Half of the total, so that no key keeps all others from waiting."""
        return (self.total + 1) // 2


class Waiter:
    """One client that waits for one task, until `leave`."""

    def __init__(
        self, waiters: "ResultWaiters", task_id: str, queue: str, client: WaitingClient, *, wants_changes: bool
    ) -> None:
        self.task_id, self.queue, self.client = task_id, queue, client
        self._waiters = waiters
        self._wants_changes = wants_changes
        self.progress: TaskProgress | None = None
        """How far the task was when it was read last."""
        self._woken = asyncio.Event()

    @property
    def is_draining(self) -> bool:
        """Return whether the wait is over because the process ends."""
        return self._waiters.is_draining

    async def read(self) -> TaskRecord:
        """Return the task. Raises TaskNotFound, BrokerUnavailable."""
        record = await self._waiters.read(self.task_id, self.client)
        self.queue = record.queue
        self.progress = TaskProgress(record.state, record.started_at_ns)
        return record

    async def wait(self, timeout_s: float) -> bool:
        """Return True as soon as the task has to be read again or the process drains, False after `timeout_s`."""
        if self.is_draining:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def wake(self) -> None:
        """Have the task read again."""
        self._woken.set()

    def compare(self, progress: TaskProgress | None) -> None:
        """Wake if this is what the client waits for; None: the task is gone."""
        if progress is None or (progress != self.progress if self._wants_changes else progress.state.is_final):
            self.wake()

    def leave(self) -> None:
        """End the wait. Ignored when it has ended."""
        self._waiters.discard(self)


class ResultWaiters:
    """The clients of a process that wait for tasks. For one event loop."""

    def __init__(self, broker: AsyncBroker, limits: WaiterLimits) -> None:
        self.is_draining = False
        self._broker = broker
        self.limits = limits
        self.active: set[Waiter] = set()
        self._slices: tuple[dict[str, set[Waiter]], ...] = tuple({} for _ in range(SLICES))
        """The waiters by the ids of their tasks; an id is always in the same slice."""
        self._client_counts: Counter[str] = Counter()
        self._thread_count = 0
        self._subscriber = TaskEndSubscriber(broker, on_end=self._wake_all_for)
        self._is_subscribing = False
        self._polling: asyncio.Task[None] | None = None

    async def wait_for_end(self, task_id: str, *, queue: str, client: WaitingClient, timeout_s: float) -> TaskRecord:
        """Return a task once it has ended, or as it is after `timeout_s` or when the process drains.

        `queue` is its Redis queue. Raises TooManyWaiters, TaskNotFound, BrokerUnavailable.
        """
        if self.is_draining:
            return await self.read(task_id, client)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        waiter = await self.add(task_id, queue=queue, client=client)
        waiter.wake()
        try:
            while True:
                is_over = not await waiter.wait(deadline_s - loop.time()) or self.is_draining
                try:
                    record = await waiter.read()
                except BrokerUnavailable:
                    if is_over:
                        raise
                    continue  # until a poll succeeds
                if is_over or record.state.is_final:
                    return record
                del record  # thousands may wait, and its payload may be large
        finally:
            waiter.leave()

    async def wait_for_queued(
        self, task_id: str, *, queue: str, client: WaitingClient, timeout_s: float
    ) -> TaskRecord | None:
        """Return a task that was queued just now, as `wait_for_end` does; None if it cannot be waited for.

        That is no error: the client would have the same task queued again.
        """
        try:
            return await self.wait_for_end(task_id, queue=queue, client=client, timeout_s=timeout_s)
        except (TooManyWaiters, BrokerUnavailable, TaskNotFound):
            return None

    async def read(self, task_id: str, client: WaitingClient) -> TaskRecord:
        """Return a task as it is. Raises TaskNotFound, BrokerUnavailable."""
        return await self._broker.run(get_task(task_id, allowed_queues=client.allowed_queues))

    async def add(self, task_id: str, *, queue: str, client: WaitingClient, wants_changes: bool = False) -> Waiter:
        """Return a waiter that misses no end from now on; the caller has it `leave`. Raises TooManyWaiters.

        It wakes when the task ends, or, where it wants changes, when its state changes or another run begins.
        """
        self._check_limits(client)
        waiter = Waiter(self, task_id, queue, client, wants_changes=wants_changes)
        self.active.add(waiter)
        self._slice_of(task_id).setdefault(task_id, set()).add(waiter)
        self._client_counts[client.id] += 1
        self._thread_count += client.holds_thread
        try:
            await self._start()
            await self._subscriber.watch(task_id)
        except asyncio.CancelledError:
            waiter.leave()
            raise
        return waiter

    def discard(self, waiter: Waiter) -> None:
        """Remove a waiter. Ignored when it is not there."""
        if waiter not in self.active:
            return
        self.active.remove(waiter)
        same_task = self._slice_of(waiter.task_id)[waiter.task_id]
        same_task.remove(waiter)
        if not same_task:
            del self._slice_of(waiter.task_id)[waiter.task_id]
        self._client_counts[waiter.client.id] -= 1
        if not self._client_counts[waiter.client.id]:
            del self._client_counts[waiter.client.id]
        self._thread_count -= waiter.client.holds_thread
        self._subscriber.unwatch(waiter.task_id)

    def drain(self) -> None:
        """End all waits at once with what is known; from now on nobody waits."""
        self.is_draining = True
        for waiter in self.active:
            waiter.wake()

    async def close(self) -> None:
        """Drain, and end the subscription and the polls."""
        self.drain()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        await self._subscriber.close()

    def _check_limits(self, client: WaitingClient) -> None:
        """Raise TooManyWaiters if one more is too many."""
        limits = self.limits
        if len(self.active) >= limits.total:
            raise TooManyWaiters
        if client.holds_thread and self._thread_count >= limits.threads:
            raise TooManyWaiters("As many threads wait for results as this server allows (RUNQY_WSGI_WAITERS).")
        if self._client_counts[client.id] >= limits.per_client:
            raise TooManyWaiters("This key has as many requests that wait as one may have: half of RUNQY_MAX_WAITERS.")

    async def _start(self) -> None:
        """Subscribe and poll, once there is a waiter."""
        if not self._is_subscribing:
            self._is_subscribing = True
            await self._subscriber.start()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.get_running_loop().create_task(self._poll())

    def _slice_of(self, task_id: str) -> dict[str, set[Waiter]]:
        return self._slices[hash(task_id) % SLICES]

    def _wake_all_for(self, task_id: str) -> None:
        for waiter in self._slice_of(task_id).get(task_id, ()):
            waiter.wake()

    async def _poll(self) -> None:
        """Look at the tasks of one slice after another for as long as there are waiters."""
        while self.active:
            for tasks in self._slices:
                await asyncio.sleep(POLL_S / SLICES)
                try:
                    await self._look_at(tasks)
                except RunqyError as error:
                    log.warning(error.code, loop="result_waiters", error=error.detail)
                    await asyncio.sleep(POLL_S)

    async def _look_at(self, tasks: dict[str, set[Waiter]]) -> None:
        """Read how far tasks are, in one round trip, and wake those who wait for that."""
        waiters = [waiter for same_task in tasks.values() for waiter in same_task]
        places = [(waiter.queue, waiter.task_id) for waiter in waiters]
        unique = list(dict.fromkeys(places))
        found = dict(zip(unique, await self._broker.run(read_progress(unique)), strict=True))
        for place, waiter in zip(places, waiters, strict=True):
            waiter.compare(found[place])
