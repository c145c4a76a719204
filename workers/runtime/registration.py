"""What the server returns to a worker that registers: where Redis is, what to deploy, which queues to serve."""

from importlib.metadata import PackageNotFoundError, version

import msgspec

from runqy.broker.connection import RedisTarget
from runqy.errors import RegistrationRefused
from runqy.structs import read_json


class RedisInfo(msgspec.Struct, frozen=True):
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
        """Leave out the passwords."""
        return f"<RedisInfo {self.addr}>"

    @property
    def target(self) -> RedisTarget:
        """Return it as the broker's type. Raises ValueError for an address without a port."""
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
    """The queue registered for."""

    name: str
    priority: int = 1
    mode: str = ""
    order: str = "weighted"
    revision: str | int | None = None
    rollout: str | int | None = None


class SubQueueInfo(msgspec.Struct, frozen=True):
    """One Redis queue to serve."""

    name: str
    priority: int = 1


class DeploymentInfo(msgspec.Struct, frozen=True):
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


class LimitsInfo(msgspec.Struct, frozen=True):
    """The queue's limits that a worker has to know."""

    retry_delay_secs: float = 15
    retry_max_delay_secs: float = 600


class Registration(msgspec.Struct, frozen=True):
    """What the server returns to a worker."""

    redis: RedisInfo
    queue: QueueInfo
    deployment: DeploymentInfo
    worker_id: str = ""
    lease_secs: int = 30
    sub_queues: list[SubQueueInfo] | None = None
    limits: LimitsInfo = LimitsInfo()
    vaults: dict[str, str] | None = None
    git_token: str | None = None

    def __repr__(self) -> str:
        """Leave out the secrets."""
        return f"<Registration {self.worker_id} for {self.queue.name}>"

    @property
    def secrets(self) -> list[str]:
        """Return what must not be printed."""
        texts = [self.redis.password, self.redis.sentinel_password, self.git_token, *(self.vaults or {}).values()]
        return [text for text in texts if text]

    @property
    def priorities(self) -> dict[str, int]:
        """Return the Redis queues to serve, with their priorities; what has none above 0 is not served."""
        queues = self.sub_queues or [SubQueueInfo(self.queue.name, max(self.queue.priority, 1))]
        return {queue.name: queue.priority for queue in queues if queue.priority > 0}

    @property
    def is_one_shot(self) -> bool:
        """Return whether each task gets a child of its own."""
        return (self.queue.mode or self.deployment.mode) == "one_shot"

    @property
    def token(self) -> str:
        """Return what changes with the queue's configuration; empty: the server does not say."""
        return "" if self.queue.revision is None else str(self.queue.revision)

    def deploys_like(self, other: "Registration") -> bool:
        """Return whether both run the same deployed code."""
        return self._code == other._code  # noqa: SLF001 (of the same class)

    @property
    def _code(self) -> tuple[object, ...]:
        """Return what decides which code is deployed, as opposed to how it is started."""
        info = self.deployment
        source = (info.git_url, info.branch, info.code_path or "", info.requirements_file or "")
        return (self.queue.name, self.queue.rollout, *source, self.git_token or "")


def own_version() -> str:
    """Return the version of this package."""
    try:
        return version("runqy")
    except PackageNotFoundError:
        return "unknown"


def decode_registration(content: bytes) -> Registration:
    """Read the response to a registration. Raises RegistrationRefused."""
    try:
        registration = read_json(content, Registration)
        registration.redis.target  # noqa: B018 (an address that cannot be parsed fails here)
    except (msgspec.DecodeError, ValueError) as error:
        raise RegistrationRefused(f"The response is not one to a registration: {error}") from error
    if not registration.priorities:
        raise RegistrationRefused(f"The queue {registration.queue.name!r} has no Redis queue to serve.")
    return registration


def _address(text: str) -> tuple[str, int]:
    """Split host and port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)
