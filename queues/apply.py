"""Apply queue files that a client sends: all of them or none, with what they change and what no file names."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from queues.definitions import QueueSpec
from queues.deletion import delete_queues
from queues.file_sections import (
    SECTIONS,
    AppliedItem,
    ApplyOutcome,
    FileError,
    check_sections,
    find_warnings,
    load_sections,
)
from queues.models import Queue, QueueSource
from queues.operations import QueueSave, save_queues, spec_digest
from queues.pending_deletions import dropped_redis_queues
from queues.queries import get_changed_catalog
from queues.queue_files import merge_queue_files, parse_queue_file, write_queue_file
from runqy.configuration.operations import configuration_change
from runqy.errors import BrokerUnavailable, QueueBeingDeleted, QueueInvalid, QueueNameTaken, QueueNotEmpty, RunqyError
from runqy.redis_connection import get_broker

_CONFLICTS = (QueueNameTaken, QueueBeingDeleted, QueueNotEmpty)


class Prune(StrEnum):
    """Which of the queues that no file names are deleted."""

    NONE = "none"
    APPLIED = "applied"
    """Those that `runqy queue apply` saved last."""
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedQueue(AppliedItem):
    reason: str = ""
    """Why a queue that should be deleted is kept."""
    dropped: tuple[str, ...] = ()
    """The Redis queues of sub-queues that it loses; their tasks are deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedFiles:
    """What applying files changed, or would change."""

    queues: Sequence[AppliedQueue]
    sections: Mapping[str, Sequence[AppliedItem]]
    """What the other keys of the files define, by key."""
    warnings: Sequence[FileError]
    """What is wrong with definitions that are applied all the same."""


class _DryRun(Exception):
    """Undoes a change whose errors are known now."""


def apply_queue_files(
    files: Mapping[str, bytes],
    *,
    is_dry_run: bool = False,
    prune: Prune = Prune.NONE,
    force: bool = False,
    replaces_at_once: bool = False,
) -> AppliedFiles:
    """Save the queues of files as they define them, in one change, then what the other keys define; then delete others
    as `prune` says. With `replaces_at_once` workers of their queues, also of equal ones, replace processes with another
    environment at once, instead of taking turns.

    A queue whose definition is equal keeps its time of change. With `is_dry_run` everything is checked, and nothing
    changes. Raise QueueInvalid for an error in any file, with file, line and field; a QueueNameTaken, QueueBeingDeleted
    or QueueNotEmpty that is the only kind of error; BrokerUnavailable, also after the queues were saved: the same files
    can be applied again.
    """
    files_found = merge_queue_files((name, parse_queue_file(raw, file=name)) for name, raw in files.items())
    found = files_found.queues
    if files_found.errors:
        raise QueueInvalid(errors=[str(error) for error in files_found.errors])
    applied, warnings = list[AppliedQueue](), find_warnings(files_found.sections)
    prunes = prune is not Prune.NONE
    try:
        with configuration_change() as change:
            rows = {row.name: row for row in Queue.objects.prefetch_related("sub_queues")}
            saves = []
            for spec, _, _ in found.values():
                row = rows.get(spec.name)
                applied.append(_compare(row, spec))
                # An equal queue is saved too, so that `prune` finds it, if it was changed elsewhere last.
                is_equal = applied[-1].outcome is ApplyOutcome.UNCHANGED and applied[-1].source == QueueSource.APPLIED
                if replaces_at_once or not is_equal:
                    new_row = row or Queue(name=spec.name)
                    saves.append(QueueSave(row=new_row, spec=spec, replaces_at_once=replaces_at_once))
            if saves and (refused := save_queues(change, saves, source=QueueSource.APPLIED)):
                raise _failure(refused, found)
            others = [row for name, row in sorted(rows.items()) if name not in found]
            unnamed = [_unnamed(row, is_removed=_is_pruned(row, prune)) for row in others]
            if errors := list(check_sections(files_found.sections, get_changed_catalog())):
                raise QueueInvalid(errors=[str(error) for error in errors])
            sections = {
                key: list(section.compare(files_found.sections[key], prune=prunes)) for key, section in SECTIONS.items()
            }
            if is_dry_run:
                raise _DryRun
    except _DryRun:
        return AppliedFiles(queues=[*applied, *unnamed], sections=sections, warnings=warnings)
    _, errors = load_sections(files_found.sections, is_applied=True, prune=prunes)
    if errors:  # what they refer to changed meanwhile
        raise QueueInvalid(errors=["The queues are saved.", *map(str, errors)])
    deleted = _delete(unnamed, force=force)
    return AppliedFiles(queues=[*applied, *deleted], sections=sections, warnings=warnings)


def _compare(row: Queue | None, spec: QueueSpec) -> AppliedQueue:
    after = _text(spec)
    if row is None:
        return AppliedQueue(name=spec.name, outcome=ApplyOutcome.ADDED, after=after)
    before = row.as_spec()
    is_equal = spec_digest(before) == spec_digest(spec)
    return AppliedQueue(
        name=spec.name,
        outcome=ApplyOutcome.UNCHANGED if is_equal else ApplyOutcome.UPDATED,
        source=row.source,
        before=_text(before),
        after=after,
        dropped=tuple(name for name, _ in dropped_redis_queues(before, spec)),
    )


def _is_pruned(row: Queue, prune: Prune) -> bool:
    return prune is Prune.ALL or (prune is Prune.APPLIED and row.source == QueueSource.APPLIED)


def _unnamed(row: Queue, *, is_removed: bool) -> AppliedQueue:
    outcome, before = (ApplyOutcome.REMOVED, _text(row.as_spec())) if is_removed else (ApplyOutcome.KEPT, "")
    return AppliedQueue(name=row.name, outcome=outcome, source=row.source, before=before)


def _delete(unnamed: Sequence[AppliedQueue], *, force: bool) -> list[AppliedQueue]:
    names = [queue.name for queue in unnamed if queue.outcome is ApplyOutcome.REMOVED]
    # After the change: a deletion waits until no process accepts tasks for the queue, and deletes them.
    try:
        results = delete_queues(get_broker(), names=names, force=force) if names else {}
    except BrokerUnavailable as error:
        saved = "The queues of the files are saved, but not all of the others are deleted"
        raise type(error)(f"{saved}: {error.detail} Send the same request again.", reason=error.reason) from error
    return [_kept(queue, results.get(queue.name)) for queue in unnamed]


def _kept(queue: AppliedQueue, result: object) -> AppliedQueue:
    """Return a queue as kept if its deletion was refused."""
    if not isinstance(result, RunqyError):
        return queue
    return AppliedQueue(name=queue.name, outcome=ApplyOutcome.KEPT, source=queue.source, reason=result.detail)


def _failure(refused: Mapping[str, RunqyError], found: Mapping[str, tuple[QueueSpec, str, int]]) -> RunqyError:
    errors = [
        str(FileError(*found[name][1:], f"queues.{name}", message))
        for name, error in refused.items()
        for message in error.errors
    ]
    kinds: Collection[type[RunqyError]] = {type(error) for error in refused.values()}
    (kind, *others) = kinds
    return (kind if not others and kind in _CONFLICTS else QueueInvalid)(errors=errors)


def _text(spec: QueueSpec) -> str:
    return write_queue_file([spec]).decode()
