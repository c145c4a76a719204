"""Serves one queue: registers, opens a session and keeps it current, until stopped."""

import asyncio
import contextlib
import os
import secrets
import socket

import structlog

from runqy.broker.redis_users import new_server_id
from runqy.errors import BrokerUnavailable
from workers.runtime.backoff import delay_s
from workers.runtime.concurrency import wait_any
from workers.runtime.deployments import DeploymentManager
from workers.runtime.heartbeat import WorkerIdentity
from workers.runtime.redis_connections import ConnectionRegistry, RedisConnections
from workers.runtime.registration import Registration
from workers.runtime.registration_client import RegistrationClient, RegistrationLoop
from workers.runtime.session import Session
from workers.runtime.settings import WorkerSettings

CONNECT_DELAY_S, CONNECT_MAX_DELAY_S = 0.5, 15.0
RECONNECT_DELAY_S = 5.0
DEPLOY_DELAY_S, DEPLOY_MAX_DELAY_S = 5.0, 60.0
NEW_CODE_DELAY_S, NEW_CODE_MAX_DELAY_S = 2.0, 30.0
"""Between two checks for newer code, while children fail: the author of a fix that was pushed waits for it."""

log = structlog.get_logger()


class Runner:
    """One worker for one queue."""

    def __init__(self, settings: WorkerSettings, queue: str, registry: ConnectionRegistry, *, instance_id: str) -> None:
        host = socket.gethostname() or "unknown-host"
        self._settings = settings
        self._queue = queue
        self._registry = registry
        self._identity = WorkerIdentity(
            worker_id=f"{host}:{os.getpid()}:{secrets.token_hex(3)}",
            instance_id=instance_id,
            server_id=new_server_id(instance_id),
            host=host,
        )
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._session: Session | None = None
        self._registration_loop = RegistrationLoop(
            settings,
            client=RegistrationClient(
                server_url=settings.server_url,
                api_key=settings.api_key,
                worker_id=self._identity.worker_id,
                instance_id=instance_id,
            ),
            queue=queue,
            on_disabled=self._note_disabled,
            on_wait=self._note_wait,
        )

    def stop(self) -> None:
        """Stop in order; on the second call, requeue running tasks without waiting for them."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped. Raises RegistrationRefused or ServerUnavailable."""
        structlog.contextvars.bind_contextvars(queue=self._queue)
        serving = asyncio.ensure_future(self._serve())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            stopping.cancel()
            await self._close(serving)

    async def _serve(self) -> None:
        """Register, and then run what the newest registration says."""
        registration, connections = await self._join()
        self._session = session = Session(
            self._settings,
            self._identity,
            registration,
            connections,
            on_change=self._registration_loop.hurry.set,
        )
        log.info("registered", worker_id=self._identity.worker_id, redis_queues=list(registration.priorities))
        await session.open()
        failures = checks = 0
        deployments = session.deployments
        while True:
            is_failing = deployments.is_failing
            is_newest = await deployments.deploy(registration)
            failures, checks = 0 if is_newest else failures + 1, checks + 1 if is_failing else 0
            if await self._wait_for_reason(deployments, failures=failures, checks=checks):
                registration = await self._renew(session, registration)

    async def _wait_for_reason(self, deployments: DeploymentManager, *, failures: int, checks: int) -> bool:
        """Wait until there is a reason to deploy; return whether it is that something changed at the server."""
        hurry = self._registration_loop.hurry
        if failures:
            await wait_any(hurry, timeout_s=delay_s(failures - 1, first_s=DEPLOY_DELAY_S, most_s=DEPLOY_MAX_DELAY_S))
        elif checks:
            delay = delay_s(checks - 1, first_s=NEW_CODE_DELAY_S, most_s=NEW_CODE_MAX_DELAY_S)
            await wait_any(hurry, timeout_s=delay)
        else:
            await wait_any(hurry, deployments.child_failed)
        return hurry.is_set()

    async def _join(self) -> tuple[Registration, RedisConnections]:
        """Register and reach Redis for the first time.

        Each attempt registers again, as in `_renew`: the address may be what is wrong.
        """
        attempt = 0
        registration = await self._registration_loop.register(tries=self._settings.bootstrap_retries)
        while True:
            try:
                return registration, await self._registry.acquire(registration.redis.target)
            except BrokerUnavailable as error:
                delay = delay_s(attempt, first_s=CONNECT_DELAY_S, most_s=CONNECT_MAX_DELAY_S)
                log.warning("broker_unavailable", error=error.detail, next_try_s=round(delay, 1))
                attempt += 1
                await asyncio.sleep(delay)
                registration = await self._registration_loop.register()

    async def _renew(self, session: Session, before: Registration) -> Registration:
        """Register again, because the queue changed, or Redis refuses our credentials or has been silent for long.

        Where Redis cannot be reached as the server says, register again: the server may learn of a new password later.
        """
        connections = None
        while True:
            registration = await self._registration_loop.register()
            log.info("registered_again")
            if not session.is_refused and registration.redis == before.redis:
                break
            try:
                connections = await self._registry.acquire(registration.redis.target)
                break
            except BrokerUnavailable as error:
                log.warning("broker_unavailable", error=error.detail)
                await asyncio.sleep(delay_s(0, first_s=RECONNECT_DELAY_S, most_s=RECONNECT_DELAY_S))
        await session.adopt(registration, connections)
        return registration

    def _note_disabled(self) -> None:
        if self._session:
            self._session.disable()

    def _note_wait(self, reason: str) -> None:
        if self._session:
            self._session.note_stale_registration(reason)

    async def _close(self, serving: "asyncio.Future[None]") -> None:
        """End what is under way, then the session."""
        if self._session:
            self._session.deployments.interrupt()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # `run` raised its error
            await serving
        if self._session:
            await self._session.close(self._hurry)
        log.info("stopped")
