"""Brings the queues of a directory's files into the database."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from queues.config import FileError, QueueFile, parse_queue_file
from queues.definitions import QueueSpec
from queues.models import Queue, Source
from queues.operations import save_queue, spec_digest
from queues.removal import remove_queues
from runqy.connection import get_broker
from runqy.errors import RunqyError
from runqy.publication.operations import configuration_change


@dataclass(slots=True, kw_only=True)
class LoadReport:
    """What loading did; queues by name."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    """Those of the updated that were edited elsewhere since they were loaded last."""
    missing: list[str] = field(default_factory=list)
    """Loaded once and in no file any more."""
    removed: list[str] = field(default_factory=list)
    """Those of the missing that were deleted."""
    errors: list[FileError] = field(default_factory=list)


def load_queue_files(*, directory: Path, prune: bool = False, force: bool = False) -> LoadReport:
    """Add and change queues as the `*.yaml` and `*.yml` of a directory say.

    A file with an error changes nothing; the others are loaded. Queues that vanished from the files are only removed
    with `prune`, and not while a file has errors, for they may be in that one. While tasks of theirs wait or run, they
    are kept unless `force` says that those go too.
    """
    report = LoadReport()
    found = _read_directory(directory, report)
    report.missing = _missing(found)
    if prune and not report.errors:
        _remove(report, directory, force=force)
    for spec, path, line in found.values():
        try:
            _load(spec, path, report)
        except RunqyError as error:
            report.errors.append(FileError(path, line, f"queues.{spec.name}", error.detail))
    return report


def _read_directory(directory: Path, report: LoadReport) -> dict[str, tuple[QueueSpec, str, int]]:
    """Return the queues of all files, each with its file and line, and note what is wrong."""
    found: dict[str, tuple[QueueSpec, str, int]] = {}
    if not directory.is_dir():
        report.errors.append(FileError(str(directory), 0, "", "no such directory"))
        return found
    for path in sorted(p for p in directory.iterdir() if p.suffix in (".yaml", ".yml")):
        content = _read_file(path)
        report.errors += content.errors
        duplicates = [spec.name for spec in content.specs if spec.name in found]
        for name in duplicates:
            _, other, line = found[name]
            reason = f"it stands in {other}:{line} too"
            report.errors.append(FileError(str(path), content.lines[name], f"queues.{name}", reason))
        if not duplicates:
            found |= {spec.name: (spec, str(path), content.lines[spec.name]) for spec in content.specs}
    return found


def _read_file(path: Path) -> QueueFile:
    """Read one file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return QueueFile(errors=(FileError(str(path), 1, "", error.strerror or "it cannot be read"),))
    return parse_queue_file(raw, file=str(path))


def _missing(found: Container[str]) -> list[str]:
    """Return the queues that came from files once and are in none now."""
    loaded = Queue.objects.exclude(file_digest="").order_by("name").values_list("name", flat=True)
    return [name for name in loaded if name not in found]


def _remove(report: LoadReport, directory: Path, *, force: bool) -> None:
    """Remove the missing queues with all that Redis has of them; one that is refused is an error."""
    outcomes = remove_queues(get_broker(), names=report.missing, force=force) if report.missing else {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, RunqyError):
            report.errors.append(FileError(str(directory), 0, f"queues.{name}", f"it is not removed: {outcome.detail}"))
        else:
            report.removed.append(name)


def _load(spec: QueueSpec, path: str, report: LoadReport) -> None:
    """Add or change one queue, comparing and saving while no other change is under way."""
    digest = spec_digest(spec)
    with configuration_change():
        row = Queue.objects.filter(name=spec.name).first()
        before = spec_digest(row.as_spec()) if row else ""
        save_queue(spec=spec, source=Source.FILE, file_digest=digest, file_path=str(Path(path).absolute()))
    for names in _lists(report, before=before, last_loaded=row.file_digest if row else "", now=digest):
        names.append(spec.name)


def _lists(report: LoadReport, *, before: str, last_loaded: str, now: str) -> Iterator[list[str]]:
    """Give the lists that a queue belongs to by what it was before, when loaded last, and now."""
    if before == now:
        yield report.unchanged
    elif not before:
        yield report.added
    else:
        yield report.updated
        if before != last_loaded:
            yield report.overwritten
