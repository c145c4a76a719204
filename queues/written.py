"""The structure of queue files: which keys there are, of which types, and what they become."""

import difflib
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import msgspec

from queues.definitions import (
    COUNTED_LIMITS,
    Deployment,
    FieldType,
    PayloadField,
    QueueMode,
    QueueOrder,
    QueueSpec,
    StatedLimits,
)
from queues.validation import Path, Problem
from runqy import durations
from runqy.errors import QueueInvalid
from runqy.structs import convert

Span = int | str
"""Whole seconds, or a duration as Go spells it."""

_MOST_PROBLEMS = 20
_VALUES: dict[str, list[str]] = {"mode": list(QueueMode), "order": list(QueueOrder), "type": list(FieldType)}
_FIELD = {"name": "x", "type": "string"}
_SUB_QUEUE = {"name": "x", "priority": 1}
_DEPLOYMENT = {"git_url": "x", "startup_cmd": "x"}
_RIGHT: dict[str, object] = {**_FIELD, **_SUB_QUEUE, **_DEPLOYMENT, "deployment": _DEPLOYMENT}
"""What would be right for keys that have to be there; others are right when they are not."""
_RIGHT_ITEM: dict[str, object] = {
    "type": "string",
    "vaults": "x",
    "sub_queues": _SUB_QUEUE,
    "input": _FIELD,
    "output": _FIELD,
}
"""What would be right for an item of a list."""


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
    max_waiting_tasks: int | None = None


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


def read_queue(written: object) -> WrittenQueue | list[Problem]:
    """Return the structure of a queue, or all that is wrong with it, in the order in which it is found.

    What is found wrong is put right in a copy, so that the next thing is found.
    """
    problems: list[Problem] = []
    draft = deepcopy(written)
    while len(problems) < _MOST_PROBLEMS:
        try:
            queue = convert(draft, WrittenQueue)
        except msgspec.ValidationError as error:
            finding = _read_finding(str(error))
            if finding.problem in problems:
                break
            problems.append(finding.problem)
            if not finding.mend(draft):
                break
        else:
            return problems or queue
    return problems


def parse_fields(written: object) -> tuple[PayloadField, ...]:
    """Return the payload schema in a structure that is spelled as in queue files. Raises QueueInvalid."""
    try:
        return tuple(field_of(field) for field in convert(written, list[WrittenField]))
    except msgspec.ValidationError as error:
        raise QueueInvalid(_read_finding(str(error)).problem.reason) from error


def write_fields(schema: Sequence[PayloadField]) -> list[dict[str, Any]]:
    """Return a payload schema as plain values, spelled as in queue files."""
    return [write_field(field) for field in schema]


def write_field(field: PayloadField) -> dict[str, Any]:
    """Return a payload field as plain values, spelled as in queue files."""
    written: dict[str, Any] = {"name": field.name, "type": [kind.value for kind in field.type]}
    written["required"] = field.required
    if field.default_json is not None:
        written["default"] = msgspec.json.decode(field.default_json)
    if field.description:
        written["description"] = field.description
    return written


def write_spec(spec: QueueSpec) -> dict[str, Any]:
    """Return a specification as plain values, spelled as in queue files; reading them gives it again."""
    return {
        "priority": spec.priority,
        "mode": spec.mode.value,
        "order": spec.order.value,
        "sub_queues": msgspec.to_builtins(spec.sub_queues),
        "deployment": write_deployment(spec),
        "input": write_fields(spec.input),
        "output": write_fields(spec.output),
    }


def write_deployment(spec: QueueSpec) -> dict[str, Any]:
    """Return the deployment, mode and limits of a specification as plain values, spelled as in queue files."""
    deployment: dict[str, Any] = msgspec.to_builtins(spec.deployment)
    deployment["startup_timeout_secs"] = deployment.pop("startup_timeout_s")
    limits = {name: value for name, value in msgspec.to_builtins(spec.limits).items() if value is not None}
    deployment["limits"] = {name.removesuffix("_s"): value for name, value in limits.items()}
    return deployment | {"mode": spec.mode.value}


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
    for name in WrittenLimits.__struct_fields__:
        value = getattr(written, name)
        try:
            if value is not None and name not in COUNTED_LIMITS:
                spans[f"{name}_s"] = durations.parse_s(str(value))
        except ValueError as error:
            problems.append(Problem(("deployment", "limits", name), str(error)))
    counts = {name: getattr(written, name) for name in COUNTED_LIMITS}
    return StatedLimits(**counts, **spans), problems


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What msgspec found wrong, and at which path something else would be right."""

    problem: Problem
    path: Path
    is_unknown: bool = False
    meant: str = ""
    """The key that an unknown one is close to."""

    def mend(self, draft: Any) -> bool:
        """Put what would be right into its place; returns whether that was possible."""
        *way, last = self.path or ("",)
        try:
            for step in way:
                draft = draft[step]
            if self.is_unknown:
                draft.setdefault(self.meant, draft.pop(last)) if self.meant else draft.pop(last)
            elif isinstance(last, int):
                draft[last] = deepcopy(_RIGHT_ITEM[str(way[-1])])
            elif last in _RIGHT:
                draft[last] = deepcopy(_RIGHT[last])
            else:
                del draft[last]
        except (KeyError, IndexError, TypeError, AttributeError):
            return False
        return True


def _read_finding(message: str) -> _Finding:
    """Return what msgspec found wrong, with the path it names."""
    reason, _, place = message.partition(" - at `$")
    path: Path = tuple(
        int(index) if index else name
        for name, index in re.findall(r"\.([A-Za-z_]+)|\[(\d+)\]", place)  # `[...]` stands for any key
    )
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", reason, re.DOTALL):
        known = _known_keys(path)
        problem = Problem((*path, match[1]), unknown_key(match[1], known))
        return _Finding(problem=problem, path=problem.path, is_unknown=True, meant=_closest(match[1], known))
    if match := re.fullmatch(r"Object missing required field `(.*)`", reason):
        return _Finding(problem=Problem(path, f"`{match[1]}` is missing"), path=(*path, match[1]))
    return _Finding(problem=Problem(path, reason[:1].lower() + reason[1:] + _alternatives(path, reason)), path=path)


def _alternatives(path: Path, reason: str) -> str:
    """Return the values that there are in the place of one that there is not."""
    names = [part for part in path if isinstance(part, str)]
    values = _VALUES.get(names[-1]) if names and reason.startswith("Invalid enum value") else None
    return f"; it must be one of {', '.join(values)}" if values else ""


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
    meant = _closest(key, known)
    return f"unknown key; did you mean `{meant}`?" if meant else "unknown key"


def _closest(key: str, known: Sequence[str]) -> str:
    """Return the known key that another one is nearly; empty: none."""
    return next(iter(difflib.get_close_matches(key, known, n=1)), "")
