"""Queue files: parse and write them, and load a directory of them into the database."""

import io
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from queues.catalog import find_name_collision
from queues.definition_serializers import (
    FieldError,
    QueueDefinitionInvalid,
    QueueDefinitionSerializer,
    QueueParser,
    RolloutSerializer,
    format_path,
)
from queues.definitions import QueueSpec, format_limit
from queues.deletion import delete_queues
from queues.file_sections import SECTIONS, FileError, LoadedNames, Located, empty_sections, find_warnings, load_sections
from queues.models import DEFAULTS, LIMIT_COLUMNS, Queue, QueueSource, definition_key
from queues.operations import QueueSave, save_queues, spec_digest
from queues.yaml_loader import LocatedYaml, YamlInvalid, read_yaml
from runqy.configuration.operations import configuration_change
from runqy.errors import RunqyError
from runqy.redis_connection import get_broker

_QUEUES_PER_CHANGE = 200
"""Other changes wait while one is open, and each publishes the revisions of all queues again."""


@dataclass(frozen=True, slots=True)
class QueueFile:
    """The queues of a file, or only its errors, since a file is not loaded in part."""

    specs: tuple[QueueSpec, ...] = ()
    errors: tuple[FileError, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    """The line where each queue begins."""
    sections: Mapping[str, Mapping[str, tuple[Any, int]]] = field(default_factory=dict)
    """What the other keys define, by key and name, with its line."""


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What all files define."""

    queues: Mapping[str, tuple[QueueSpec, str, int]]
    sections: Mapping[str, Located]
    errors: list[FileError]


@dataclass(slots=True, kw_only=True)
class LoadReport:
    """The names of the queues that were loaded, by what changed."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    """Updated although they had been changed elsewhere since they were last loaded."""
    missing: list[str] = field(default_factory=list)
    """Loaded before, but no longer in any file."""
    removed: list[str] = field(default_factory=list)
    """Missing and deleted."""
    errors: list[FileError] = field(default_factory=list)
    warnings: list[FileError] = field(default_factory=list)
    """What is wrong with definitions that were loaded all the same."""
    sections: Mapping[str, LoadedNames] = field(default_factory=empty_sections)
    """The names under the other keys."""

    @property
    def loaded(self) -> list[str]:
        """All queues of the files."""
        return [*self.added, *self.updated, *self.unchanged]


def parse_queue_file(raw: bytes, *, file: str) -> QueueFile:
    try:
        located = read_yaml(raw)
    except YamlInvalid as error:
        return QueueFile(errors=(FileError(file, error.line, format_path(error.path), error.reason),))
    specs: list[QueueSpec] = []
    sections: dict[str, dict[str, tuple[Any, int]]] = {}
    errors = [*_parse_queues(located, specs), *_parse_sections(located, sections)]
    if not errors and (collision := find_name_collision(specs)):
        first, second, shared = collision
        errors = [FieldError(("queues", second), f"The name {shared!r} is already used by the queue {first}.")]
    if errors:
        return QueueFile(
            errors=tuple(
                FileError(file, located.line_of(error.path), format_path(error.path), error.message) for error in errors
            )
        )
    lines = {spec.name: located.line_of(("queues", spec.name)) for spec in specs}
    return QueueFile(specs=tuple(specs), lines=lines, sections=sections)


def read_queue_files(directory: Path) -> FoundFiles:
    """Return what `*.yaml` and `*.yml` of a directory define."""
    if not directory.is_dir():
        return FoundFiles({}, {}, [FileError(str(directory), 0, "", "No such directory.")])
    paths = sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml"))
    return merge_queue_files((str(path), _read_file(path)) for path in paths)


def merge_queue_files(files: Iterable[tuple[str, QueueFile]]) -> FoundFiles:
    """Return what files define. A queue is in one file, and so is each name of another key."""
    found: dict[str, tuple[QueueSpec, str, int]] = {}
    sections: dict[str, dict[str, tuple[Any, str, int]]] = {key: {} for key in SECTIONS}
    errors: list[FileError] = []
    for file, content in files:
        errors += content.errors
        duplicates = [spec.name for spec in content.specs if spec.name in found]
        for name in duplicates:
            _, other, line = found[name]
            errors.append(FileError(file, content.lines[name], f"queues.{name}", f"Already defined in {other}:{line}."))
        if not duplicates:
            found |= {spec.name: (spec, file, content.lines[spec.name]) for spec in content.specs}
        for key, items in content.sections.items():
            for name, (item, line) in items.items():
                _, other, other_line = sections[key].setdefault(name, (item, file, line))
                if other != file:
                    errors.append(FileError(file, line, f"{key}.{name}", f"Already defined in {other}:{other_line}."))
    return FoundFiles(found, sections, errors)


def load_queue_files(*, directory: Path, prune: bool = False, force: bool = False) -> LoadReport:
    """Add and change queues as the files of a directory define them.

    A file with an error changes nothing, and the others are loaded. Queues that are no longer in any file are deleted
    only with `prune`, and not if a file has errors, since they may be in that file. Queues with pending or active tasks
    are kept unless `force` is set.
    """
    found = read_queue_files(directory)
    report = LoadReport(missing=_missing(found.queues), errors=found.errors)
    is_complete = not report.errors
    if prune and not report.errors:
        _delete_missing(report, directory, force=force)
    queues = list(found.queues.values())
    for start in range(0, len(queues), _QUEUES_PER_CHANGE):
        _load(queues[start : start + _QUEUES_PER_CHANGE], report)
    report.sections, errors = load_sections(found.sections, is_applied=False, prune=prune and is_complete)
    report.errors, report.warnings = report.errors + errors, find_warnings(found.sections)
    return report


def write_queue_file(specs: Iterable[QueueSpec]) -> bytes:
    """Return a queue file that defines the same queues. Files do not contain whether a queue is enabled."""
    return write_yaml({"queues": {spec.name: _without_defaults(spec) for spec in specs}})


def write_yaml(content: Mapping[str, Any]) -> bytes:
    """Return what a queue file has under its keys, as text."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    # Lines are not folded, and keys keep their order.
    yaml.default_flow_style, yaml.width = False, 1 << 20
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.BytesIO()
    yaml.dump(content, text)
    return text.getvalue()


def _parse_queues(located: LocatedYaml, specs: list[QueueSpec]) -> Iterator[FieldError]:
    """Append the queues of a file, and yield its errors."""
    top = located.value
    if top is None:
        return
    if not isinstance(top, dict):
        yield FieldError((), "A queue file is a mapping with the key `queues`.")
        return
    for key in top.keys() - {"queues", *SECTIONS}:
        yield FieldError((key,), "Unknown field; did you mean `queues`?")
    queues = {} if top.get("queues") is None else top["queues"]
    if not isinstance(queues, dict):
        yield FieldError(("queues",), "Must be a mapping from names to queues.")
        return
    parser = QueueParser()
    for name, data in queues.items():
        _restore_env_vars(located, ("queues", name), data)
        try:
            specs.append(parser.parse(name, data))
        except QueueDefinitionInvalid as invalid:
            yield from (FieldError(("queues", name, *error.path), error.message) for error in invalid.field_errors)


def _parse_sections(located: LocatedYaml, sections: dict[str, dict[str, tuple[Any, int]]]) -> Iterator[FieldError]:
    """Add what the other keys of a file define, and yield its errors."""
    top = located.value if isinstance(located.value, dict) else {}
    for key, section in SECTIONS.items():
        items = {} if top.get(key) is None else top[key]
        if not isinstance(items, dict):
            yield FieldError((key,), f"Must be a mapping from names to {key}.")
            continue
        sections[key] = {}
        for name, data in items.items():
            try:
                sections[key][name] = section.parse(name, data), located.line_of((key, name))
            except RunqyError as error:
                yield from (FieldError((key, name), message) for message in error.errors)


def _restore_env_vars(located: LocatedYaml, path: tuple[str, ...], data: object) -> None:
    """Replace the values of environment variables by their text in the file: `8080` and `1.10` are strings there."""
    deployment = data.get("deployment") if isinstance(data, dict) else None
    env_vars = deployment.get("env_vars") if isinstance(deployment, dict) else None
    if not isinstance(env_vars, dict):
        return
    for name in env_vars:
        source = located.sources.get((*path, "deployment", "env_vars", name))
        if source is not None:
            env_vars[name] = "" if env_vars[name] is None else source


def _read_file(path: Path) -> QueueFile:
    try:
        raw = path.read_bytes()
    except OSError as error:
        return QueueFile(errors=(FileError(str(path), 1, "", error.strerror or "Cannot be read."),))
    return parse_queue_file(raw, file=str(path))


def _missing(found: Container[str]) -> list[str]:
    loaded = Queue.objects.exclude(file_digest="").order_by("name").values_list("name", flat=True)
    return [name for name in loaded if name not in found]


def _delete_missing(report: LoadReport, directory: Path, *, force: bool) -> None:
    outcomes = delete_queues(get_broker(), names=report.missing, force=force) if report.missing else {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, RunqyError):
            report.errors.append(FileError(str(directory), 0, f"queues.{name}", f"Not deleted: {outcome.detail}"))
        else:
            report.removed.append(name)


def _load(queues: Sequence[tuple[QueueSpec, str, int]], report: LoadReport) -> None:
    with configuration_change() as change:  # one for all, so that they are published together
        rows = Queue.objects.prefetch_related("sub_queues").filter(name__in=[spec.name for spec, _, _ in queues])
        stored = {row.name: row for row in rows}
        before = {name: (spec_digest(row.as_spec()), row.file_digest) for name, row in stored.items()}
        now = {spec.name: spec_digest(spec) for spec, _, _ in queues}
        saves: list[QueueSave] = []
        for spec, path, _ in queues:
            row, file_path = stored.get(spec.name) or Queue(name=spec.name), str(Path(path).absolute())
            # An equal queue is saved too if its row names another source or file.
            is_as_loaded = (row.source, row.file_path) == (QueueSource.FILE, file_path)
            if not is_as_loaded or before[spec.name] != (now[spec.name], now[spec.name]):
                saves.append(QueueSave(row=row, spec=spec, file_path=file_path))
        errors = save_queues(change, saves, source=QueueSource.FILE) if saves else {}
        for spec, path, line in queues:
            if error := errors.get(spec.name):
                report.errors.append(FileError(path, line, f"queues.{spec.name}", error.detail))
                continue
            digest, last_loaded = before.get(spec.name, ("", ""))
            for names in _lists_of(report, before=digest, last_loaded=last_loaded, now=now[spec.name]):
                names.append(spec.name)


def _lists_of(report: LoadReport, *, before: str, last_loaded: str, now: str) -> Iterator[list[str]]:
    """Yield the lists of the report that a queue belongs to."""
    if before == now:
        yield report.unchanged
    elif not before:
        yield report.added
    else:
        yield report.updated
        if before != last_loaded:
            yield report.overwritten


_BOOLEANS_OF_YAML_1_1 = {"y", "n", "yes", "no", "on", "off"}


class _Representer(SafeRepresenter):
    """Write no anchors, and quote strings that YAML 1.1 reads as booleans."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> ScalarNode:
        style = "'" if data.lower() in _BOOLEANS_OF_YAML_1_1 else ""
        style = style if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def _without_defaults(spec: QueueSpec) -> dict[str, Any]:
    """Return a queue as in a file, without fields that have their default."""
    data: dict[str, Any] = QueueDefinitionSerializer(spec).data
    deployment = _plain(data.pop("deployment"))
    limits = deployment["limits"]
    deployment["limits"] = {
        name: int(text) if (text := format_limit(column, limits[name])).isdigit() else text
        for column in LIMIT_COLUMNS
        if (name := definition_key(column)) in limits
    }
    del deployment["mode"]  # it is also a field of the queue
    defaults = {name: value for name, value in DEFAULTS.items() if name != "startup_timeout_s"}
    defaults |= {"startup_timeout_secs": DEFAULTS["startup_timeout_s"], "env_vars": {}, "vaults": [], "limits": {}}
    bare: Any = RolloutSerializer(DEFAULTS).data
    changed = {name: value for name, value in deployment["rollout"].items() if bare[name] != value}
    deployment, defaults = deployment | {"rollout": changed}, defaults | {"rollout": {}}
    deployment = {name: value for name, value in deployment.items() if defaults.get(name, ...) != value}
    for schema in (data["input"], data["output"]):
        for payload_field in schema:
            if not payload_field["required"]:
                del payload_field["required"]
            if len(payload_field["type"]) == 1:
                payload_field["type"] = payload_field["type"][0]
    if spec.sub_queues:
        del data["priority"]
    schemas = {name: data.pop(name) for name in ("input", "output")}
    data = {name: value for name, value in data.items() if (name, value) != ("order", "weighted") and value != []}
    schemas = {name: fields for name, fields in schemas.items() if fields}
    plain: dict[str, Any] = _plain(data | {"deployment": deployment} | schemas)
    return plain


def _plain(value: Any) -> Any:
    """Convert subclasses of dict and list, which the YAML writer does not accept."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
