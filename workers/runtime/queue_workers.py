"""Serve each queue of the settings, or each queue that the API key may register for, by a worker of its own."""

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import Iterable

import structlog

from runqy.concurrency.threads import run_in_thread
from runqy.errors import RegistrationRefused, RunqyError, ServerUnavailable
from runqy.telemetry.failure_log import FailureLog
from workers.runtime.queue_worker import QueueWorker
from workers.runtime.redis_connections import ConnectionRegistry
from workers.runtime.registration import MAX_DELAY_S, list_queues
from workers.runtime.retries import delay_s
from workers.runtime.settings import ALL_QUEUES, WorkerSettings

QUEUES_PER_USER = 16
"""How many queues share a Redis user and its connections. Redis compares each key with the patterns of all of them:
with 16 queues a script takes as long as with one, with 150 two to three times as long."""
LIST_INTERVAL_S = 3.0

log = structlog.get_logger()


class QueueWorkers:
    """The workers of one process, one for each queue."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._registry = ConnectionRegistry()
        # Keys are the names of queues.
        self._workers: dict[str, QueueWorker] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._refusals = FailureLog("queues_accepted")
        self._status = 0

    def stop(self) -> None:
        """Stop all workers. See QueueWorker.stop."""
        if self._following:
            self._following.cancel()
        for worker in self._workers.values():
            worker.stop()

    async def run(self) -> int:
        """Serve until stopped. Return the exit status."""
        if self._settings.queues == ALL_QUEUES:
            self._following = asyncio.create_task(self._follow())
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        else:
            self._start(self._settings.queues)
        await asyncio.gather(*self._serving)
        return self._status

    def _start(self, queues: Iterable[str]) -> None:
        for queue in queues:
            if queue in self._workers:
                continue
            counts = Counter(worker.instance_id for worker in self._workers.values())
            instance_id = next((one for one in counts if counts[one] < QUEUES_PER_USER), None) or str(uuid.uuid4())
            self._workers[queue] = QueueWorker(self._settings, queue, self._registry, instance_id=instance_id)
            task = asyncio.create_task(self._serve(queue, self._workers[queue]))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _follow(self) -> None:
        """Start workers for the queues that the server lists. The worker of a deleted queue ends itself."""
        failures, attempt, has_listed = FailureLog("queues_listed"), 0, False
        while True:
            try:
                listed = await run_in_thread(lambda: list_queues(self._settings))
            except ServerUnavailable as error:
                attempt += 1
                failures.record("queues_not_listed", key=error.detail, reason=error.detail)
                if not has_listed and attempt == self._settings.bootstrap_retries:
                    return self._fail(error)
                first_s = self._settings.bootstrap_retry_delay_s
                await asyncio.sleep(delay_s(attempt - 1, first_s=first_s, max_s=max(first_s, MAX_DELAY_S)))
            except RegistrationRefused as error:
                return self._fail(error)
            else:
                failures.record_success()
                attempt, has_listed = 0, True
                self._start(listed)
                await asyncio.sleep(LIST_INTERVAL_S)

    async def _serve(self, queue: str, worker: QueueWorker) -> None:
        """Serve a queue. A refusal by the server ends only this queue, which may be deleted. Other failures end all."""
        try:
            await worker.run()
        except RegistrationRefused as error:
            if self._following:  # `_follow` starts it again while the server lists it
                self._refusals.record("not_registered", key=str(error), reason=str(error))
            else:
                log.critical("worker_ends", reason=str(error))
                self._status = 1
        except RunqyError as error:
            self._fail(error)
        except Exception:  # a bug in one queue must let the others stop regularly
            log.exception("worker_failed")
            self._status = 1
            self.stop()
        finally:
            del self._workers[queue]

    def _fail(self, error: RunqyError) -> None:
        log.critical("worker_ends", reason=str(error))
        self._status = 1
        self.stop()
