"""Wait for tasks on an event loop. Each client costs a future and a subscription, not a thread."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, TypeVar

import msgspec
import structlog

from queues.catalog import AllowedQueues
from runqy.broker.async_broker import AsyncBroker
from runqy.broker.pubsub import TaskEndSubscriber
from runqy.broker.tasks.chunks import TaskChunks
from runqy.broker.tasks.reader import TaskLocation, TaskStatus, read_statuses
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import BrokerUnavailable, InternalError, KeyRequired, RunqyError, TaskNotFound, TooManyWaiters
from tasks.queries import get_task, read_task_chunks

T = TypeVar("T")

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""How often each awaited task is read: only ends are published, and only by our own workers."""
SLICES = 20
"""The number of requests, spread evenly over POLL_S, that read all awaited tasks."""
CHECK_S = 1.0
"""How often the API keys of all waiting clients are checked, spread like the polls."""


class Watched(Enum):
    """The part of a task that a client waits for."""

    END = auto()
    STATE = auto()
    """The state, the run, the progress or the chunks change."""
    OUTPUT = auto()
    """The state, the run or the output changes."""

    def part_of(self, status: TaskStatus) -> tuple[object, ...]:
        part = (status.output,) if self is Watched.OUTPUT else (status.progress, status.chunks)
        return status.state, status.started_at_ns, *part


class WaitingClient(msgspec.Struct, frozen=True, kw_only=True):
    """The client of a request that waits."""

    id: str
    """The id of its key: one key may have only a share of all waiters."""
    allowed_queues: AllowedQueues = None
    wants_payload: bool = True
    """Its response has the payload of the task."""
    holds_thread: bool = False
    """A thread blocks until the wait is over."""
    is_accepted: Callable[[], bool] = lambda: True
    """Return whether its key is still valid and unchanged, by the snapshot of this process."""
    until_disconnect: Callable[[Coroutine[Any, Any, bool]], Awaitable[bool]] = lambda waiting: waiting
    """Run a coroutine; cancel it and raise ClientDisconnected when the client closes the connection."""


class WaiterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many clients of a process may wait at once."""

    total: int
    threads: int
    """The maximum of those that block a thread each."""

    @property
    def per_client(self) -> int:
        # Half of the total, so that one key does not exclude all others.
        return (self.total + 1) // 2


class Waiter:
    """One client that waits, until `leave` is called."""

    def __init__(self, waiters: "ResultWaiters", client: WaitingClient) -> None:
        self.client = client
        # What the client read last.
        self.status: Any = None
        self._waiters = waiters
        self._woken = asyncio.Event()
        self._error: Exception | None = None

    @property
    def is_draining(self) -> bool:
        return self._waiters.is_draining

    async def wait(self, timeout_s: float) -> bool:
        """Return True when there may be something new, the process drains, or the client's key is no longer accepted.

        Return False after `timeout_s`. Raise ClientDisconnected, and InternalError if nothing wakes it any more.
        """
        if self.is_draining:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self.client.until_disconnect(self._woken.wait())
        except TimeoutError:
            return False
        self._woken.clear()
        if self._error is not None:
            raise InternalError(reason=repr(self._error)) from self._error
        return True

    def wake(self) -> None:
        self._woken.set()

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        self._error = error
        self.wake()

    def leave(self) -> None:
        """End the wait. Ignored if it has ended."""
        self._waiters.discard(self)


class TaskWaiter(Waiter):
    """One client that waits for one task."""

    def __init__(
        self, waiters: "ResultWaiters", task_id: str, queue: str, client: WaitingClient, *, watched: Watched
    ) -> None:
        super().__init__(waiters, client)
        self.task_id, self.queue = task_id, queue
        self._watched = watched
        self.status: TaskStatus | None = None

    async def read(self) -> TaskRecord:
        """Return the task. Raise TaskNotFound, BrokerUnavailable."""
        record = await self._waiters.read(self.task_id, self.client)
        self.queue = record.queue
        self.status = TaskStatus(record.state, record.started_at_ns)
        return record

    def wake_follower(self) -> None:
        """Wake the client if it follows what the task streams."""
        if self._watched is Watched.STATE:
            self.wake()

    def compare(self, status: TaskStatus | None) -> None:
        """Wake the client if this is what it waits for. None: the task was deleted."""
        if status is None:
            self.wake()
            return
        if self._watched is Watched.END:
            if status.state.is_final:
                self.wake()
            return
        if self.status is None or self._watched.part_of(self.status) != self._watched.part_of(status):
            self.wake()  # and again after the next poll, if the client could not read the task

    def leave(self) -> None:
        self._waiters.discard_task_waiter(self)


class ResultWaiters:
    """The clients of a process that wait, on one event loop: for tasks, or for what others read."""

    def __init__(self, broker: AsyncBroker, limits: WaiterLimits) -> None:
        self.is_draining = False
        self.broker = broker
        self.limits = limits
        self.active: set[Waiter] = set()
        # The waiters by the ids of their tasks. An id is always in the same slice.
        self._slices: tuple[dict[str, set[TaskWaiter]], ...] = tuple({} for _ in range(SLICES))
        self._client_counts: Counter[str] = Counter()
        # The reads that have not begun.
        self._readings: dict[tuple[TaskLocation, int, int], asyncio.Task[tuple[TaskStatus, TaskChunks]]] = {}
        self._thread_count = 0
        self._subscriber = TaskEndSubscriber(broker, on_end=self._wake_all_for, on_chunks=self._wake_followers_of)
        self._is_subscribing = False
        # The polls and the checks of clients. They run while there are waiters.
        self._background: dict[str, asyncio.Task[None]] = {}

    async def wait_for_end(
        self,
        task_id: str,
        *,
        queue: str,
        client: WaitingClient,
        timeout_s: float,
        on_wait: Callable[[], None] = lambda: None,
    ) -> TaskRecord:
        """Return a task once it has ended, or in its state after `timeout_s` or when the process drains.

        `queue` is its Redis queue. `on_wait` is called when the wait begins, if it does. Raise KeyRequired soon after
        the client's key was revoked or changed, or has expired, ClientDisconnected, TooManyWaiters, TaskNotFound,
        BrokerUnavailable, InternalError.
        """
        if self.is_draining:
            return await self.read(task_id, client)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        waiter = await self.add(task_id, queue=queue, client=client)
        waiter.wake()  # the task may have ended before it was watched
        try:
            on_wait()
            while True:
                is_over = not await waiter.wait(deadline_s - loop.time()) or self.is_draining
                if not client.is_accepted():
                    raise KeyRequired
                try:
                    record = await waiter.read()
                except BrokerUnavailable:
                    if is_over:
                        raise
                    continue  # until a poll succeeds
                if is_over or record.state.is_final:
                    return record
                del record  # thousands of clients may wait, and payloads may be large
        finally:
            waiter.leave()

    async def wait_for_queued(
        self,
        task_id: str,
        *,
        queue: str,
        client: WaitingClient,
        timeout_s: float,
        on_wait: Callable[[], None] = lambda: None,
    ) -> TaskRecord | None:
        """Return a task that was just enqueued, like `wait_for_end`; None if waiting is not possible."""
        try:
            return await self.wait_for_end(task_id, queue=queue, client=client, timeout_s=timeout_s, on_wait=on_wait)
        except (TooManyWaiters, BrokerUnavailable, TaskNotFound, KeyRequired, InternalError):
            # Not an error for the client, which would enqueue the task again.
            return None

    async def read(self, task_id: str, client: WaitingClient) -> TaskRecord:
        """Return a task in its current state. Raise TaskNotFound, BrokerUnavailable."""
        return await get_task(
            self.broker, task_id, allowed_queues=client.allowed_queues, wants_payload=client.wants_payload
        )

    async def read_chunks(self, location: TaskLocation, *, run: int, offset: int) -> tuple[TaskStatus, TaskChunks]:
        """Return what `read_task_chunks` does. Clients that read from the same position at once share the read."""
        wanted = location, run, offset
        if (reading := self._readings.get(wanted)) is None:
            reading = self._readings[wanted] = asyncio.create_task(self._read_chunks(*wanted))
        return await asyncio.shield(reading)  # for the others too

    async def _read_chunks(self, location: TaskLocation, run: int, offset: int) -> tuple[TaskStatus, TaskChunks]:
        # Nobody joins once Redis is asked: the reply would not have what a client was woken for meanwhile.
        del self._readings[location, run, offset]
        return await read_task_chunks(self.broker, location, run=run, offset=offset)

    async def add(
        self, task_id: str, *, queue: str, client: WaitingClient, watched: Watched = Watched.END
    ) -> TaskWaiter:
        """Return a waiter that misses no end from now on. The caller must call its `leave`. Raise TooManyWaiters.

        It wakes when the task ends, when what is watched changes, and when the client's key is no longer accepted.
        """
        waiter = TaskWaiter(self, task_id, queue, client, watched=watched)
        self.enter(waiter)
        self._slice_of(task_id).setdefault(task_id, set()).add(waiter)
        try:
            if not self._is_subscribing:
                self._is_subscribing = True  # before the await, in which another waiter may come here
                await self._subscriber.start()
            self.keep_running("polls", self._poll, TaskWaiter)
            await self._subscriber.watch(task_id)
        except BaseException:
            waiter.leave()
            raise
        return waiter

    def enter(self, waiter: Waiter) -> None:
        """Count a waiter, and wake it when its client's key is no longer accepted. Raise TooManyWaiters."""
        client = waiter.client
        self._check_limits(client)
        self.active.add(waiter)
        self._client_counts[client.id] += 1
        self._thread_count += client.holds_thread
        self.keep_running("checks", self._check_clients, Waiter)

    def keep_running(
        self, name: str, function: Callable[[], Coroutine[Any, Any, None]], needed_by: type[Waiter]
    ) -> None:
        """Start a background function, unless it runs. It ends when it has nothing to do, or when this is closed.

        If it fails, so do the waiters of the type that needs it; the next one starts it again.
        """
        if name not in self._background or self._background[name].done():
            self._background[name] = asyncio.create_task(self._run(function, needed_by))

    async def _run(self, function: Callable[[], Coroutine[Any, Any, None]], needed_by: type[Waiter]) -> None:
        try:
            await function()
        except Exception as error:  # a bug is logged, and must not leave clients without what wakes them
            log.exception("background_task_failed", task=getattr(function, "__qualname__", ""))
            for waiter in self.active:
                if isinstance(waiter, needed_by):
                    waiter.fail(error)

    def discard(self, waiter: Waiter) -> bool:
        """Remove a waiter. Return False if it was removed before."""
        if waiter not in self.active:
            return False
        self.active.remove(waiter)
        self._client_counts[waiter.client.id] -= 1
        if not self._client_counts[waiter.client.id]:
            del self._client_counts[waiter.client.id]
        self._thread_count -= waiter.client.holds_thread
        return True

    def discard_task_waiter(self, waiter: TaskWaiter) -> None:
        if not self.discard(waiter):
            return
        same_task = self._slice_of(waiter.task_id)[waiter.task_id]
        same_task.remove(waiter)
        if not same_task:
            del self._slice_of(waiter.task_id)[waiter.task_id]
        self._subscriber.unwatch(waiter.task_id)

    def drain(self) -> None:
        """End all waits at once, and accept no new ones."""
        self.is_draining = True
        for waiter in self.active:
            waiter.wake()

    async def close(self) -> None:
        """Drain, and stop the subscription, the polls and the checks."""
        self.drain()
        for running in self._background.values():
            running.cancel()
        await asyncio.gather(*self._background.values(), return_exceptions=True)
        await self._subscriber.close()

    def _check_limits(self, client: WaitingClient) -> None:
        """Raise TooManyWaiters if one more waiter would exceed a limit."""
        limits = self.limits
        if len(self.active) >= limits.total:
            raise TooManyWaiters
        if client.holds_thread and self._thread_count >= limits.threads:
            raise TooManyWaiters(
                "The server has reached its limit of threads that wait for results (RUNQY_DJANGO_THREADS)."
            )
        if self._client_counts[client.id] >= limits.per_client:
            raise TooManyWaiters("The API key has reached its limit of waiting requests: half of RUNQY_MAX_WAITERS.")

    def _slice_of(self, task_id: str) -> dict[str, set[TaskWaiter]]:
        return self._slices[hash(task_id) % SLICES]

    def _wake_all_for(self, task_id: str) -> None:
        for waiter in self._slice_of(task_id).get(task_id, ()):
            waiter.wake()

    def _wake_followers_of(self, task_id: str) -> None:
        for waiter in self._slice_of(task_id).get(task_id, ()):
            waiter.wake_follower()

    async def _check_clients(self) -> None:
        # Without this, clients whose key was revoked would keep their places until their tasks change.
        while self.active:
            waiters = tuple(self.active)
            for start in range(SLICES):
                await asyncio.sleep(CHECK_S / SLICES)
                for waiter in waiters[start::SLICES]:
                    if not waiter.client.is_accepted():
                        waiter.wake()

    async def _poll(self) -> None:
        while any(self._slices):
            for tasks in self._slices:
                await asyncio.sleep(POLL_S / SLICES)
                try:
                    await self._read_statuses(tasks)
                except RunqyError as error:
                    log.warning(error.code, loop="result_waiters", error=str(error))
                    await asyncio.sleep(POLL_S)

    async def _read_statuses(self, tasks: dict[str, set[TaskWaiter]]) -> None:
        waiters = [waiter for same_task in tasks.values() for waiter in same_task]
        locations = [(waiter.queue, waiter.task_id) for waiter in waiters]
        unique = list(dict.fromkeys(locations))
        found = dict(zip(unique, await self.broker.send(read_statuses(unique)), strict=True))
        for location, waiter in zip(locations, waiters, strict=True):
            waiter.compare(found[location])
