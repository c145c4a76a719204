"""The structure of queue files: which keys there are, of which types, and what they become."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from queues.definitions import Deployment, FieldType, PayloadField, QueueMode, QueueOrder, QueueSpec, StatedLimits
from queues.validation import Path, Problem
from runqy import durations
from runqy.errors import QueueInvalid

Span = int | str
"""Whole seconds, or a duration as Go spells it."""


class _Written(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A mapping in a queue file; a key that it does not know is an error."""


class WrittenSubQueue(_Written):
    name: str
    priority: int


class WrittenField(_Written):
    name: str
    type: FieldType | list[FieldType]
    required: bool = False
    default: Any = msgspec.UNSET
    description: str = ""


class WrittenLimits(_Written):
    max_retry: int | None = None
    ttl_completed: Span | None = None
    ttl_archived: Span | None = None
    pending_timeout: Span | None = None
    active_timeout: Span | None = None
    retry_delay: Span | None = None
    retry_max_delay: Span | None = None


class WrittenDeployment(_Written):
    git_url: str
    startup_cmd: str
    branch: str = "main"
    code_path: str = ""
    mode: QueueMode | None = None
    startup_timeout_secs: int = 60
    requirements_file: str = "requirements.txt"
    env_vars: dict[str, str] = {}
    redis_storage: bool = True
    vaults: list[str] = []
    git_token: str = ""
    limits: WrittenLimits = msgspec.field(default_factory=WrittenLimits)


class WrittenQueue(_Written):
    deployment: WrittenDeployment
    priority: int | None = None
    mode: QueueMode | None = None
    order: QueueOrder = QueueOrder.WEIGHTED
    sub_queues: list[WrittenSubQueue] = []
    input: list[WrittenField] = []
    output: list[WrittenField] = []


def read_queue(written: object) -> WrittenQueue | Problem:
    """Return the structure of a queue, or what is wrong with it."""
    try:
        return msgspec.convert(written, WrittenQueue)
    except msgspec.ValidationError as error:
        return _structure_problem(str(error))


def parse_fields(written: object) -> tuple[PayloadField, ...]:
    """Return the payload schema in a structure that is spelled as in queue files. Raises QueueInvalid."""
    try:
        return tuple(field_of(field) for field in msgspec.convert(written, list[WrittenField]))
    except msgspec.ValidationError as error:
        raise QueueInvalid(_structure_problem(str(error)).reason) from error


def write_fields(schema: Sequence[PayloadField]) -> list[dict[str, Any]]:
    """Return a payload schema as plain values, spelled as in queue files."""
    return [_write_field(field) for field in schema]


def write_spec(spec: QueueSpec) -> dict[str, Any]:
    """Return a specification as plain values, spelled as in queue files; reading them gives it again."""
    deployment = msgspec.to_builtins(spec.deployment)
    deployment["startup_timeout_secs"] = deployment.pop("startup_timeout_s")
    stated = {name: value for name, value in msgspec.to_builtins(spec.limits).items() if value is not None}
    deployment["limits"] = {name.removesuffix("_s"): value for name, value in stated.items()}
    return {
        "priority": spec.priority,
        "mode": spec.mode.value,
        "order": spec.order.value,
        "sub_queues": msgspec.to_builtins(spec.sub_queues),
        "deployment": deployment | {"mode": spec.mode.value},
        "input": write_fields(spec.input),
        "output": write_fields(spec.output),
    }


def _write_field(field: PayloadField) -> dict[str, Any]:
    """Return a payload field as plain values."""
    written: dict[str, Any] = {"name": field.name, "type": [kind.value for kind in field.type]}
    written["required"] = field.required
    if field.default_json is not None:
        written["default"] = msgspec.json.decode(field.default_json)
    if field.description:
        written["description"] = field.description
    return written


def deployment_of(written: WrittenDeployment) -> Deployment:
    """Return the deployment that is written."""
    return Deployment(
        git_url=written.git_url,
        branch=written.branch,
        code_path=written.code_path.rstrip("/") or written.code_path[:1],
        startup_cmd=written.startup_cmd,
        startup_timeout_s=written.startup_timeout_secs or 60,
        requirements_file=written.requirements_file,
        env_vars=written.env_vars,
        redis_storage=written.redis_storage,
        vaults=tuple(written.vaults),
        git_token=written.git_token,
    )


def field_of(written: WrittenField) -> PayloadField:
    """Return the payload field that is written."""
    types = written.type if isinstance(written.type, list) else [written.type]
    has_default = written.default is not msgspec.UNSET
    return PayloadField(
        name=written.name,
        type=tuple(types),
        required=written.required,
        default_json=msgspec.json.encode(written.default).decode() if has_default else None,
        description=written.description,
    )


def limits_of(written: WrittenLimits) -> tuple[StatedLimits, list[Problem]]:
    """Return the limits that are written, in seconds, and what is wrong with their spelling."""
    spans: dict[str, int] = {}
    problems = []
    for name in WrittenLimits.__struct_fields__[1:]:
        value = getattr(written, name)
        try:
            if value is not None:
                spans[f"{name}_s"] = durations.parse_s(str(value))
        except ValueError as error:
            problems.append(Problem(("deployment", "limits", name), str(error)))
    return StatedLimits(max_retry=written.max_retry, **spans), problems


def _structure_problem(message: str) -> Problem:
    """Return what msgspec found wrong, with the path it names."""
    reason, _, place = message.partition(" - at `$")
    path: Path = tuple(
        int(index) if index else name
        for name, index in re.findall(r"\.([A-Za-z_]+)|\[(\d+)\]", place)  # `[...]` stands for any key
    )
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", reason, re.DOTALL):
        return Problem((*path, match[1]), unknown_key(match[1], _known_keys(path)))
    if match := re.fullmatch(r"Object missing required field `(.*)`", reason):
        return Problem(path, f"`{match[1]}` is missing")
    return Problem(path, reason[:1].lower() + reason[1:])


def _known_keys(path: Path) -> tuple[str, ...]:
    """Return the keys that the mapping at a path may have."""
    kinds = {
        "deployment": WrittenDeployment,
        "limits": WrittenLimits,
        "sub_queues": WrittenSubQueue,
        "input": WrittenField,
        "output": WrittenField,
    }
    names = [part for part in path if isinstance(part, str)]
    return (kinds[names[-1]] if names and names[-1] in kinds else WrittenQueue).__struct_fields__


def unknown_key(key: str, known: tuple[str, ...] | list[str]) -> str:
    """Return what to say about a key that nobody knows."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean `{close[0]}`?" if close else "unknown key"
