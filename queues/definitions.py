"""What a queue is: its deployment, limits, sub-queues and payload schema, as values without a database."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

import msgspec

from runqy.structs import read_json
from vaults.names import parse_reference

DEFAULT_SUB_QUEUE = "default"
"""The sub-queue that a queue's own name means."""


class QueueMode(StrEnum):
    """How a worker runs the code of a queue."""

    LONG_RUNNING = "long_running"
    ONE_SHOT = "one_shot"


class QueueOrder(StrEnum):
    """How a worker chooses among the sub-queues of a queue."""

    WEIGHTED = "weighted"
    STRICT = "strict"


class FieldType(StrEnum):
    """What the value of a payload's field may be."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    ARRAY = "array"
    OBJECT = "object"


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadField:
    """One field of a payload schema."""

    name: str
    type: tuple[FieldType, ...]
    required: bool = False
    default_json: str | None = None
    """JSON text that stands in for a missing field."""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubQueue:
    """A line of its own within a queue."""

    name: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a worker deploys and starts."""

    git_url: str
    branch: str = "main"
    code_path: str = ""
    startup_cmd: str
    startup_timeout_s: int = 60
    requirements_file: str = "requirements.txt"
    env_vars: Mapping[str, str] = field(default_factory=dict)
    redis_storage: bool = True
    vaults: tuple[str, ...] = ()
    """Names in order: a later one overrides an earlier one."""
    git_token: str = ""
    """`vault://<vault>/<key>`, never the token itself."""

    @property
    def vaults_used(self) -> list[str]:
        """Return the names of all vaults that a worker's answer draws on, the token's included."""
        reference = parse_reference(self.git_token)
        return sorted({*self.vaults, *([reference.vault] if reference else [])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a queue's tasks."""

    max_retry: int = 3
    ttl_completed_s: int = 24 * 3600
    ttl_archived_s: int = 72 * 3600
    pending_timeout_s: int = 0
    """0: a task may wait for ever."""
    active_timeout_s: int = 1800
    retry_delay_s: int = 15
    retry_max_delay_s: int = 600
    max_waiting_tasks: int = 0
    """How many tasks of each Redis queue may be pending, scheduled or to be retried; 0: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedLimits:
    """The limits that a queue sets itself; None leaves one to the server's default."""

    max_retry: int | None = None
    ttl_completed_s: int | None = None
    ttl_archived_s: int | None = None
    pending_timeout_s: int | None = None
    active_timeout_s: int | None = None
    retry_delay_s: int | None = None
    retry_max_delay_s: int | None = None
    max_waiting_tasks: int | None = None

    def completed_by(self, defaults: Limits) -> Limits:
        """Return limits without gaps."""
        stated = {limit.name: getattr(self, limit.name) for limit in fields(self)}
        gaps = {name: getattr(defaults, name) for name, value in stated.items() if value is None}
        return Limits(**stated | gaps)


COUNTED_LIMITS = ("max_retry", "max_waiting_tasks")
"""The limits that are numbers; the others are durations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """What a queue's specification and its definition share."""

    name: str
    priority: int
    """With sub-queues: the highest of theirs."""
    mode: QueueMode = QueueMode.LONG_RUNNING
    order: QueueOrder = QueueOrder.WEIGHTED
    sub_queues: tuple[SubQueue, ...] = ()
    deployment: Deployment
    input: tuple[PayloadField, ...] = ()
    output: tuple[PayloadField, ...] = ()
    is_enabled: bool = True

    def redis_queues(self, separator: str) -> list[tuple[str, int]]:
        """Return the names that stand in Redis, with their priorities; never an empty list."""
        if not self.sub_queues:
            return [(self.name, self.priority)]
        return [(f"{self.name}{separator}{sub.name}", sub.priority) for sub in self.sub_queues]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec(QueueFacts):
    """What people state about a queue, in a file, the admin or the API; stored and published as JSON."""

    limits: StatedLimits = field(default_factory=StatedLimits)

    def encode(self) -> bytes:
        """Return the JSON of all that differs from nothing said; equal specifications give equal bytes."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, body: bytes) -> "QueueSpec":
        """Return the specification in a JSON text made by `encode`."""
        return read_json(body, cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDefinition(QueueFacts):
    """A queue as the server and workers use it: nothing is left open."""

    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(cls, spec: QueueSpec, defaults: Limits) -> "QueueDefinition":
        """Return the definition that a specification makes where the server's defaults fill its gaps."""
        shared = {fact.name: getattr(spec, fact.name) for fact in fields(QueueFacts)}
        return cls(**shared, limits=spec.limits.completed_by(defaults))
