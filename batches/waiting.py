"""Wait for batches on the event loop on which clients wait for tasks. All in a process share one query a second."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from django.db import Error, connections

from batches.models import Batch
from batches.queries import is_allowed
from runqy.api.exceptions import as_runqy_error
from runqy.audit.actors import Actor, ActorKind
from runqy.core.concurrency.executors import BoundedExecutor
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BatchNotFound, DatabaseUnavailable, KeyRequired, RunqyError
from tasks.waiting import ResultWaiters, Waiter, WaitingClient

POLL_S = 1.0
"""How often the rows of all awaited batches are read."""
READ_TIMEOUT_S = 4.0
"""How long a read may take, with its wait for a thread. A thread that the database does not answer stays busy."""
READ_THREADS = 4


class BatchWaiter(Waiter):
    """One client that waits for one batch, until `leave` is called."""

    def __init__(self, waiters: "BatchWaiters", batch_id: str, client: WaitingClient, *, follows: bool) -> None:
        """It wakes when the batch has ended or cannot be found any more; if it `follows`, at each change."""
        super().__init__(waiters.waiters, client)
        self.batch_id, self.follows, self._batches = batch_id, follows, waiters
        self._actor = Actor(kind=ActorKind.KEY, name="", id=client.id)
        self.batch: Batch | None = None
        """As it was read last; None: it was deleted, or has got queues that the key must not use."""

    def show(self, batch: Batch | None) -> None:
        """Take over what was read, and wake the client if this is what it waits for."""
        is_found = batch is not None and is_allowed(batch, self.client.allowed_queues, self._actor)
        self.batch = batch if is_found else None
        is_over = self.batch is None or self.batch.ended_at is not None
        if is_over or (self.follows and describe_progress(self.batch) != self.status):
            self.wake()

    def leave(self) -> None:
        self._batches.discard(self)


def describe_progress(batch: Batch | None) -> object:
    """Return what clients that follow a batch are told about."""
    return batch and (batch.counts, batch.is_closed, batch.is_canceled, batch.ended_at)


@dataclass(slots=True)
class _Awaited:
    """A batch, and the clients that wait for it."""

    first_read: asyncio.Task[Batch | None]
    waiters: set[BatchWaiter] = field(default_factory=set)
    is_polled: bool = False
    batch: Batch | None = None

    @property
    def is_read(self) -> bool:
        """Whether the first read succeeded. A row that cannot be read must not fail the reads of the others."""
        return self.first_read.done() and not self.first_read.cancelled() and self.first_read.exception() is None


class BatchWaiters:
    """The clients of a process that wait for batches. They count as those that wait for tasks."""

    def __init__(self, waiters: ResultWaiters) -> None:
        self.waiters = waiters
        self._awaited: dict[str, _Awaited] = {}
        # All that may wait, and the poll, may queue for a thread.
        self._executor = BoundedExecutor("batches", threads=READ_THREADS, queue_size=waiters.limits.total + 1)
        self._failures = FailureLog("batches_read")

    async def add(self, batch_id: str, *, client: WaitingClient, follows: bool = False) -> BatchWaiter:
        """Return a waiter that has read the batch, at most POLL_S ago. The caller must call its `leave`.

        Raise TooManyWaiters, BatchNotFound, DatabaseUnavailable, ServerBusy.
        """
        waiter = BatchWaiter(self, batch_id, client, follows=follows)
        self.waiters.enter(waiter)
        awaited = self._awaited.get(batch_id)
        if awaited is None:
            awaited = self._awaited[batch_id] = _Awaited(asyncio.create_task(self._read_one(batch_id)))
        awaited.waiters.add(waiter)
        try:
            first = await asyncio.shield(awaited.first_read)  # of all that come meanwhile
            waiter.show(awaited.batch if awaited.is_polled else first)
            if waiter.batch is None:
                raise BatchNotFound
        except BaseException:
            waiter.leave()
            raise
        self.waiters.keep_running("batches", self._poll, BatchWaiter)
        return waiter

    def discard(self, waiter: BatchWaiter) -> None:
        """Remove a waiter. Ignored if it was removed before."""
        if not self.waiters.discard(waiter):
            return
        awaited = self._awaited[waiter.batch_id]
        awaited.waiters.remove(waiter)
        if not awaited.waiters:
            del self._awaited[waiter.batch_id]

    async def _poll(self) -> None:
        while self._awaited:
            await asyncio.sleep(POLL_S)
            read = {batch_id: awaited for batch_id, awaited in self._awaited.items() if awaited.is_read}
            if not read:  # all clients have left meanwhile
                continue
            try:
                found = await self._read(list(read))
            except RunqyError as error:
                self._failures.record("batches_not_read", key=error.code, error=str(error))
                continue
            self._failures.record_success()
            for batch_id, awaited in read.items():
                awaited.batch, awaited.is_polled = found.get(batch_id), True
                for waiter in awaited.waiters:
                    waiter.show(awaited.batch)

    async def _read_one(self, batch_id: str) -> Batch | None:
        return (await self._read([batch_id])).get(batch_id)

    async def _read(self, ids: Sequence[str]) -> dict[str, Batch]:
        """Return batches by id. Raise DatabaseUnavailable, ServerBusy."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await self._executor.run(partial(_read, ids))
        except TimeoutError as error:
            raise DatabaseUnavailable("The database did not respond in time.") from error


def _read(ids: Sequence[str]) -> dict[str, Batch]:
    """Return batches by id, on a thread that keeps no connection. Raise DatabaseUnavailable."""
    try:
        return Batch.objects.defer("callback_request").in_bulk(ids)
    except Error as error:
        known = as_runqy_error(error)
        if known is None:
            raise
        raise known from error
    finally:
        connections.close_all()


@cache  # a process has one loop, and tests a few
def batch_waiters(waiters: ResultWaiters) -> BatchWaiters:
    """Return the clients that wait for batches on the loop of these waiters."""
    return BatchWaiters(waiters)


async def wait_for_batch(waiters: ResultWaiters, batch_id: str, *, client: WaitingClient, timeout_s: float) -> None:
    """Return when a batch has ended, after `timeout_s`, or when the process drains.

    Raise BatchNotFound, also when it is deleted meanwhile, KeyRequired soon after the client's key was revoked or
    changed, ClientDisconnected, TooManyWaiters, DatabaseUnavailable, ServerBusy, InternalError.
    """
    if waiters.is_draining:
        return
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    waiter = await batch_waiters(waiters).add(batch_id, client=client)
    try:
        while await waiter.wait(deadline_s - loop.time()) and not waiters.is_draining:
            if not client.is_accepted():
                raise KeyRequired
            if waiter.batch is None:
                raise BatchNotFound
            if waiter.batch.ended_at is not None:
                return
    finally:
        waiter.leave()
