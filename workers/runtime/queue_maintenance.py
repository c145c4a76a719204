"""Do the maintenance of a worker's queues, and remove lost workers, for Go's server, which does not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import structlog

from runqy.broker.constants import ARCHIVE_MAX_AGE_S
from runqy.broker.maintenance.forwarder import forward_due
from runqy.broker.maintenance.janitor import ArchiveCursors, delete_expired
from runqy.broker.maintenance.recoverer import LeaselessWatch, recover_lost
from runqy.broker.operation import Operation
from runqy.broker.workers.heartbeats import remove_expired_workers
from runqy.errors import RunqyError
from runqy.failure_log import FailureLog
from workers.runtime.redis_connections import RedisConnections
from workers.runtime.registration import RegisteredWorker

FORWARD_INTERVAL_S = 1.0
RECOVER_INTERVAL_S, DELETE_INTERVAL_S = 10, 8

log = structlog.get_logger()


class QueueMaintenance:
    """Maintains the queues of the newest registration, if its server does not. Any number of workers may do so."""

    def __init__(self, registration: RegisteredWorker, connections: RedisConnections) -> None:
        self._task: asyncio.Task[None] | None = None
        self._watch = LeaselessWatch()
        self._cursors = ArchiveCursors()
        self._failures = FailureLog("queue_maintenance_resumed")
        self.apply(registration, connections)

    def apply(self, registration: RegisteredWorker, connections: RedisConnections) -> None:
        """Follow a new registration or other connections."""
        self._queues = list(registration.priorities)
        self._max_archived = registration.archive_max_tasks
        self._connections = connections
        if registration.has_maintenance:
            self.stop()
        elif self._task is None:
            log.info("queue_maintenance_started", reason="the server forwards and recovers no tasks")
            self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """Abandon what is under way; each step is a script that another worker may repeat."""
        if self._task:
            self._task.cancel()
        self._task = None

    async def _run(self) -> None:
        """Do what is due once a second, until cancelled."""
        tick = 0
        while True:
            for operation in self._due(tick):
                try:
                    await self._connections.tasks.run(operation)
                except RunqyError as error:
                    self._failures.record("queue_maintenance_failed", key=str(error), error=str(error))
                except Exception as error:  # noqa: BLE001 (the supervisor of a loop: a bug must not end it)
                    self._failures.record("queue_maintenance_failed", key=repr(error), exc_info=error)
                else:
                    self._failures.record_success()
            await asyncio.sleep(FORWARD_INTERVAL_S)
            tick += 1

    def _due(self, tick: int) -> Iterator[Operation[Any]]:
        """Yield the operations of a tick."""
        yield forward_due(self._queues)
        if tick % RECOVER_INTERVAL_S == 0:
            yield recover_lost(self._queues, self._watch)
        if tick % DELETE_INTERVAL_S == 0:
            ttls_s = dict.fromkeys(self._queues, ARCHIVE_MAX_AGE_S)
            yield delete_expired(ttls_s, self._cursors, max_archived=self._max_archived)
            yield remove_expired_workers()
