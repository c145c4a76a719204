"""The ASGI application of the web processes."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")

from runqy.wsgi import application as wsgi_application  # noqa: I001 (sets Django up, before anything below)

from django.conf import settings

import runqy.urls  # noqa: F401 (now; else the first request would wait until all views are imported)
from runqy.accounts.logins import is_logged_in
from runqy.accounts.queries import find_identity, is_guessable
from runqy.api.authentication import presented_key
from runqy.broker.async_broker import AsyncBroker
from runqy.dataplane.application import Application, find_no_handler
from runqy.dataplane.bodies import BodyReader
from runqy.dataplane.drain import Drain
from runqy.dataplane.endpoints import TaskEndpoints
from runqy.dataplane.executors import BoundedExecutor
from runqy.dataplane.request import Request
from runqy.dataplane.snapshots import SnapshotRefresher
from runqy.errors import ConfigurationUnavailable
from runqy.readiness import begin_draining
from tasks.waiting import ResultWaiters, WaiterLimits
from tasks.waiting_loop import WaitingLoop, set_waiting_loop


def is_authenticated(request: Request) -> bool:
    """Return whether a request carries a valid key.

    A short key of the environment counts for none: its address may be beyond the limit of wrong ones, and the size of
    the body that is read must not show whether a guess was right.
    """
    key = presented_key(request.headers)
    if not key or is_guessable(key):
        return False
    try:
        return find_identity(key) is not None
    except ConfigurationUnavailable:
        return False


def has_session(request: Request) -> bool:
    """Return whether a request carries the session of a user who is logged in."""
    return is_logged_in(request.cookie(settings.SESSION_COOKIE_NAME))


@asynccontextmanager
async def frozen_heap() -> AsyncIterator[None]:
    """Exempt what exists from garbage collection: looking through Django's objects stops the loop for 80 ms."""
    gc.collect()
    gc.freeze()
    yield


def build_application() -> Application:
    """Return the application of this process."""
    drain = Drain(settings.RUNQY_DRAIN_S)
    drain.on_drain(begin_draining)
    broker = AsyncBroker.connect(settings.REDIS_TARGET)
    # Clients that wait on Django's threads leave some for others.
    threads = min(settings.RUNQY_WSGI_WAITERS, max(1, settings.RUNQY_DJANGO_THREADS // 2))
    waiters = ResultWaiters(broker, WaiterLimits(total=settings.RUNQY_MAX_WAITERS, threads=threads))
    drain.on_drain(waiters.drain)
    snapshots = SnapshotRefresher(broker)

    @asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        before = set_waiting_loop(WaitingLoop(waiters, asyncio.get_running_loop()))
        try:
            yield
        finally:
            set_waiting_loop(before)
            await waiters.close()
            await broker.close()

    return Application(
        wsgi=wsgi_application,
        bodies=BodyReader(max_bytes=settings.RUNQY_MAX_BODY_SIZE, memory_bytes=settings.RUNQY_BODY_MEMORY),
        drain=drain,
        django=BoundedExecutor("django", threads=settings.RUNQY_DJANGO_THREADS),
        is_authenticated=is_authenticated,
        has_session=has_session,
        find_handler=(
            TaskEndpoints(broker, snapshots, waiters).find_handler if settings.RUNQY_DATA_PLANE else find_no_handler
        ),
        lifespans=[waiting, *([snapshots.running] if settings.RUNQY_DATA_PLANE else []), frozen_heap],
    )


application = build_application()
