"""Register with the server, with retries until it accepts."""

import asyncio
import platform
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx2

from runqy.concurrency.threads import run_in_thread, wait_any
from runqy.errors import (
    ConfigurationUnavailable,
    ConfigurationUnconfirmed,
    QueueDisabled,
    QueueNotFound,
    RedisUsersRefused,
    RegistrationRefused,
    ServerUnavailable,
    ServerUnprepared,
    VaultLocked,
    VaultUnavailable,
    WorkerIdTaken,
)
from runqy.telemetry.failure_log import FailureLog
from workers.runtime.backoff import delay_s
from workers.runtime.redaction import secrets
from workers.runtime.registration import RegisteredWorker, decode_queues, decode_registration, own_version
from workers.runtime.settings import WorkerSettings

TIMEOUT_S = 30.0
MAX_DELAY_S = 30.0
NOT_READY_MAX_DELAY_S = 5.0
"""Short, because an administrator who has just created a missing vault is waiting for the worker."""
REASON_MAX_CHARS = 500
_NOT_READY_CODES = {
    ConfigurationUnavailable.code,
    ConfigurationUnconfirmed.code,
    RedisUsersRefused.code,
    VaultLocked.code,
    VaultUnavailable.code,
}
"""Problems that last until an administrator has configured the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationClient:
    """Sends the registrations of one worker to its server."""

    server_url: str
    api_key: str = field(repr=False)
    worker_id: str
    instance_id: str
    """See WorkerIdentity."""

    def register(self, queue: str) -> RegisteredWorker:
        """Register for a queue.

        Raise RegistrationRefused if it is useless to retry, QueueDisabled, ServerUnavailable or ServerUnprepared.
        """
        body = {
            "worker_id": self.worker_id,
            "queue": queue,
            "hostname": socket.gethostname(),
            "os": platform.system().lower(),
            "version": own_version(),
            "accepts": ["redis_acl"],
            "instance_id": self.instance_id,
        }
        response = _send("POST", self.server_url, "/worker/register", api_key=self.api_key, body=body)
        _raise_for_status(response, queue)
        return decode_registration(response.content)


def list_queues(settings: WorkerSettings) -> list[str]:
    """Return the queues that the API key may register for. Raise RegistrationRefused, ServerUnavailable."""
    response = _send("GET", settings.server_url, "/worker/queues", api_key=settings.api_key)
    _raise_for_status(response, "*")
    return decode_queues(response.content)


def _send(
    method: str, server_url: str, path: str, *, api_key: str, body: Mapping[str, object] | None = None
) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {api_key}"}
    try:
        return httpx2.request(method, f"{server_url}{path}", json=body, headers=headers, timeout=TIMEOUT_S)
    except httpx2.HTTPError as error:
        raise ServerUnavailable(f"{server_url} cannot be reached: {error}") from error


class RegistrationLoop:
    """Registers one worker for one queue, with retries."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        client: RegistrationClient,
        queue: str,
        on_disabled: Callable[[], None],
        on_wait: Callable[[str], None],
    ) -> None:
        """`on_disabled` is called when the queue is disabled, `on_wait` with the reason before each wait."""
        # Set when something changed, so that the next attempt is made immediately.
        self.retry_now = asyncio.Event()
        self._settings = settings
        self._client = client
        self._queue = queue
        self._on_disabled = on_disabled
        self._on_wait = on_wait
        self._failures = FailureLog("registration_succeeded")

    async def register(self, *, tries: int = 0) -> RegisteredWorker:
        """Register, with retries while the server is unavailable or the queue is disabled. `tries` of 0: no limit.

        Raise RegistrationRefused, or ServerUnavailable after the last try.
        """
        attempt = 0
        while True:
            # Cleared first: a change during the request makes the next attempt due immediately.
            self.retry_now.clear()
            try:
                registration = await run_in_thread(self._register)
            except ServerUnavailable as error:
                attempt += 1
                if attempt == tries:
                    raise
                is_unprepared = isinstance(error, ServerUnprepared)
                await self._wait(attempt, error.detail, NOT_READY_MAX_DELAY_S if is_unprepared else MAX_DELAY_S)
            except QueueDisabled as error:
                self._on_disabled()
                attempt += 1
                await self._wait(attempt, error.detail, MAX_DELAY_S)
            else:
                self._failures.record_success()
                secrets.add(registration.secrets)
                return registration

    def _register(self) -> RegisteredWorker:
        return self._client.register(self._queue)

    async def _wait(self, attempt: int, reason: str, max_s: float) -> None:
        first_s = self._settings.bootstrap_retry_delay_s
        delay = delay_s(attempt - 1, first_s=first_s, max_s=max(first_s, max_s))
        self._on_wait(reason)
        self._failures.record("not_registered", key=reason, reason=reason, next_try_s=round(delay, 1))
        await wait_any(self.retry_now, timeout_s=delay)


def _raise_for_status(response: httpx2.Response, queue: str) -> None:
    status = response.status_code
    if status == httpx2.codes.OK:
        return
    problem = _read_problem(response)
    reason = _reason(response, problem)
    # Retried: the id is free a minute after the last heartbeat of the other key's worker.
    if status == httpx2.codes.CONFLICT and problem.get("code") == WorkerIdTaken.code:
        raise ServerUnavailable(f"The server responded {status}: {reason}")
    if status == httpx2.codes.CONFLICT:
        raise QueueDisabled(reason)
    if status == httpx2.codes.UNAUTHORIZED:
        raise RegistrationRefused(f"The server rejected this API key ({reason}). Check RUNQY_API_KEY.")
    if status == httpx2.codes.FORBIDDEN:
        raise RegistrationRefused(f"This API key cannot register a worker for {queue!r} ({reason}).")
    if status == httpx2.codes.NOT_FOUND and problem.get("code") == QueueNotFound.code:
        raise RegistrationRefused(f"The server has no queue {queue!r} ({reason}). Check RUNQY_QUEUES.")
    if status == httpx2.codes.SERVICE_UNAVAILABLE and problem.get("code") in _NOT_READY_CODES:
        raise ServerUnprepared(f"The server responded {status}: {reason}")
    if status >= 500 or status in {httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.REQUEST_TIMEOUT}:
        raise ServerUnavailable(f"The server responded {status}: {reason}")
    raise RegistrationRefused(f"The server responded {status}: {reason}. Check RUNQY_SERVER_URL.")


def _read_problem(response: httpx2.Response) -> dict[str, object]:
    """Return the members of the problem+json in the body; empty if it has none."""
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _reason(response: httpx2.Response, problem: dict[str, object]) -> str:
    reason = problem.get("detail") or problem.get("errors") or problem.get("title")
    return str(reason or response.text or response.reason_phrase)[:REASON_MAX_CHARS]
