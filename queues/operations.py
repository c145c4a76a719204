"""Create, change, enable, disable and publish queues."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import structlog

from queues.catalog import AllowedQueues, NameOwners
from queues.definitions import QueueSpec, SubQueueSpec
from queues.models import Queue, QueueSource, SubQueue, definition_path
from queues.pending_deletions import ensure_no_tasks_stranded, update_pending_deletions
from queues.queries import QueueConfig, documents_used, get_fresh_catalog
from queues.releases import get_queue, publish_releases, release_definition
from queues.vault_grants import LIMITED_KEY, NO_VAULT_PERMISSION, refuse_added_grants
from queues.webhook_secrets import QueueSecret, create_queue_secrets
from runqy.accounts.identities import store_key_uses
from runqy.audit.operations import diff, record
from runqy.configuration import publishing
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import Change, configuration_change
from runqy.configuration.publishing import SyncStatus
from runqy.core.database.errors import model_errors
from runqy.core.preconditions import Precondition, accept_any
from runqy.errors import PreconditionFailed, QueueAlreadyExists, QueueInvalid, QueueNameTaken, QueueNotFound, RunqyError
from vaults.queries import find_git_token_error

_NOT_DEFINED = ("source", "file_digest", "file_path", "replacements", "webhook_secret", "git_hook_secret")
"""Columns that may change although the definition does not."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSave:
    """A queue to save, with its row, which was read in the same change. A new row has no primary key."""

    row: Queue
    spec: QueueSpec
    file_path: str = ""
    replaces_at_once: bool = False
    """Have workers replace processes with another environment at once, instead of taking turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfigInput:
    """A queue as a client of the API sends it."""

    name: str
    build: Callable[[str, QueueSpec | None], QueueSpec]
    """Takes the queue's name and present specification, if any; returns the one to save. Raises QueueInvalid."""
    is_whole: bool
    """Whether the name means a queue, not a sub-queue."""
    is_enabled: bool | None = None
    """None leaves it unchanged; a new queue is then enabled."""


def save_queue(*, spec: QueueSpec, source: QueueSource, is_new: bool = False, replaces_at_once: bool = False) -> Queue:
    """Create or change a queue. With `is_new`, raise QueueAlreadyExists if there is one of this name.

    With `replaces_at_once` its workers replace processes with another environment at once, instead of taking turns.
    Raise QueueInvalid, also for a git token that may not be sent to the repository's host, QueueNameTaken,
    QueueBeingDeleted, and QueueNotEmpty for tasks in a sub-queue that the change removes.
    """
    return _save_one(spec, source=source, is_new=is_new, replaces_at_once=replaces_at_once)


def change_queue(*, spec: QueueSpec) -> Queue:
    """Change a queue and keep its source. A sub-queue that the change removes may have tasks.

    Raise QueueInvalid, QueueNameTaken, QueueBeingDeleted.
    """
    return _save_one(spec, source=None)


def save_queues(change: Change, saves: Sequence[QueueSave], *, source: QueueSource | None) -> Mapping[str, RunqyError]:
    """Create or change queues in an open change. Return the errors of `save_queue` by queue; such queues are not saved.

    Without `source` queues keep theirs, and removed sub-queues may have tasks, because a deletion is in progress.
    """
    owners = _list_name_owners()
    errors: dict[str, RunqyError] = {}
    saved: list[QueueSpec] = []
    for save in saves:
        try:
            with change.savepoint():
                saved.append(_store(change, save, source, owners))
        except RunqyError as error:
            errors[save.spec.name] = error
    change.put_all(DocumentKind.QUEUE, {spec.name: (spec.encode(), documents_used(spec)) for spec in saved})
    return errors


def upsert_queue(
    *,
    config: QueueConfigInput,
    force: bool = False,
    replaces_at_once: bool = False,
    allowed_queues: AllowedQueues = None,
    precondition: Precondition = accept_any,
) -> tuple[QueueConfig, bool]:
    """Create a queue, or change one with `force`. Return it, and whether it is new.

    Released command lines send the sub-queues of a queue file one by one, as `inference.high`. Such a name, without
    the key `sub_queues`, adds or changes that sub-queue. `precondition` is called with the version of the queue.

    Raise QueueInvalid, QueueAlreadyExists, QueueNameTaken. For a key that is limited to queues raise QueueNotFound for
    other queues, and KeyInsufficient if the change would give the queue access to more of the vaults.
    """
    with configuration_change():
        queue, sub_queue = _split_name(config)
        if allowed_queues is not None and queue not in allowed_queues:
            raise QueueNotFound(f"No queue {queue[:128]!r}, or this key may not change it.")
        row = Queue.objects.filter(name=queue).first()
        before = row.as_spec() if row else None
        precondition(spec_version(before) if before else None)
        spec = config.build(queue, replace(before, sub_queues=()) if before and sub_queue else before)
        is_enabled = before.is_enabled if before else True
        spec = replace(spec, is_enabled=is_enabled if config.is_enabled is None else config.is_enabled)
        is_new = before is None
        if sub_queue:
            spec, is_new = _with_sub_queue(spec, sub_queue, before, force)
        elif before and not force:
            raise QueueAlreadyExists(f"A queue named {queue} already exists; use force=true to update it.")
        if allowed_queues is not None:
            refuse_added_grants(before.deployment if before else None, spec.deployment, reason=LIMITED_KEY)
        saved = save_queue(spec=spec, source=QueueSource.API, replaces_at_once=replaces_at_once)
    return QueueConfig.of(saved, sub_queue), is_new


def add_queue(*, spec: QueueSpec, may_grant_vaults: bool) -> Queue:
    """Create a queue in the admin. Raise KeyInsufficient, and as `save_queue`."""
    if not may_grant_vaults:
        refuse_added_grants(None, spec.deployment, reason=NO_VAULT_PERMISSION)
    return save_queue(spec=spec, source=QueueSource.ADMIN, is_new=True)


def edit_queue(*, spec: QueueSpec, version: str, may_grant_vaults: bool, replaces_at_once: bool = False) -> Queue:
    """Change a queue in the admin if it still has this version. A queue without changes keeps its source.

    Raise QueueNotFound, PreconditionFailed, as `save_queue`, and without `may_grant_vaults` KeyInsufficient if the
    change would give the queue access to more of the vaults.
    """
    with configuration_change():
        row = get_queue(spec.name)
        before = row.as_spec()
        if spec_version(before) != version:
            raise PreconditionFailed(
                "This queue was changed by another user while you edited it. Reload the page and repeat your changes."
            )
        if not may_grant_vaults:
            refuse_added_grants(before.deployment, spec.deployment, reason=NO_VAULT_PERMISSION)
        if before == spec and not replaces_at_once:
            return row
        return save_queue(spec=spec, source=QueueSource.ADMIN, replaces_at_once=replaces_at_once)


def enable_queue(*, name: str) -> bool:
    """Make a queue accept tasks and workers. Return whether this changed it.

    Raise QueueNotFound, QueueBeingDeleted.
    """
    return _set_enabled(name, is_enabled=True)


def disable_queue(*, name: str) -> bool:
    """Make a queue reject new tasks and workers. Return whether this changed it. Raise QueueNotFound."""
    return _set_enabled(name, is_enabled=False)


def set_queue_enabled(*, name: str, is_enabled: bool, allowed_queues: AllowedQueues = None) -> str:
    """Enable or disable a queue, given by any of its names. Return the queue's own name.

    Raise QueueNotFound, QueueBeingDeleted.
    """
    queue = get_fresh_catalog(max_age_s=0).get_queue(name, allowed_queues=allowed_queues).name
    _set_enabled(queue, is_enabled=is_enabled)
    return queue


def delete_definition(change: Change, name: str) -> None:
    """Delete the definition of a queue, but not its tasks, in an open change. Raise QueueNotFound."""
    row = get_queue(name)
    before, secrets = row.as_spec(), [getattr(row, column.value) for column in QueueSecret]
    row.delete()
    for secret in secrets:
        if secret is not None:
            secret.delete()
    change.remove(DocumentKind.QUEUE, name)
    change.forget(DocumentKind.RELEASES, name)
    change.forget(DocumentKind.REDIS_QUEUES, name)
    record_queue("queue.deleted", name, old=before, new=None)


def republish_configuration() -> SyncStatus:
    """Make Redis agree with the database, and store the last use of API keys. Raise BrokerUnavailable."""
    comparison = publishing.republish_configuration()
    store_key_uses()
    return comparison


def publish_again(*, name: str) -> SyncStatus:
    """Republish the configuration as requested on a queue's page. Raise QueueNotFound, BrokerUnavailable."""
    get_queue(name)
    comparison = republish_configuration()
    if changed := sorted(
        {*comparison.outdated, *comparison.altered, *(f"revision:{each.queue}" for each in comparison.queues)}
    ):
        record(
            action="queue.republished", object_kind="queue", object_name=name, changes={"documents": (None, changed)}
        )
    return comparison


def record_queue(action: str, name: str, *, old: QueueSpec | None, new: QueueSpec | None) -> None:
    """Record a change of a queue, if there is one. `old` is None for a new queue, `new` for a deleted one."""
    before, after = _audited_fields(old), _audited_fields(new)
    # Values of environment variables are redacted, because they may be secrets.
    secrets = {field for field in {*before, *after} if field.startswith("deployment.env_vars.")}
    if changes := diff(before, after, secrets=secrets):
        record(action=action, object_kind="queue", object_name=name, changes=changes)


def spec_version(spec: QueueSpec) -> str:
    """Return a digest of all fields of a specification, which is the ETag of the queue."""
    return hashlib.sha256(spec.encode()).hexdigest()[:32]


def spec_digest(spec: QueueSpec) -> str:
    """Return a digest of a specification, without `is_enabled`."""
    content = msgspec.to_builtins(replace(spec, is_enabled=True))
    if not spec.deployment.keep_previous:  # which digests that are stored do not have
        del content["deployment"]["keep_previous"]
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def _save_one(
    spec: QueueSpec, *, source: QueueSource | None, is_new: bool = False, replaces_at_once: bool = False
) -> Queue:
    with configuration_change() as change:
        row = Queue.objects.filter(name=spec.name).first() or Queue(name=spec.name)
        if is_new and row.pk:
            raise QueueAlreadyExists(f"A queue named {spec.name} already exists.")
        save = QueueSave(row=row, spec=spec, replaces_at_once=replaces_at_once)
        for error in save_queues(change, [save], source=source).values():
            raise error
    return row


def _store(change: Change, save: QueueSave, source: QueueSource | None, owners: NameOwners) -> QueueSpec:
    """Validate and store a queue, and the deletions of what the change removes. Return the queue as published."""
    row, spec = save.row, save.spec
    deployment, subs = spec.deployment, [sub.name for sub in spec.sub_queues]
    if source and (message := find_git_token_error(git_token=deployment.git_token, git_url=deployment.git_url)):
        raise QueueInvalid(errors=[f"deployment.git_token: {message}"])
    if collision := owners.find_collision(spec.name, subs):
        other, name = collision
        raise QueueNameTaken(f"The name {name!r} is already used by the queue {other}.")
    before = row.as_spec() if row.pk else None
    row.apply_spec(spec)
    row.source = source or row.source
    if source == QueueSource.FILE:
        row.file_digest, row.file_path = spec_digest(spec), save.file_path
    # Files do not set `is_enabled`, so that loading them does not enable a queue that a user disabled.
    if source not in (QueueSource.FILE, QueueSource.APPLIED):
        row.is_enabled = spec.is_enabled
    # With sub-queues the priority is the highest of theirs, which are validated themselves. Only the name must be
    # unique, and the row was found by it.
    exclude = ["priority"] if spec.sub_queues else []
    if errors := model_errors(row, exclude=exclude, label=definition_path, validate_constraints=False):
        raise QueueInvalid(errors=errors)
    if before and source:
        ensure_no_tasks_stranded(before, spec)
    update_pending_deletions(before, spec)
    create_queue_secrets(row)
    row.replacements += save.replaces_at_once
    saved = replace(spec, is_enabled=row.is_enabled)
    is_equal = before is not None and spec_version(before) == spec_version(saved)
    row.save(update_fields=_NOT_DEFINED if is_equal else None)  # an equal queue keeps its time of change
    _set_sub_queues(row, spec, is_new=before is None)
    if before:
        release_definition(change, row, before)
    if save.replaces_at_once:
        publish_releases(change, row)
        record(action="queue.processes_replaced", object_kind="queue", object_name=spec.name)
    record_queue("queue.updated" if before else "queue.created", spec.name, old=before, new=saved)
    owners.add(spec.name, subs)
    return saved


def _set_enabled(name: str, *, is_enabled: bool) -> bool:
    """Enable or disable a queue. Its source stays, since files do not set this."""
    with configuration_change() as change:
        row = get_queue(name)
        if row.is_enabled == is_enabled:
            return False
        before = row.as_spec()
        after = replace(before, is_enabled=is_enabled)
        update_pending_deletions(before, after)
        row.is_enabled = is_enabled
        row.save(update_fields=["is_enabled", "updated_at"])
        put_definition(change, after)
        record_queue("queue.updated", name, old=before, new=after)
    return True


def _list_name_owners() -> NameOwners:
    # Nobody else changes these names: one change is open at a time.
    sub_queues: dict[str, list[str]] = {name: [] for name in Queue.objects.values_list("name", flat=True)}
    for queue, sub in SubQueue.objects.values_list("queue__name", "name"):
        sub_queues[queue].append(sub)
    owners = NameOwners()
    for queue, subs in sub_queues.items():
        owners.add(queue, subs)
    return owners


def _set_sub_queues(row: Queue, spec: QueueSpec, *, is_new: bool) -> None:
    """Validate and store the sub-queues of a stored queue, and delete the others. Raise QueueInvalid."""
    stored = {} if is_new else {sub.name: sub for sub in row.sub_queues.all()}
    if dropped := stored.keys() - {sub.name for sub in spec.sub_queues}:
        row.sub_queues.filter(name__in=dropped).delete()
    errors: list[str] = []
    for position, sub in enumerate(spec.sub_queues):
        sub_row = stored.pop(sub.name, None) or SubQueue(queue=row, name=sub.name)
        if sub_row.pk and (sub_row.priority, sub_row.position) == (sub.priority, position):
            continue
        sub_row.priority, sub_row.position = sub.priority, position
        found = model_errors(sub_row, prefix=f"sub_queues[{position}]")
        errors += found
        if not found:
            sub_row.save()
    if errors:
        raise QueueInvalid(errors=errors)


def put_definition(change: Change, spec: QueueSpec) -> None:
    change.put(DocumentKind.QUEUE, spec.name, spec.encode(), uses=documents_used(spec))


def _split_name(config: QueueConfigInput) -> tuple[str, str]:
    """Return the queue and the sub-queue that a name means; the sub-queue is empty if it means a whole queue."""
    name = config.name
    if "." not in name or config.is_whole or Queue.objects.filter(name=name).exists():
        return name, ""
    dots = [index for index, char in enumerate(name) if char == "." and 0 < index < len(name) - 1]
    known = set(Queue.objects.filter(name__in=[name[:dot] for dot in dots]).values_list("name", flat=True))
    # Both names may contain dots: the longest queue that exists, otherwise the last dot.
    dot = next((dot for dot in reversed(dots) if name[:dot] in known), dots[-1] if dots else 0)
    return (name[:dot], name[dot + 1 :]) if dot else (name, "")


def _with_sub_queue(given: QueueSpec, name: str, before: QueueSpec | None, force: bool) -> tuple[QueueSpec, bool]:
    sub = SubQueueSpec(name=name, priority=given.priority)
    subs = before.sub_queues if before else ()
    if before and not subs:
        raise QueueAlreadyExists(
            f"The queue {before.name} exists without sub-queues, and adding one would strand its tasks. "
            f"Delete it, or send the whole queue with sub_queues and force=true."
        )
    is_new = name not in [other.name for other in subs]
    if not is_new and not force:
        raise QueueAlreadyExists(f"The queue {given.name} has a sub-queue {name} already; force=true updates it.")
    changed = (*subs, sub) if is_new else tuple(sub if other.name == name else other for other in subs)
    spec = replace(given, sub_queues=changed, priority=max(other.priority for other in changed))
    if before and not force and replace(before, sub_queues=changed, priority=spec.priority) != spec:
        raise QueueAlreadyExists(f"The queue {given.name} has another deployment; force=true changes all of it.")
    return spec, is_new


def _audited_fields(spec: QueueSpec | None) -> Mapping[str, object]:
    """Return the fields of a queue by names such as `limits.max_retry`."""
    if spec is None:
        return {}
    fields: dict[str, object] = msgspec.to_builtins(spec)
    for group in ("deployment", "limits"):
        fields |= {f"{group}.{name}": value for name, value in fields.pop(group).items()}  # type: ignore[attr-defined]
    env_vars: Mapping[str, str] = fields.pop("deployment.env_vars")  # type: ignore[assignment]
    return fields | {f"deployment.env_vars.{name}": value for name, value in env_vars.items()}
