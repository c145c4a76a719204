"""Register with the server until it accepts. The response says where Redis is, and what to deploy and serve."""

import asyncio
import platform
import socket
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import httpx2
import msgspec

from runqy.broker.constants import ARCHIVE_MAX_TASKS, LEASE_S
from runqy.core.concurrency.threads import run_in_thread, wait_any
from runqy.core.environment.connection_urls import RedisTarget
from runqy.core.formats.json_decoding import read_json
from runqy.core.telemetry.failure_log import FailureLog
from runqy.errors import (
    ConfigurationUnavailable,
    ConfigurationUnconfirmed,
    QueueDisabled,
    QueueNotFound,
    RedisUsersRefused,
    RegistrationRefused,
    ResourcesExhausted,
    ServerUnavailable,
    ServerUnprepared,
    VaultLocked,
    VaultUnavailable,
    WorkerIdTaken,
)
from workers.runtime.redaction import secrets
from workers.runtime.retries import backoff_s
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


class RedisInfo(msgspec.Struct, frozen=True):
    addr: str
    password: str = ""
    db: int = 0
    use_tls: bool = False
    username: str = ""
    mode: str = "single"
    addresses: list[str] | None = None
    master_name: str = ""
    ca_certificate: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""

    def __repr__(self) -> str:
        """Leave out the passwords."""
        return f"<RedisInfo {self.addr}>"

    @property
    def target(self) -> RedisTarget:
        """Raise ValueError for an address without a port."""
        return RedisTarget(
            addresses=tuple(_address(text) for text in self.addresses or [self.addr]),
            mode=self.mode,
            username=self.username,
            password=self.password,
            db=self.db,
            use_tls=self.use_tls,
            ca_certificate=self.ca_certificate,
            master_name=self.master_name,
            sentinel_username=self.sentinel_username,
            sentinel_password=self.sentinel_password,
        )


class ReleaseInfo(msgspec.Struct, frozen=True):
    """The release that the worker is to run. `deployment` has its fields."""

    number: int
    commit: str = ""
    """Empty: the newest of the branch, which is the release's from then on."""
    requires_ref: bool = False
    keep_previous: bool = False
    """Keep the children of the release before ready: this one may be reverted."""
    goes_back_to: int = 0
    """Of a rollback, the release that it goes back to; otherwise 0."""


class QueueInfo(msgspec.Struct, frozen=True):
    name: str
    priority: int = 1
    mode: str = ""
    order: str = "weighted"
    revision: str | int | None = None


class SubQueueInfo(msgspec.Struct, frozen=True):
    name: str
    priority: int = 1


class DeploymentInfo(msgspec.Struct, frozen=True):
    git_url: str
    startup_cmd: str
    branch: str = "main"
    code_path: str | None = None
    mode: str = ""
    startup_timeout_secs: float = 1800
    startup_silence_secs: float = 0
    """0: no limit."""
    child_concurrency: int | None = None
    """The limit of tasks at once in a child; None: what the child announces."""
    requirements_file: str | None = None
    env_vars: dict[str, str] | None = None
    redis_storage: bool = True
    hide_payloads: bool = False
    replace_first: bool = False
    """End children before their successors start, because the machine has not enough memory for both."""


class LimitsInfo(msgspec.Struct, frozen=True):
    """The limits of a queue that its workers apply."""

    retry_delay_secs: float = 15
    retry_max_delay_secs: float = 600
    max_result_bytes: int = 0
    """0: no limit."""
    ttl_completed_secs: int = 0
    active_timeout_secs: int = 0


class QueueList(msgspec.Struct, frozen=True):
    queues: list[str]


class RegisteredWorker(msgspec.Struct, frozen=True):
    """The server's response to a registration."""

    redis: RedisInfo
    queue: QueueInfo
    deployment: DeploymentInfo
    worker_id: str = ""
    lease_secs: int | None = None
    archive_max_tasks: int = ARCHIVE_MAX_TASKS
    task_output: bool = False
    """Store what tasks print. Go's server does not send this, and would not delete the output with the task."""
    sub_queues: list[SubQueueInfo] | None = None
    limits: LimitsInfo = LimitsInfo()
    vaults: dict[str, str] | None = None
    git_token: str | None = None
    release: ReleaseInfo = ReleaseInfo(0)
    replacements: dict[str, int] | None = None
    """Children with another environment are replaced at once if one of these changes, and otherwise on request; None:
    always at once.
    """

    def __repr__(self) -> str:
        """Leave out the secrets."""
        return f"<RegisteredWorker {self.worker_id} for {self.queue.name}>"

    @property
    def lease_s(self) -> int:
        return LEASE_S if self.lease_secs is None else self.lease_secs

    @property
    def has_maintenance(self) -> bool:
        """Return whether the server forwards, recovers and deletes tasks. Go's does not, and sends no `lease_secs`."""
        return self.lease_secs is not None

    @property
    def secrets(self) -> list[str]:
        """Return the values that must not be logged."""
        texts = [self.redis.password, self.redis.sentinel_password, self.git_token, *(self.vaults or {}).values()]
        return [text for text in texts if text]

    @property
    def priorities(self) -> dict[str, int]:
        """Return the Redis queues to serve, with their priorities. Queues without a positive one are not served."""
        queues = self.sub_queues or [SubQueueInfo(self.queue.name, max(self.queue.priority, 1))]
        return {queue.name: queue.priority for queue in queues if queue.priority > 0}

    @property
    def is_one_shot(self) -> bool:
        """Return whether each task gets a child of its own."""
        return (self.queue.mode or self.deployment.mode) == "one_shot"

    @property
    def revision(self) -> str:
        """Return the revision of the queue's configuration; empty if the server sends none."""
        return "" if self.queue.revision is None else str(self.queue.revision)

    def deploys_like(self, other: "RegisteredWorker") -> bool:
        """Return whether both registrations deploy the same code."""
        return self._code == other._code  # noqa: SLF001 (of the same class)

    def is_urgent(self, before: Mapping[str, int]) -> bool:
        """Return whether children whose environment has changed since these numbers are to be replaced at once."""
        return any(before.get(name, number) != number for name, number in (self.replacements or {}).items())

    @property
    def _code(self) -> tuple[object, ...]:
        """Return the fields that determine which code is deployed, as opposed to how it is started."""
        info = self.deployment
        source = (info.git_url, info.branch, info.code_path or "", info.requirements_file or "")
        # Without a commit each release has the newest one.
        return (self.queue.name, self.release.commit or self.release.number, *source, self.git_token or "")


@cache
def own_version() -> str:
    # Cached, because each heartbeat contains it, and reading the package's metadata takes 2 ms.
    try:
        return version("runqy")
    except PackageNotFoundError:
        return "unknown"


def decode_registration(content: bytes) -> RegisteredWorker:
    """Decode the response to a registration. Raise RegistrationRefused; ServerUnavailable if it is none."""
    try:
        registration = read_json(content, RegisteredWorker)
        registration.redis.target  # noqa: B018 (an address that cannot be parsed fails here)
    except (msgspec.DecodeError, ValueError) as error:
        raise ServerUnavailable(f"The response to the registration is invalid: {error}") from error
    if not registration.priorities:
        raise RegistrationRefused(f"The queue {registration.queue.name!r} has no Redis queue to serve.")
    return registration


def decode_queues(content: bytes) -> list[str]:
    """Decode the list of queues that a worker may register for. Raise ServerUnavailable if it is none."""
    try:
        return read_json(content, QueueList).queues
    except (msgspec.DecodeError, ValueError) as error:
        raise ServerUnavailable(f"The server's list of queues is invalid: {error}") from error


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")  # an IPv6 address has colons too
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)


def register(settings: WorkerSettings, queue: str, *, worker_id: str, instance_id: str) -> RegisteredWorker:
    """Register once for a queue. See WorkerIdentity for the ids.

    Raise RegistrationRefused if it is useless to retry, QueueDisabled, ServerUnavailable or ServerUnprepared.
    """
    body = {
        "worker_id": worker_id,
        "queue": queue,
        "hostname": socket.gethostname(),
        "os": platform.system().lower(),
        "version": own_version(),
        "accepts": ["redis_acl", "releases"],
        "instance_id": instance_id,
    }
    return decode_registration(_send(settings, "POST", "/worker/register", queue, body))


def list_queues(settings: WorkerSettings) -> list[str]:
    """Return the queues that the API key may register for. Raise RegistrationRefused, ServerUnavailable."""
    return decode_queues(_send(settings, "GET", "/worker/queues", "*"))


def _send(
    settings: WorkerSettings, method: str, path: str, queue: str, body: Mapping[str, object] | None = None
) -> bytes:
    """Return the content of a successful response. The name of the queue is for errors."""
    headers, url = {"Authorization": f"Bearer {settings.api_key}"}, f"{settings.server_url}{path}"
    try:
        response = httpx2.request(method, url, json=body, headers=headers, timeout=TIMEOUT_S)
    except (httpx2.HTTPError, OSError) as error:  # without descriptors, httpx cannot read the certificates
        raise ServerUnavailable(f"{settings.server_url} cannot be reached: {error}") from error
    _raise_for_status(response, queue)
    return response.content


class RegistrationLoop:
    """Registers one worker for one queue, with retries."""

    def __init__(
        self,
        settings: WorkerSettings,
        register_once: Callable[[], RegisteredWorker],
        *,
        on_disabled: Callable[[], None],
        on_wait: Callable[[str], None],
    ) -> None:
        """`on_disabled` is called when the queue is disabled, `on_wait` with the reason before each wait."""
        # Set when something changed, so that the next attempt is made immediately.
        self.retry_now = asyncio.Event()
        self._settings = settings
        self._register_once = register_once
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
                registration = await run_in_thread(self._register_once)
            except (ServerUnavailable, ResourcesExhausted) as error:
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

    async def _wait(self, attempt: int, reason: str, max_s: float) -> None:
        first_s = self._settings.bootstrap_retry_delay_s
        delay = backoff_s(attempt - 1, first_s=first_s, max_s=max(first_s, max_s))
        self._on_wait(reason)
        self._failures.record("not_registered", key=reason, reason=reason, next_try_s=round(delay, 1))
        await wait_any(self.retry_now, timeout_s=delay)


def _raise_for_status(response: httpx2.Response, queue: str) -> None:
    status = response.status_code
    if status == httpx2.codes.OK:
        return
    problem = _read_problem(response)
    reason = _reason(response, problem)
    if not problem:
        # Of a proxy, an ingress without a backend, or another program: it says nothing about the key and the queue.
        hint = "This is no response of runqy: check RUNQY_SERVER_URL, and what is in front of the server."
        raise ServerUnavailable(f"The server responded {status}: {reason.rstrip('.')}. {hint}")
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
    raise RegistrationRefused(f"The server responded {status}: {reason.rstrip('.')}. Check RUNQY_SERVER_URL.")


def _read_problem(response: httpx2.Response) -> dict[str, object]:
    """Return the members of the problem document in the body; empty if it has none, or that of another program."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip() != "application/problem+json":
        return {}
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) and isinstance(problem.get("code"), str) else {}


def _reason(response: httpx2.Response, problem: dict[str, object]) -> str:
    reason = problem.get("detail") or problem.get("errors") or problem.get("title")
    return str(reason or response.text or response.reason_phrase)[:REASON_MAX_CHARS]
