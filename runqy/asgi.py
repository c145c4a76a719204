"""The ASGI application of the web processes."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")

from runqy.wsgi import application as wsgi_application  # noqa: I001 (sets Django up, before anything below)

from django.conf import settings

import runqy.urls  # noqa: F401 (else the first request waits until all views are imported)
from runqy.accounts.logins import is_logged_in
from runqy.accounts.identities import find_identity, is_guessable
from runqy.accounts.authentication import presented_key
from runqy.broker.async_broker import AsyncBroker
from runqy.server.dataplane.application import Application
from runqy.server.dataplane.bodies import MEMORY_FOR_BODIES, BodyReader
from runqy.server.dataplane.application import Drain
from runqy.server.dataplane.endpoints import HotEndpoints
from runqy.core.concurrency.executors import BoundedExecutor
from runqy.server.dataplane.request import ParsedRequest
from runqy.server.dataplane.background_tasks import BackgroundTasks
from runqy.errors import ConfigurationUnavailable
from runqy.server.health.readiness import start_draining
from runqy.server.metrics.process import ProcessSampler
from tasks.waiting import ResultWaiters
from tasks.waiting_loop import ServingLoop, set_waiting_loop, waiter_limits


def is_authenticated(request: ParsedRequest) -> bool:
    """Return whether a request has a valid key, and may send a large body."""
    key = presented_key(request.headers)
    # A short key from the environment does not count: how much is read must not reveal whether a guess was right.
    if not key or is_guessable(key):
        return False
    try:
        return find_identity(key) is not None
    except ConfigurationUnavailable:
        return False


def has_session(request: ParsedRequest) -> bool:
    return is_logged_in(request.cookie(settings.SESSION_COOKIE_NAME))


@asynccontextmanager
async def frozen_heap() -> AsyncIterator[None]:
    """Exempt existing objects from garbage collection. To traverse Django's would block the loop for 80 ms."""
    gc.collect()
    gc.freeze()
    yield


def build_application() -> Application:
    drain = Drain(settings.RUNQY_DRAIN_S)
    drain.on_drain(start_draining)
    broker = AsyncBroker.connect(settings.REDIS_TARGET)
    waiters = ResultWaiters(broker, waiter_limits())
    drain.on_drain(waiters.drain)
    background = BackgroundTasks(broker)

    @asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        before = set_waiting_loop(ServingLoop(waiters, asyncio.get_running_loop()))
        try:
            yield
        finally:
            set_waiting_loop(before)
            await waiters.close()
            await broker.close()

    endpoints = HotEndpoints(background, waiters)

    @asynccontextmanager
    async def sampling() -> AsyncIterator[None]:
        sampler = ProcessSampler(count_requests=lambda: endpoints.in_flight, count_waiters=lambda: len(waiters.active))
        with closing(sampler):
            yield

    return Application(
        wsgi=wsgi_application,
        bodies=BodyReader(
            max_bytes=settings.RUNQY_MAX_BODY_SIZE, memory_bytes=MEMORY_FOR_BODIES * settings.RUNQY_MAX_BODY_SIZE
        ),
        drain=drain,
        django=BoundedExecutor("django", threads=settings.RUNQY_DJANGO_THREADS),
        is_authenticated=is_authenticated,
        has_session=has_session,
        find_handler=endpoints.find_handler,
        lifespans=[waiting, sampling, background.running, frozen_heap],
    )


application = build_application()
