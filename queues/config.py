"""Reads queue files and the same structure from elsewhere: checks it, and says what is wrong and where."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from queues.definitions import (
    Deployment,
    FieldType,
    PayloadField,
    QueueMode,
    QueueOrder,
    QueueSpec,
    StatedLimits,
    SubQueue,
)
from queues.located_yaml import LocatedYaml, Path, YamlInvalid, read_yaml
from queues.names import find_collision
from queues.validation import Problem, find_problems
from runqy import durations
from runqy.errors import QueueInvalid

Span = int | str
"""Whole seconds, or a duration as Go spells it."""


@dataclass(frozen=True, slots=True)
class FileError:
    """What is wrong at one place of a queue file."""

    file: str
    line: int
    key: str
    reason: str

    def __str__(self) -> str:
        """Say it as compilers do."""
        return (
            f"{self.file}:{self.line}: {self.key}: {self.reason}"
            if self.key
            else f"{self.file}:{self.line}: {self.reason}"
        )


@dataclass(frozen=True, slots=True)
class QueueFile:
    """What a queue file says: its queues, or if anything is wrong with it only that."""

    specs: tuple[QueueSpec, ...] = ()
    errors: tuple[FileError, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    """Where each queue begins."""


class _Written(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A mapping in a queue file; a key that it does not know is an error."""


class _SubQueue(_Written):
    name: str
    priority: int


class _Field(_Written):
    name: str
    type: FieldType | list[FieldType]
    required: bool = False
    default: Any = msgspec.UNSET
    description: str = ""


class _Limits(_Written):
    max_retry: int | None = None
    ttl_completed: Span | None = None
    ttl_archived: Span | None = None
    pending_timeout: Span | None = None
    active_timeout: Span | None = None
    retry_delay: Span | None = None
    retry_max_delay: Span | None = None


class _Deployment(_Written):
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
    limits: _Limits = msgspec.field(default_factory=_Limits)


class _Queue(_Written):
    deployment: _Deployment
    priority: int | None = None
    mode: QueueMode | None = None
    order: QueueOrder = QueueOrder.WEIGHTED
    sub_queues: list[_SubQueue] = []
    input: list[_Field] = []
    output: list[_Field] = []


def parse_queue_file(raw: bytes, *, file: str) -> QueueFile:
    """Read a queue file. One wrong queue makes the whole file wrong, so that half of an edit is never applied."""
    try:
        located = read_yaml(raw)
    except YamlInvalid as error:
        return QueueFile(errors=(FileError(file, error.line, _spell(error.path), error.reason),))
    specs: list[QueueSpec] = []
    problems = list(_read_queues(located, specs))
    if not problems and (collision := find_collision(specs)):
        first, second, shared = collision
        problems = [Problem(("queues", second), f"it answers to {shared!r}, and so does {first}")]
    if problems:
        return QueueFile(
            errors=tuple(FileError(file, located.line_of(p.path), _spell(p.path), p.reason) for p in problems)
        )
    return QueueFile(specs=tuple(specs), lines={spec.name: located.line_of(("queues", spec.name)) for spec in specs})


def parse_spec(name: str, written: object) -> QueueSpec:
    """Return the specification in a structure that is spelled as in queue files.

    Raises QueueInvalid, whose `errors` name each key that is wrong.
    """
    spec, problems = _read_queue(name, written)
    if spec is None or problems:
        raise QueueInvalid(errors=[f"{_spell(problem.path)}: {problem.reason}" for problem in problems])
    return spec


def parse_fields(written: object) -> tuple[PayloadField, ...]:
    """Return the payload schema in a structure that is spelled as in queue files. Raises QueueInvalid."""
    try:
        return tuple(_field(field) for field in msgspec.convert(written, list[_Field]))
    except msgspec.ValidationError as error:
        raise QueueInvalid(_structure_problem(str(error)).reason) from error


def write_fields(schema: Sequence[PayloadField]) -> list[dict[str, Any]]:
    """Return a payload schema as plain values, spelled as in queue files."""
    return [_write_field(field) for field in schema]


def _write_field(field: PayloadField) -> dict[str, Any]:
    """Return a payload field as plain values."""
    written: dict[str, Any] = {"name": field.name, "type": [kind.value for kind in field.type]}
    written["required"] = field.required
    if field.default_json is not None:
        written["default"] = msgspec.json.decode(field.default_json)
    if field.description:
        written["description"] = field.description
    return written


def _read_queues(located: LocatedYaml, specs: list[QueueSpec]) -> Iterator[Problem]:
    """Append the specifications of a file; give what is wrong."""
    top = located.value
    if top is None:
        return
    if not isinstance(top, dict):
        yield Problem((), "a queue file is a mapping with the key `queues`")
        return
    for key in top.keys() - {"queues"}:
        yield Problem((key,), _unknown(key, ["queues"]))
    queues = top.get("queues") or {}
    if not isinstance(queues, dict):
        yield Problem(("queues",), "it is a mapping from names to queues")
        return
    for name, written in queues.items():
        _restore_texts(located, ("queues", name), written)
        spec, problems = _read_queue(name, written)
        yield from (Problem(("queues", name, *problem.path), problem.reason) for problem in problems)
        if spec is not None:
            specs.append(spec)


def _read_queue(name: str, written: object) -> tuple[QueueSpec | None, list[Problem]]:
    """Return the specification of a queue, if its structure is right, and what is wrong with it."""
    try:
        queue = msgspec.convert(written, _Queue)
    except msgspec.ValidationError as error:
        return None, [_structure_problem(str(error))]
    if queue.priority is None and not queue.sub_queues:
        return None, [Problem((), "`priority` is missing")]
    if queue.mode and queue.deployment.mode and queue.mode != queue.deployment.mode:
        return None, [Problem(("mode",), f"it is {queue.deployment.mode} under deployment")]
    limits, problems = _limits(queue.deployment.limits)
    spec = QueueSpec(
        name=name,
        priority=max((sub.priority for sub in queue.sub_queues), default=queue.priority or 0),
        mode=queue.mode or queue.deployment.mode or QueueMode.LONG_RUNNING,
        order=queue.order,
        sub_queues=tuple(SubQueue(name=sub.name, priority=sub.priority) for sub in queue.sub_queues),
        deployment=_deployment(queue.deployment),
        input=tuple(_field(field) for field in queue.input),
        output=tuple(_field(field) for field in queue.output),
        limits=limits,
    )
    return spec, [*problems, *find_problems(spec)]


def _deployment(written: _Deployment) -> Deployment:
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


def _field(written: _Field) -> PayloadField:
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


def _limits(written: _Limits) -> tuple[StatedLimits, list[Problem]]:
    """Return the limits that are written, in seconds, and what is wrong with their spelling."""
    spans: dict[str, int] = {}
    problems = []
    for name in _Limits.__struct_fields__[1:]:
        value = getattr(written, name)
        try:
            if value is not None:
                spans[f"{name}_s"] = durations.parse_s(str(value))
        except ValueError as error:
            problems.append(Problem(("deployment", "limits", name), str(error)))
    return StatedLimits(max_retry=written.max_retry, **spans), problems


def _restore_texts(located: LocatedYaml, path: Path, written: object) -> None:
    """Make environment variables what is written: `on`, `8080` and `1.10` are texts there."""
    deployment = written.get("deployment") if isinstance(written, dict) else None
    variables = deployment.get("env_vars") if isinstance(deployment, dict) else None
    if not isinstance(variables, dict):
        return
    for name in variables:
        source = located.sources.get((*path, "deployment", "env_vars", name))
        if source is not None:
            variables[name] = "" if variables[name] is None else source


def _structure_problem(message: str) -> Problem:
    """Return what msgspec found wrong, with the path it names."""
    reason, _, place = message.partition(" - at `$")
    path: Path = tuple(
        int(index) if index.isdigit() else name or index
        for name, index in re.findall(r"\.([A-Za-z_]+)|\[([^\]]*)\]", place)
    )
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", reason, re.DOTALL):
        return Problem((*path, match[1]), _unknown(match[1], _known_keys(path)))
    if match := re.fullmatch(r"Object missing required field `(.*)`", reason):
        return Problem(path, f"`{match[1]}` is missing")
    return Problem(path, reason[:1].lower() + reason[1:])


def _known_keys(path: Path) -> tuple[str, ...]:
    """Return the keys that the mapping at a path may have."""
    kinds = {"deployment": _Deployment, "limits": _Limits, "sub_queues": _SubQueue, "input": _Field, "output": _Field}
    names = [part for part in path if isinstance(part, str)]
    return (kinds[names[-1]] if names and names[-1] in kinds else _Queue).__struct_fields__


def _unknown(key: str, known: tuple[str, ...] | list[str]) -> str:
    """Return what to say about a key that nobody knows."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean `{close[0]}`?" if close else "unknown key"


def _spell(path: Path) -> str:
    """Write a path as people do: `queues.inference.sub_queues[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
