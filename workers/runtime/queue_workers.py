"""Serve the queues of the settings, or those that the API key may register for, each by a worker of its own."""

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from runqy.broker.workers.records import WorkerAction
from runqy.broker.workers.redis_users import new_server_id
from runqy.core.concurrency.threads import run_in_thread, wait_any
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import BrokerUnavailable, RegistrationRefused, ResourcesExhausted, RunqyError, ServerUnavailable
from workers.runtime.deployments import DeploymentManager
from workers.runtime.heartbeat import WorkerIdentity
from workers.runtime.redis_connections import ConnectionRegistry, RedisConnections
from workers.runtime.registration import (
    MAX_DELAY_S,
    RegisteredWorker,
    RegistrationLoop,
    list_queues,
    register,
)
from workers.runtime.retries import backoff_s
from workers.runtime.settings import ALL_QUEUES, WorkerSettings
from workers.runtime.startup_limits import ExitLimits
from workers.runtime.worker_session import NO_MAINTENANCE, WorkerSession

QUEUES_PER_USER = 16
"""How many queues share a Redis user and its connections. Redis compares each key with the patterns of all of them:
with 16 queues a script takes as long as with one, with 150 two to three times as long."""
LIST_INTERVAL_S = 3.0
CHECK_LIMITS_S = 1.0

CONNECT_DELAY_S, CONNECT_MAX_DELAY_S = 0.5, 15.0
RECONNECT_DELAY_S = 5.0
DEPLOY_DELAY_S, DEPLOY_MAX_DELAY_S = 5.0, 60.0
NEW_CODE_DELAY_S, NEW_CODE_MAX_DELAY_S = 2.0, 30.0
"""The interval of checks for newer code while children fail. The author of a pushed fix is waiting."""

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
        self._exit_limits = ExitLimits(settings)
        self._has_signal = False
        self._status = 0

    def receive_signal(self) -> None:
        """Stop. On the second signal, requeue the tasks now."""
        if self._has_signal:
            for worker in self._workers.values():
                worker.stop_now()
        self._has_signal = True
        self.stop()

    def stop(self) -> None:
        """Stop after running tasks have ended or `shutdown_timeout` is over. Further calls have no effect."""
        if self._following:
            self._following.cancel()
        for worker in self._workers.values():
            worker.stop()

    def drain(self, reason: str) -> None:
        """Stop after all running tasks have ended, however long they take."""
        if self._following:
            self._following.cancel()
        for worker in self._workers.values():
            worker.drain(reason)

    async def run(self) -> int:
        """Serve until stopped. Return the exit status."""
        limits = asyncio.create_task(self._enforce_limits())
        try:
            return await self._run()
        finally:
            limits.cancel()

    async def _enforce_limits(self) -> None:
        while self._exit_limits.are_any:
            await asyncio.sleep(CHECK_LIMITS_S)
            workers = self._workers.values()
            is_busy = any(worker.is_busy for worker in workers)
            if reason := self._exit_limits.find_reason(is_busy=is_busy, taken=[worker.taken for worker in workers]):
                self.drain(reason)
                break

    async def _run(self) -> int:
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
            self._workers[queue] = QueueWorker(
                self._settings, queue, self._registry, instance_id=instance_id, on_request=self._carry_out
            )
            task = asyncio.create_task(self._serve(queue, self._workers[queue]))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _carry_out(self, action: WorkerAction) -> None:
        if action is WorkerAction.DRAIN:
            self.drain("a drain was requested")
        else:
            self.stop()

    async def _follow(self) -> None:
        """Start workers for the queues that the server lists. The worker of a deleted queue ends itself."""
        failures, attempt, has_listed = FailureLog("queues_listed"), 0, False
        while True:
            try:
                listed = await run_in_thread(lambda: list_queues(self._settings))
            except (ServerUnavailable, ResourcesExhausted) as error:
                attempt += 1
                failures.record("queues_not_listed", key=error.detail, reason=error.detail)
                if not has_listed and attempt == self._settings.bootstrap_retries:
                    return self._fail(error)
                first_s = self._settings.bootstrap_retry_delay_s
                await asyncio.sleep(backoff_s(attempt - 1, first_s=first_s, max_s=max(first_s, MAX_DELAY_S)))
            except RegistrationRefused as error:
                return self._fail(error)
            else:
                failures.record_success()
                attempt, has_listed = 0, True
                self._start(listed)
                await asyncio.sleep(LIST_INTERVAL_S)

    async def _serve(self, queue: str, worker: "QueueWorker") -> None:
        """Serve a queue. A refusal by the server ends only this queue, which may be deleted. Other failures end all."""
        try:
            await worker.run()
        except RegistrationRefused as error:
            if self._following:  # `_follow` starts it again while the server lists it
                self._refusals.record("not_registered", key=str(error), reason=str(error))
            else:
                log.critical("worker_exits", reason=str(error))
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
        log.critical("worker_exits", reason=str(error))
        self._status = 1
        self.stop()


class QueueWorker:
    """One worker for one queue."""

    def __init__(
        self,
        settings: WorkerSettings,
        queue: str,
        registry: ConnectionRegistry,
        *,
        instance_id: str,
        on_request: Callable[[WorkerAction], None],
    ) -> None:
        host = socket.gethostname() or "unknown-host"
        self.instance_id = instance_id
        self._settings = settings
        self._queue = queue
        self._registry = registry
        self._identity = WorkerIdentity(
            worker_id=f"{host}:{os.getpid()}:{secrets.token_hex(3)}",
            instance_id=instance_id,
            server_id=new_server_id(instance_id),
            host=host,
        )
        self._on_request = on_request
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._session: WorkerSession | None = None
        self._broker_failures = FailureLog("broker_available")
        self._registration_loop = RegistrationLoop(
            settings,
            partial(register, settings, queue, worker_id=self._identity.worker_id, instance_id=instance_id),
            on_disabled=self._report_disabled,
            on_wait=self._report_wait,
        )

    @property
    def is_busy(self) -> bool:
        return self._session is not None and self._session.is_busy

    @property
    def taken(self) -> int:
        """Return how many tasks it ran or runs."""
        return self._session.consumer.taken if self._session else 0

    def stop(self) -> None:
        """Stop after running tasks have ended or `shutdown_timeout` is over."""
        self._stopping.set()

    def stop_now(self) -> None:
        self._stop_now.set()

    def drain(self, reason: str) -> None:
        """Stop after running tasks have ended."""
        if not self._draining.is_set():
            self._draining.set()
            if self._session:
                self._session.drain(reason)

    async def run(self) -> None:
        """Serve until stopped. Raise RegistrationRefused or ServerUnavailable."""
        structlog.contextvars.bind_contextvars(queue=self._queue)
        serving = asyncio.ensure_future(self._serve())
        stopping = asyncio.ensure_future(self._wait_for_end())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            stopping.cancel()
            await self._close(serving)

    async def _wait_for_end(self) -> None:
        """Wait until it is to stop, or has drained."""
        await wait_any(self._stopping, self._draining)
        if self._session:
            await wait_any(self._stopping, self._session.consumer.emptied)

    async def _serve(self) -> None:
        """Register, then serve the queue as the newest registration defines it."""
        registration, connections = await self._start_session()
        self._session = session = WorkerSession(
            self._settings,
            self._identity,
            registration,
            connections,
            on_change=self._registration_loop.retry_now.set,
            on_request=self._on_request,
        )
        log.info("registered", worker_id=self._identity.worker_id, redis_queues=list(registration.priorities))
        if not registration.has_maintenance:
            log.warning("server_without_maintenance", reason=NO_MAINTENANCE)
        await session.open()
        failures = checks = 0
        deployments = session.deployments
        while True:
            is_failing = deployments.is_failing
            is_newest = await deployments.deploy(registration)
            failures, checks = 0 if is_newest else failures + 1, checks + 1 if is_failing else 0
            if await self._wait_for_reason(deployments, failures=failures, checks=checks):
                registration = await self._update_session(session, registration)

    async def _wait_for_reason(self, deployments: DeploymentManager, *, failures: int, checks: int) -> bool:
        """Wait until there is a reason to deploy; return whether something changed at the server."""
        retry_now = self._registration_loop.retry_now
        if failures:
            await wait_any(
                retry_now, timeout_s=backoff_s(failures - 1, first_s=DEPLOY_DELAY_S, max_s=DEPLOY_MAX_DELAY_S)
            )
        elif checks:
            delay = backoff_s(checks - 1, first_s=NEW_CODE_DELAY_S, max_s=NEW_CODE_MAX_DELAY_S)
            await wait_any(retry_now, timeout_s=delay)
        else:
            await wait_any(retry_now, deployments.child_failed)
        return retry_now.is_set()

    async def _start_session(self) -> tuple[RegisteredWorker, RedisConnections]:
        """Register and connect to Redis for the first time."""
        attempt = 0
        registration = await self._registration_loop.register(tries=self._settings.bootstrap_retries)
        while True:
            try:
                return registration, await self._connect(registration)
            except BrokerUnavailable:
                delay = backoff_s(attempt, first_s=CONNECT_DELAY_S, max_s=CONNECT_MAX_DELAY_S)
                attempt += 1
                await asyncio.sleep(delay)
                # The address may be wrong, and corrected at the server meanwhile.
                registration = await self._registration_loop.register()

    async def _update_session(self, session: WorkerSession, before: RegisteredWorker) -> RegisteredWorker:
        """Register again: the queue changed, Redis refuses the credentials, or it was unreachable for long."""
        connections = None
        for attempt in itertools.count():
            registration = await self._registration_loop.register()
            if attempt == 0:
                log.info("registered_again")
            if not session.is_refused and registration.redis == before.redis:
                break
            try:
                connections = await self._connect(registration)
                break
            except BrokerUnavailable:  # the server may learn of a new address or password later
                await asyncio.sleep(backoff_s(0, first_s=RECONNECT_DELAY_S, max_s=RECONNECT_DELAY_S))
        await session.adopt(registration, connections)
        return registration

    async def _connect(self, registration: RegisteredWorker) -> RedisConnections:
        """Connect to the Redis of a registration. Log and raise BrokerUnavailable."""
        try:
            connections = await self._registry.acquire(registration.redis.target)
        except BrokerUnavailable as error:
            self._broker_failures.record("broker_unavailable", key=str(error), error=str(error))
            raise
        self._broker_failures.record_success()
        return connections

    def _report_disabled(self) -> None:
        if self._session:
            self._session.disable()

    def _report_wait(self, reason: str) -> None:
        if self._session:
            self._session.mark_stale(reason)

    async def _close(self, serving: "asyncio.Future[None]") -> None:
        if self._session:
            # Cancelling does not stop the deployment, which runs on a thread.
            self._session.deployments.interrupt()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # `run` raised its error
            await serving
        if self._session:
            await self._session.close(self._stop_now)
        log.info("stopped")
