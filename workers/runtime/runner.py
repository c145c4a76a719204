"""Serves one queue: registers, opens a session and keeps it current, until told to stop."""

import asyncio
import contextlib
import os
import secrets
import socket

import structlog

from runqy.broker.broker import Broker
from runqy.errors import BrokerUnavailable
from workers.runtime.backoff import delay_s
from workers.runtime.enrolling import Enrolling
from workers.runtime.heartbeat import Identity
from workers.runtime.registration import Registration
from workers.runtime.session import Session
from workers.runtime.settings import WorkerSettings
from workers.runtime.threads import first_of, in_thread
from workers.runtime.workshop import Workshop

CONNECT_DELAY_S, CONNECT_MOST_DELAY_S = 0.5, 15.0
RECONNECT_DELAY_S = 5.0
DEPLOY_DELAY_S, DEPLOY_MOST_DELAY_S = 5.0, 60.0
LOOK_DELAY_S, LOOK_MOST_DELAY_S = 2.0, 30.0
"""Between two looks for newer code, while children fail: whoever pushed a correction waits for it."""

log = structlog.get_logger()


class Runner:
    """One worker for one queue."""

    def __init__(self, settings: WorkerSettings, queue: str) -> None:
        host = socket.gethostname() or "unknown-host"
        self._settings = settings
        self._queue = queue
        self._identity = Identity(worker_id=f"{host}:{os.getpid()}:{secrets.token_hex(3)}", host=host)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._session: Session | None = None
        self._enrolling = Enrolling(
            settings,
            worker_id=self._identity.worker_id,
            queue=queue,
            on_disabled=self._note_disabled,
            on_wait=self._note_wait,
        )

    def stop(self) -> None:
        """Stop in order; asked again, give running tasks back without waiting for them."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def run(self) -> None:
        """Serve until told to stop. Raises RegistrationRefused or ServerUnavailable."""
        structlog.contextvars.bind_contextvars(queue=self._queue)
        serving = asyncio.ensure_future(self._serve())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            stopping.cancel()
            await self._leave(serving)

    async def _serve(self) -> None:
        """Register, and then run what the newest registration says."""
        registration, broker = await self._join()
        self._session = session = Session(
            self._settings, self._identity, registration, broker, on_change=self._enrolling.hurry.set
        )
        log.info("registered", worker_id=self._identity.worker_id, redis_queues=list(registration.priorities))
        await session.open()
        failures = looks = 0
        workshop = session.workshop
        while True:
            is_failing = workshop.is_failing
            is_newest = await workshop.bring_up(registration)
            failures, looks = 0 if is_newest else failures + 1, looks + 1 if is_failing else 0
            if await self._await_reason(workshop, failures=failures, looks=looks):
                registration = await self._renew(session, registration)

    async def _await_reason(self, workshop: Workshop, *, failures: int, looks: int) -> bool:
        """Wait until there is a reason to deploy; returns whether it is that something changed at the server."""
        hurry = self._enrolling.hurry
        if failures:
            await first_of(hurry, timeout_s=delay_s(failures - 1, first_s=DEPLOY_DELAY_S, most_s=DEPLOY_MOST_DELAY_S))
        elif looks:
            await first_of(hurry, timeout_s=delay_s(looks - 1, first_s=LOOK_DELAY_S, most_s=LOOK_MOST_DELAY_S))
        else:
            await first_of(hurry, workshop.stumbled)
        return hurry.is_set()

    async def _join(self) -> tuple[Registration, Broker]:
        """Register and reach Redis for the first time.

        The server is asked again each time, as in `_renew`: the address may be what is wrong.
        """
        attempt = 0
        registration = await self._enrolling.enroll(tries=self._settings.bootstrap_retries)
        while True:
            try:
                return registration, await _connect(registration)
            except BrokerUnavailable as error:
                delay = delay_s(attempt, first_s=CONNECT_DELAY_S, most_s=CONNECT_MOST_DELAY_S)
                log.warning("broker_unavailable", error=error.detail, next_try_s=round(delay, 1))
                attempt += 1
                await asyncio.sleep(delay)
                registration = await self._enrolling.enroll()

    async def _renew(self, session: Session, before: Registration) -> Registration:
        """Register again, because the queue changed, or Redis refuses what we know of it or has been silent for long.

        Where Redis cannot be reached as the server says, ask again: it may hear of a new password later than we.
        """
        broker = None
        while True:
            registration = await self._enrolling.enroll()
            log.info("registered_again")
            if not session.exchange.is_refused and registration.redis == before.redis:
                break
            try:
                broker = await _connect(registration)
                break
            except BrokerUnavailable as error:
                log.warning("broker_unavailable", error=error.detail)
                await asyncio.sleep(delay_s(0, first_s=RECONNECT_DELAY_S, most_s=RECONNECT_DELAY_S))
        await session.adopt(registration, broker)
        return registration

    def _note_disabled(self) -> None:
        if self._session:
            self._session.disable()

    def _note_wait(self, reason: str) -> None:
        if self._session:
            self._session.go_on_meanwhile(reason)

    async def _leave(self, serving: "asyncio.Future[None]") -> None:
        """End what is under way, then the session."""
        if self._session:
            self._session.workshop.interrupt()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # its error was raised by run
            await serving
        if self._session:
            await self._session.close(self._hurry)
        log.info("stopped")


async def _connect(registration: Registration) -> Broker:
    """Open a way to Redis and learn its time. Raises BrokerUnavailable."""

    def connect() -> Broker:
        broker = Broker.connect(registration.redis.target)
        broker.measure_clock()
        return broker

    return await in_thread(connect)
