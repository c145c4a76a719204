"""A queue's definition as immutable values: deployment, limits, sub-queues and payload schema. Needs no Django."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

import msgspec

from runqy.core.formats import durations, sizes
from runqy.core.formats.json_decoding import read_json
from runqy.core.formats.names import DEFAULT_SUB_QUEUE
from vaults.entry_rules import parse_reference

CHILD_CONCURRENCY_MAX = 256
ALL_QUEUES = "*"


class QueueMode(StrEnum):
    """How a worker runs the code of a queue."""

    LONG_RUNNING = "long_running"
    ONE_SHOT = "one_shot"


class QueueOrder(StrEnum):
    """How a worker chooses among the sub-queues of a queue."""

    WEIGHTED = "weighted"
    STRICT = "strict"


class ReleaseMode(StrEnum):
    """What releases the code of a queue."""

    MANUAL = "manual"
    """Users and clients."""
    PUSH = "push"
    """A push to its branch, too."""


class FieldType(StrEnum):
    """JSON types of a payload field."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    ARRAY = "array"
    OBJECT = "object"


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadField:
    name: str
    type: tuple[FieldType, ...]
    required: bool = False
    default_json: str | None = None
    """The value of a missing field, as JSON text; None if there is none."""
    description: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PayloadField":
        """Return the field that is described by the output of `to_json` or by validated data."""
        default = {"default_json": msgspec.json.encode(data["default"]).decode()} if "default" in data else {}
        return cls(
            name=data["name"],
            type=tuple(FieldType(kind) for kind in data["type"]),
            required=data.get("required", False),
            description=data.get("description", ""),
            **default,
        )

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "type": [kind.value for kind in self.type]}
        data["required"] = self.required
        if self.default_json is not None:
            data["default"] = msgspec.json.decode(self.default_json)
        if self.description:
            data["description"] = self.description
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class SubQueueSpec:
    """A part of a queue with a priority of its own."""

    name: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The code that workers deploy and start."""

    git_url: str
    branch: str = "main"
    code_path: str = ""
    startup_cmd: str
    startup_timeout_s: int = 0
    """0 means the default; see `max_startup_s`."""
    child_concurrency: int | None = None
    """The limit of tasks at once in a process that announces more; None: what it announces."""
    requirements_file: str = "requirements.txt"
    env_vars: Mapping[str, str] = field(default_factory=dict)
    redis_storage: bool = True
    hide_payloads: bool = False
    """See `hides_payloads` of `queues/queries.py`."""
    vaults: tuple[str, ...] = ()
    """Names, in order: a later vault overrides an earlier one."""
    git_token: str = ""
    """`vault://<vault>/<key>`, never the token itself."""
    release: ReleaseMode = ReleaseMode.MANUAL
    rollout_first: int = 1
    """How many workers run a new release before all others."""
    rollout_bake_s: int = 60
    """For how long they run it before the others follow."""
    rollout_max_unavailable: int = 25
    """How many of the workers, in percent, change to it at a time then. At least one does."""
    replace_first: bool = False
    """End a process before its successor starts, because the machine has not enough memory for both."""
    keep_previous: bool = False
    """Keep the previous process of the first workers until a release has succeeded on them."""

    @property
    def max_startup_s(self) -> int:
        """How long a process may take until it is ready."""
        return self.startup_timeout_s or 1800

    @property
    def max_startup_silence_s(self) -> int:
        """How long it may use no CPU and print nothing until then; 0, no limit, if the queue sets its own timeout."""
        return 0 if self.startup_timeout_s else 600

    @property
    def referenced_vaults(self) -> list[str]:
        """The names of all vaults whose values workers receive, including that of the git token."""
        reference = parse_reference(self.git_token)
        return sorted({*self.vaults, *([reference.vault] if reference else [])})

    def find_refused_vaults(self, allowed: frozenset[str] | None) -> list[str]:
        """Return the vaults without which a key that may only use these cannot serve the queue; None: all."""
        return [] if allowed is None else [vault for vault in self.referenced_vaults if vault not in allowed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a queue's tasks."""

    max_retry: int = 3
    ttl_completed_s: int = 24 * 3600
    ttl_archived_s: int = 72 * 3600
    pending_timeout_s: int = 0
    """0 means no limit."""
    active_timeout_s: int = 1800
    retry_delay_s: int = 15
    retry_max_delay_s: int = 600
    max_waiting_tasks: int = 0
    """Pending, scheduled and retry tasks of each Redis queue; 0 means no limit."""
    max_payload_bytes: int = 0
    """0 means the server's limit."""
    max_result_bytes: int = 0
    """0 means the worker's limit."""
    max_memory_share: int = 50
    """Percent of Redis's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOverrides:
    """The limits that a queue sets. None means the server's default."""

    max_retry: int | None = None
    ttl_completed_s: int | None = None
    ttl_archived_s: int | None = None
    pending_timeout_s: int | None = None
    active_timeout_s: int | None = None
    retry_delay_s: int | None = None
    retry_max_delay_s: int | None = None
    max_waiting_tasks: int | None = None
    max_payload_bytes: int | None = None
    max_result_bytes: int | None = None
    max_memory_share: int | None = None

    def with_defaults(self, defaults: Limits) -> Limits:
        overrides = {limit.name: getattr(self, limit.name) for limit in fields(self)}
        return replace(defaults, **{name: value for name, value in overrides.items() if value is not None})


def format_limit(name: str, value: int) -> str:
    """Return a limit as people write it: `10m`, `1MiB` or `3`."""
    if name.endswith("_s"):
        return durations.format_short(value)
    return sizes.format_short(value) if name.endswith("_bytes") else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBase:
    """The fields that a specification and a definition of a queue share."""

    name: str
    priority: int
    """With sub-queues, the highest of their priorities."""
    mode: QueueMode = QueueMode.LONG_RUNNING
    order: QueueOrder = QueueOrder.WEIGHTED
    sub_queues: tuple[SubQueueSpec, ...] = ()
    deployment: Deployment
    webhook_hosts: tuple[str, ...] = ()
    """The hosts that webhooks of single tasks may be sent to."""
    input: tuple[PayloadField, ...] = ()
    output: tuple[PayloadField, ...] = ()
    is_enabled: bool = True

    def redis_queues(self, separator: str) -> list[tuple[str, int]]:
        """Return the names of the Redis queues with their priorities; never an empty list."""
        if not self.sub_queues:
            # With "." a queue has the name that the Go system gives it.
            return [(f"{self.name}.{DEFAULT_SUB_QUEUE}" if separator == "." else self.name, self.priority)]
        return [(f"{self.name}{separator}{sub.name}", sub.priority) for sub in self.sub_queues]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec(QueueBase):
    """A queue as a file, the admin or the API defines it. It is published as JSON."""

    limits: LimitOverrides = field(default_factory=LimitOverrides)

    @classmethod
    def build(
        cls,
        *,
        deployment: Mapping[str, Any],
        limits: Mapping[str, Any],
        sub_queues: Iterable[SubQueueSpec],
        **columns: Any,
    ) -> "QueueSpec":
        """Return the specification in the columns of a row, or in validated data with the same names."""
        subs = tuple(sub_queues)
        typed = {
            "vaults": tuple(deployment.get("vaults", ())),
            "env_vars": dict(deployment.get("env_vars", {})),
            "release": ReleaseMode(deployment.get("release", ReleaseMode.MANUAL)),
        }
        return cls(
            **columns
            | {
                "priority": max((sub.priority for sub in subs), default=columns["priority"]),
                "mode": QueueMode(columns["mode"]),
                "order": QueueOrder(columns.get("order", QueueOrder.WEIGHTED)),
                "input": tuple(map(PayloadField.from_json, columns.get("input", ()))),
                "output": tuple(map(PayloadField.from_json, columns.get("output", ()))),
                "webhook_hosts": tuple(columns.get("webhook_hosts", ())),
            },
            sub_queues=subs,
            deployment=Deployment(**{**deployment, **typed}),
            limits=LimitOverrides(**limits),
        )

    def encode(self) -> bytes:
        """Return the specification as JSON. Equal specifications have equal bytes."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, body: bytes) -> "QueueSpec":
        return read_json(body, cls)


CODE_COLUMNS = ("git_url", "branch", "code_path", "startup_cmd", "requirements_file")
"""What a release fixes. Everything else of a definition applies to all releases."""


class PublishedRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release as workers run it."""

    number: int
    commit: str
    git_url: str
    branch: str
    code_path: str
    startup_cmd: str
    requirements_file: str
    requires_ref: bool = False
    """Whether a branch or tag must contain the commit, because a user named it and it was never live."""
    is_proving: bool = False
    """Whether it may still be reverted for how its runs end."""
    goes_back_to: int = 0
    """Of a rollback, the number of the release that it goes back to: processes of later ones take no more tasks."""

    @property
    def code(self) -> dict[str, Any]:
        return {column: getattr(self, column) for column in CODE_COLUMNS}


class PublishedReleases(msgspec.Struct, frozen=True, kw_only=True):
    """The published document of a queue's releases."""

    live: PublishedRelease | None = None
    candidate: PublishedRelease | None = None
    """The release that is rolling out."""
    workers: frozenset[str] = frozenset()
    """The ids of the workers that run the candidate."""
    is_whole: bool = False
    """All workers run it."""
    replacements: int = 0
    """How often a change of the queue was saved that replaces processes at once."""

    def of_worker(self, worker_id: str) -> PublishedRelease | None:
        """Return the release that a worker runs; None: it follows the branch."""
        return self.candidate if self.candidate and (self.is_whole or worker_id in self.workers) else self.live


class PublishedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The published document of a webhook endpoint that is told of the ends of tasks."""

    since: dict[str, int]
    """The revision of the configuration from which on it covers a queue, by the queue's name; ALL_QUEUES covers also
    those that are made later.
    """
    include_result: bool = False

    def covers_since(self, queue: str) -> int | None:
        return self.since.get(queue, self.since.get(ALL_QUEUES))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNotify:
    """Who is told when a task of a queue ends, whatever the task itself asks for."""

    endpoints: bool = False
    """Whether a webhook endpoint covers the queue."""
    include_result: bool = False
    """Whether one of them wants the result."""
    revision: int = 0
    """The newest revision from which on one of them covers the queue: an end is not sent to endpoints that came
    later.
    """

    @classmethod
    def of(cls, queue: str, endpoints: Iterable[PublishedEndpoint]) -> "QueueNotify":
        covering = [(since, each) for each in endpoints if (since := each.covers_since(queue)) is not None]
        return cls(
            endpoints=bool(covering),
            include_result=any(endpoint.include_result for _, endpoint in covering),
            revision=max((since for since, _ in covering), default=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDefinition(QueueBase):
    """A queue with all limits set, as the server and workers use it."""

    limits: Limits = field(default_factory=Limits)
    notify: QueueNotify = field(default_factory=QueueNotify)

    @classmethod
    def of(cls, spec: QueueSpec, defaults: Limits) -> "QueueDefinition":
        """Return the definition of a specification. Limits that it does not set are the server's defaults."""
        shared = {column.name: getattr(spec, column.name) for column in fields(QueueBase)}
        return cls(**shared, limits=spec.limits.with_defaults(defaults))
