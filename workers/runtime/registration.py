"""Registers with the server and reads its answer: where Redis is, what to deploy, which queues to serve."""

import platform
import socket
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import httpx2
import msgspec

from runqy.broker.connection import RedisTarget
from runqy.errors import (
    ConfigurationUnavailable,
    QueueDisabled,
    QueueNotFound,
    RegistrationRefused,
    ServerUnavailable,
    ServerUnprepared,
    VaultLocked,
    VaultUnavailable,
)
from runqy.structs import read_json

TIMEOUT_S = 30.0
_SHOWN_CHARS = 500
_UNPREPARED = {ConfigurationUnavailable.code, VaultLocked.code, VaultUnavailable.code}
"""The codes of problems that last until somebody configures the server."""


class RedisAnswer(msgspec.Struct, frozen=True):
    """Where Redis is."""

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
        """Show where, never how."""
        return f"<RedisAnswer {self.addr}>"

    @property
    def target(self) -> RedisTarget:
        """Return the same as the broker takes it. Raises ValueError for an address without a port."""
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


class QueueAnswer(msgspec.Struct, frozen=True):
    """The queue registered for."""

    name: str
    priority: int = 1
    mode: str = ""
    order: str = "weighted"
    revision: str | int | None = None
    rollout: str | int | None = None


class SubQueueAnswer(msgspec.Struct, frozen=True):
    """One Redis queue to serve."""

    name: str
    priority: int = 1


class DeploymentAnswer(msgspec.Struct, frozen=True):
    """What to deploy and to start."""

    git_url: str
    startup_cmd: str
    branch: str = "main"
    code_path: str | None = None
    mode: str = ""
    startup_timeout_secs: float = 60
    requirements_file: str | None = None
    env_vars: dict[str, str] | None = None
    redis_storage: bool = True


class LimitsAnswer(msgspec.Struct, frozen=True):
    """The queue's limits that a worker has to know."""

    retry_delay_secs: float = 15
    retry_max_delay_secs: float = 600


class Registration(msgspec.Struct, frozen=True):
    """What the server answers to a worker."""

    redis: RedisAnswer
    queue: QueueAnswer
    deployment: DeploymentAnswer
    worker_id: str = ""
    lease_secs: int = 30
    sub_queues: list[SubQueueAnswer] | None = None
    limits: LimitsAnswer = LimitsAnswer()
    vaults: dict[str, str] | None = None
    git_token: str | None = None

    def __repr__(self) -> str:
        """Show which queue, never the secrets."""
        return f"<Registration {self.worker_id} for {self.queue.name}>"

    @property
    def secrets(self) -> list[str]:
        """Return what must not be printed."""
        texts = [self.redis.password, self.redis.sentinel_password, self.git_token, *(self.vaults or {}).values()]
        return [text for text in texts if text]

    @property
    def priorities(self) -> dict[str, int]:
        """Return the Redis queues to serve, with their priorities; what has none above 0 is not served."""
        queues = self.sub_queues or [SubQueueAnswer(self.queue.name, max(self.queue.priority, 1))]
        return {queue.name: queue.priority for queue in queues if queue.priority > 0}

    @property
    def is_one_shot(self) -> bool:
        """Tell whether each task gets a child of its own."""
        return (self.queue.mode or self.deployment.mode) == "one_shot"

    @property
    def token(self) -> str:
        """Return what changes with the queue's configuration; empty: the server does not say."""
        return "" if self.queue.revision is None else str(self.queue.revision)

    def deploys_like(self, other: "Registration") -> bool:
        """Tell whether the code that was deployed for the one is that of the other."""
        return self._code == other._code  # noqa: SLF001 (of the same class)

    @property
    def _code(self) -> tuple[object, ...]:
        """Return what decides which code is deployed, as opposed to how it is started."""
        asked = self.deployment
        place = (asked.git_url, asked.branch, asked.code_path or "", asked.requirements_file or "")
        return (self.queue.name, self.queue.rollout, *place, self.git_token or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """Asks one server, with one key."""

    server_url: str
    api_key: str

    def register(self, *, worker_id: str, queue: str) -> Registration:
        """Register for a queue.

        Raises RegistrationRefused when asking again is of no use, QueueDisabled, ServerUnavailable, ServerUnprepared.
        """
        body = {
            "worker_id": worker_id,
            "queue": queue,
            "hostname": socket.gethostname(),
            "os": platform.system().lower(),
            "version": own_version(),
        }
        headers = {"Authorization": f"Bearer {self.api_key}"}
        try:
            response = httpx2.post(f"{self.server_url}/worker/register", json=body, headers=headers, timeout=TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise ServerUnavailable(f"{self.server_url} cannot be reached: {error}") from error
        _raise_for_status(response, queue)
        return _decode(response.content)


def own_version() -> str:
    """Return the version of this package."""
    try:
        return version("runqy")
    except PackageNotFoundError:
        return "unknown"


def _raise_for_status(response: httpx2.Response, queue: str) -> None:
    """Say what a refusal means."""
    status = response.status_code
    if status == httpx2.codes.OK:
        return
    problem = _problem(response)
    said = _said(response, problem)
    if status == httpx2.codes.CONFLICT:
        raise QueueDisabled(said)
    if status == httpx2.codes.UNAUTHORIZED:
        raise RegistrationRefused(f"The server does not know this API key ({said}). Check RUNQY_API_KEY.")
    if status == httpx2.codes.FORBIDDEN:
        raise RegistrationRefused(f"This API key may not register a worker for {queue!r} ({said}).")
    if status == httpx2.codes.NOT_FOUND and problem.get("code") == QueueNotFound.code:
        raise RegistrationRefused(f"The server has no queue {queue!r} ({said}). Check RUNQY_QUEUES.")
    if status == httpx2.codes.SERVICE_UNAVAILABLE and problem.get("code") in _UNPREPARED:
        raise ServerUnprepared(f"The server answered {status}: {said}")
    if status >= 500 or status in {httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.REQUEST_TIMEOUT}:
        raise ServerUnavailable(f"The server answered {status}: {said}")
    raise RegistrationRefused(f"The server answered {status}: {said}. Check RUNQY_SERVER_URL.")


def _problem(response: httpx2.Response) -> dict[str, object]:
    """Return the members of the problem that a refusal describes; none if it is not ours."""
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _said(response: httpx2.Response, problem: dict[str, object]) -> str:
    """Return the reason that a refusal gives."""
    reason = problem.get("detail") or problem.get("errors") or problem.get("title")
    return str(reason or response.text or response.reason_phrase)[:_SHOWN_CHARS]


def _decode(content: bytes) -> Registration:
    """Read the server's answer."""
    try:
        registration = read_json(content, Registration)
        registration.redis.target  # noqa: B018 (an address that cannot be read is found out here)
    except (msgspec.DecodeError, ValueError) as error:
        raise RegistrationRefused(f"The server's answer is none to a registration: {error}") from error
    if not registration.priorities:
        raise RegistrationRefused(f"The queue {registration.queue.name!r} has no Redis queue to serve.")
    return registration


def _address(text: str) -> tuple[str, int]:
    """Split host and port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)
