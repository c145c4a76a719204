"""The server's response to a registration: where Redis is, what to deploy, which queues to serve."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec

from runqy.broker.connection.redis_client import RedisTarget
from runqy.broker.constants import ARCHIVE_MAX_TASKS, LEASE_S
from runqy.errors import RegistrationRefused
from runqy.formats.json_decoding import read_json


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


class QueueInfo(msgspec.Struct, frozen=True):
    name: str
    priority: int = 1
    mode: str = ""
    order: str = "weighted"
    revision: str | int | None = None
    redeployment: str | int | None = None


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
    requirements_file: str | None = None
    env_vars: dict[str, str] | None = None
    redis_storage: bool = True
    hide_payloads: bool = False


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

    @property
    def _code(self) -> tuple[object, ...]:
        """Return the fields that determine which code is deployed, as opposed to how it is started."""
        info = self.deployment
        source = (info.git_url, info.branch, info.code_path or "", info.requirements_file or "")
        return (self.queue.name, self.queue.redeployment, *source, self.git_token or "")


@cache
def own_version() -> str:
    # Cached, because each heartbeat contains it, and reading the package's metadata takes 2 ms.
    try:
        return version("runqy")
    except PackageNotFoundError:
        return "unknown"


def decode_registration(content: bytes) -> RegisteredWorker:
    """Decode the response to a registration. Raise RegistrationRefused."""
    try:
        registration = read_json(content, RegisteredWorker)
        registration.redis.target  # noqa: B018 (an address that cannot be parsed fails here)
    except (msgspec.DecodeError, ValueError) as error:
        raise RegistrationRefused(f"The response to the registration is invalid: {error}") from error
    if not registration.priorities:
        raise RegistrationRefused(f"The queue {registration.queue.name!r} has no Redis queue to serve.")
    return registration


def decode_queues(content: bytes) -> list[str]:
    """Decode the list of queues that a worker may register for. Raise RegistrationRefused."""
    try:
        return read_json(content, QueueList).queues
    except (msgspec.DecodeError, ValueError) as error:
        raise RegistrationRefused(f"The server's list of queues is invalid: {error}") from error


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")  # an IPv6 address has colons too
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)
