"""Registers until the server answers."""

import asyncio
from collections.abc import Callable

import structlog

from runqy.errors import QueueDisabled, ServerUnavailable, ServerUnprepared
from workers.runtime.backoff import delay_s
from workers.runtime.logs import secrets
from workers.runtime.registration import Registrar, Registration
from workers.runtime.settings import WorkerSettings
from workers.runtime.threads import first_of, in_thread

MOST_DELAY_S = 30.0
UNPREPARED_MOST_DELAY_S = 5.0
"""Somebody who has just made the vault that was missing waits for the worker."""

log = structlog.get_logger()


class Enrolling:
    """Registrations of one worker for one queue."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        worker_id: str,
        queue: str,
        on_disabled: Callable[[], None],
        on_wait: Callable[[str], None],
    ) -> None:
        self.hurry = asyncio.Event()
        """Set when something changed, so that waiting for the next try makes no sense."""
        self._settings = settings
        self._registrar = Registrar(server_url=settings.server_url, api_key=settings.api_key)
        self._worker_id = worker_id
        self._queue = queue
        self._on_disabled = on_disabled
        self._on_wait = on_wait
        """Told why there is no registration yet."""

    async def enroll(self, *, tries: int = 0) -> Registration:
        """Register, trying again while the server is away or the queue disabled; 0 tries: without end.

        Raises RegistrationRefused, or ServerUnavailable after the last try.
        """
        attempt = 0
        while True:
            self.hurry.clear()
            try:
                registration = await in_thread(self._register)
            except ServerUnavailable as error:
                attempt += 1
                if attempt == tries:
                    raise
                is_unprepared = isinstance(error, ServerUnprepared)
                await self._wait(attempt, error.detail, UNPREPARED_MOST_DELAY_S if is_unprepared else MOST_DELAY_S)
            except QueueDisabled as error:
                self._on_disabled()
                attempt += 1
                await self._wait(attempt, error.detail, MOST_DELAY_S)
            else:
                secrets.add(registration.secrets)
                return registration

    def _register(self) -> Registration:
        return self._registrar.register(worker_id=self._worker_id, queue=self._queue)

    async def _wait(self, attempt: int, reason: str, most_s: float) -> None:
        """Wait before the next try."""
        first_s = self._settings.bootstrap_retry_delay_s
        delay = delay_s(attempt - 1, first_s=first_s, most_s=max(first_s, most_s))
        self._on_wait(reason)
        log.warning("not_registered", reason=reason, next_try_s=round(delay, 1))
        await first_of(self.hurry, timeout_s=delay)
