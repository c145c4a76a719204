"""The keys of queue files beside `queues`, which apps above this one register, and errors of queue files."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from queues.catalog import QueueCatalog
from runqy.errors import RunqyError


@dataclass(frozen=True, slots=True)
class FileError:
    file: str
    line: int
    """0 for an error of the whole file."""
    key: str
    reason: str

    def __str__(self) -> str:
        location = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (location, self.key, self.reason)))


class ApplyOutcome(StrEnum):
    """What applying files does to a queue, or to what another key defines."""

    ADDED = "added"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    KEPT = "kept"
    """No file names it, and it is not deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedItem:
    name: str
    outcome: ApplyOutcome
    source: str = ""
    """Where it was changed last, before this; empty if it is new."""
    before: str = ""
    """As a queue file; empty if it is new."""
    after: str = ""


@dataclass(frozen=True, slots=True)
class LoadedNames:
    """The names under another key than `queues`, by what loading the files changed."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Loaded before, but no longer in any file."""
    removed: list[str] = field(default_factory=list)
    """Missing and deleted."""

    def add(self, name: str, outcome: ApplyOutcome) -> None:
        if outcome in (ApplyOutcome.KEPT, ApplyOutcome.REMOVED):
            self.missing.append(name)
        if outcome is not ApplyOutcome.KEPT:
            getattr(self, outcome.value).append(name)


Located = Mapping[str, tuple[Any, str, int]]
"""What files define, by name, with file and line."""


class FileSection(Protocol):
    """A key of queue files."""

    key: str

    def parse(self, name: object, data: object) -> Any:
        """Return what a name under the key defines. Raise RunqyError with a message for each wrong field."""

    def check(self, found: Located, catalog: QueueCatalog) -> Iterable[tuple[str, RunqyError]]:
        """Return, by name, the errors that loading would find with these queues."""

    def warn(self, found: Located) -> Iterable[tuple[str, RunqyError]]:
        """Return, by name, what is wrong with definitions that are loaded all the same."""

    def compare(self, found: Located, *, prune: bool) -> Iterable[AppliedItem]:
        """Return what applying files would change, by name."""

    def load(self, found: Located, *, is_applied: bool, prune: bool) -> Iterable[tuple[str, ApplyOutcome | RunqyError]]:
        """Save what the files define, after their queues. Return by name what became of it, or why it is refused.

        `is_applied`: a client sent the files; otherwise they are in the server's folder. What was loaded so before, and
        is no longer in any file, is deleted with `prune`, and kept otherwise.
        """


SECTIONS: dict[str, FileSection] = {}


def register_section(section: FileSection) -> None:
    SECTIONS[section.key] = section


def check_sections(found: Mapping[str, Located], catalog: QueueCatalog) -> Iterator[FileError]:
    """Yield the errors that loading the other keys would find with these queues."""
    for key, items in found.items():
        yield from _locate(key, items, SECTIONS[key].check(items, catalog))


def find_warnings(found: Mapping[str, Located]) -> list[FileError]:
    """Return what is wrong with definitions under the other keys that are loaded all the same."""
    return [each for key, items in found.items() for each in _locate(key, items, SECTIONS[key].warn(items))]


def load_sections(
    found: Mapping[str, Located], *, is_applied: bool, prune: bool
) -> tuple[dict[str, LoadedNames], list[FileError]]:
    """Save what the other keys define, once the queues are saved; return the names by key, and the errors."""
    loaded, errors = empty_sections(), list[FileError]()
    for key, section in SECTIONS.items():
        items = found.get(key, {})
        for name, outcome in section.load(items, is_applied=is_applied, prune=prune):
            if isinstance(outcome, RunqyError):
                errors += _locate(key, items, [(name, outcome)])
            else:
                loaded[key].add(name, outcome)
    return loaded, errors


def empty_sections() -> dict[str, LoadedNames]:
    return {key: LoadedNames() for key in SECTIONS}


def _locate(key: str, items: Located, errors: Iterable[tuple[str, RunqyError]]) -> Iterator[FileError]:
    for name, error in errors:
        _, file, line = items[name]
        yield from (FileError(file, line, f"{key}.{name}", message) for message in error.errors)
