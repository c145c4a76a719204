"""Reads queue files and the same structure from elsewhere: checks it, and says what is wrong and where."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from queues.definitions import QueueMode, QueueSpec, SubQueue
from queues.located_yaml import LocatedYaml, Path, YamlInvalid, read_yaml
from queues.names import find_collision
from queues.validation import Problem, find_problems
from queues.written import deployment_of, field_of, limits_of, read_queue, unknown_key
from runqy.errors import QueueInvalid


@dataclass(frozen=True, slots=True)
class FileError:
    """What is wrong at one place of a queue file."""

    file: str
    line: int
    """0: with the file as a whole."""
    key: str
    reason: str

    def __str__(self) -> str:
        """Say it as compilers do."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (place, self.key, self.reason)))


@dataclass(frozen=True, slots=True)
class QueueFile:
    """What a queue file says: its queues, or if anything is wrong with it only that."""

    specs: tuple[QueueSpec, ...] = ()
    errors: tuple[FileError, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    """Where each queue begins."""


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
    spec, problems = read_spec(name, written)
    if spec is None or problems:
        raise QueueInvalid(errors=[": ".join(filter(None, (_spell(p.path), p.reason))) for p in problems])
    return spec


def read_spec(name: str, written: object) -> tuple[QueueSpec | None, list[Problem]]:
    """Return the specification of a queue, if its structure is right, and what is wrong with it."""
    queue = read_queue(written)
    if isinstance(queue, list):
        return None, queue
    if queue.priority is None and not queue.sub_queues:
        return None, [Problem((), "`priority` is missing")]
    if queue.mode and queue.deployment.mode and queue.mode != queue.deployment.mode:
        return None, [Problem(("mode",), f"it is {queue.deployment.mode} under deployment")]
    limits, problems = limits_of(queue.deployment.limits)
    spec = QueueSpec(
        name=name,
        priority=max((sub.priority for sub in queue.sub_queues), default=queue.priority or 0),
        mode=queue.mode or queue.deployment.mode or QueueMode.LONG_RUNNING,
        order=queue.order,
        sub_queues=tuple(SubQueue(name=sub.name, priority=sub.priority) for sub in queue.sub_queues),
        deployment=deployment_of(queue.deployment),
        input=tuple(field_of(field) for field in queue.input),
        output=tuple(field_of(field) for field in queue.output),
        limits=limits,
    )
    return spec, [*problems, *find_problems(spec)]


def _read_queues(located: LocatedYaml, specs: list[QueueSpec]) -> Iterator[Problem]:
    """Append the specifications of a file; give what is wrong."""
    top = located.value
    if top is None:
        return
    if not isinstance(top, dict):
        yield Problem((), "a queue file is a mapping with the key `queues`")
        return
    for key in top.keys() - {"queues"}:
        yield Problem((key,), unknown_key(key, ["queues"]))
    queues = {} if top.get("queues") is None else top["queues"]
    if not isinstance(queues, dict):
        yield Problem(("queues",), "it must be a mapping from names to queues")
        return
    for name, written in queues.items():
        _restore_texts(located, ("queues", name), written)
        spec, problems = read_spec(name, written)
        yield from (Problem(("queues", name, *problem.path), problem.reason) for problem in problems)
        if spec is not None:
            specs.append(spec)


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


def _spell(path: Path) -> str:
    """Write a path as people do: `queues.inference.sub_queues[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
