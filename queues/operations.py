"""Stores queues, checks that their names are their own, and publishes them."""

import hashlib
from dataclasses import replace

from queues.audited import record_queue
from queues.definitions import QueueSpec
from queues.models import Queue, Source, SubQueue
from queues.names import AllowedQueues, claimed_names
from queues.queries import documents_used, get_fresh_catalog
from queues.removing import refuse_stranding, settle_removals
from queues.validation import find_problems
from runqy.accounts.key_uses import store_key_uses
from runqy.audit.operations import record
from runqy.errors import QueueAlreadyExists, QueueInvalid, QueueNameTaken, QueueNotFound
from runqy.publication import republishing
from runqy.publication.documents import Kind
from runqy.publication.operations import Change, configuration_change
from runqy.publication.republishing import Comparison
from vaults.references import find_git_token_problem

__all__ = [
    "change_queue",
    "delete_definition",
    "disable_queue",
    "enable_queue",
    "publish_again",
    "redeploy_queue",
    "republish_configuration",
    "save_queue",
    "spec_digest",
    "spec_version",
]


def save_queue(
    *, spec: QueueSpec, source: Source, is_new: bool = False, file_digest: str | None = None, file_path: str = ""
) -> Queue:
    """Create or change a queue. Files do not say whether it is enabled, so that they do not undo a person's decision.

    `is_new`: there must be none of this name. `file_path` counts with `file_digest`: where the queue was read.
    Raises QueueInvalid, also for a git token that may not be sent to the repository's host, QueueNameTaken,
    QueueAlreadyExists, QueueBeingRemoved; QueueNotEmpty where tasks wait in a sub-queue that is left out.
    """
    deployment = spec.deployment
    if problem := find_git_token_problem(git_token=deployment.git_token, git_url=deployment.git_url):
        raise QueueInvalid(errors=[f"deployment.git_token: {problem}"])
    row = Queue.objects.filter(name=spec.name).first()
    if row and not find_problems(spec):
        refuse_stranding(row.as_spec(), spec)
    return _store(spec, source=source, is_new=is_new, file_digest=file_digest, file_path=file_path)


def change_queue(*, spec: QueueSpec) -> Queue:
    """Change a queue that stays whoever's it was, whatever waits in a sub-queue that is left out.

    Raises QueueInvalid, QueueNameTaken, QueueBeingRemoved.
    """
    return _store(spec, source=None)


def enable_queue(*, name: str) -> bool:
    """Let a queue take tasks and workers. False: it did already. Raises QueueNotFound, QueueBeingRemoved."""
    return _set_enabled(name, is_enabled=True)


def disable_queue(*, name: str) -> bool:
    """Let a queue take neither tasks nor workers; what it holds stays. False: it was disabled. Raises QueueNotFound."""
    return _set_enabled(name, is_enabled=False)


def delete_definition(change: Change, name: str) -> None:
    """Delete the definition of a queue in an open change; `queues.removal` sees to its tasks. Raises QueueNotFound."""
    row = _get_row(name)
    before = row.as_spec()
    row.delete()
    change.remove(Kind.QUEUE, name)
    change.forget(Kind.ROLLOUT, name)
    record_queue("queue.deleted", name, old=before, new=None)


def redeploy_queue(*, name: str, allowed_queues: AllowedQueues = None) -> str:
    """Let the workers of a queue, by any of its names, take the newest commit, and return the queue's own name.

    They hear of it as of a changed definition: its token counts the rollout. Raises QueueNotFound.
    """
    queue = get_fresh_catalog(max_age_s=0).get_queue(name, allowed_queues=allowed_queues).name
    with configuration_change() as change:
        _put(change, _get_row(queue).as_spec())  # one that was stored before there were rollouts names its own now
        change.put(Kind.ROLLOUT, queue, b"%d" % change.revision)
        asked = {"rollout": (None, change.revision)}
        record(action="queue.redeployed", object_kind="queue", object_name=queue, changes=asked)
    return queue


def republish_configuration() -> Comparison:
    """Make Redis agree with the database, and store what Redis knows of the use of keys. Raises BrokerUnavailable."""
    comparison = republishing.republish_configuration()
    store_key_uses()
    return comparison


def publish_again(*, name: str) -> Comparison:
    """Publish what Redis lacks, on request for a queue. Raises QueueNotFound, BrokerUnavailable."""
    _get_row(name)
    comparison = republish_configuration()
    if changed := sorted({*comparison.outdated, *(f"token:{token.queue}" for token in comparison.tokens)}):
        record(
            action="queue.republished", object_kind="queue", object_name=name, changes={"documents": (None, changed)}
        )
    return comparison


def spec_version(spec: QueueSpec) -> str:
    """Return what changes with anything that a specification says."""
    return hashlib.sha256(spec.encode()).hexdigest()[:32]


def spec_digest(spec: QueueSpec) -> str:
    """Return what two specifications share if they say the same, apart from being enabled."""
    return hashlib.sha256(replace(spec, is_enabled=True).encode()).hexdigest()


def _store(
    spec: QueueSpec,
    *,
    source: Source | None,
    is_new: bool = False,
    file_digest: str | None = None,
    file_path: str = "",
) -> Queue:
    """Check and store a queue, and see to what it leaves behind. Without a source it stays whoever's it was."""
    if problems := find_problems(spec):
        raise QueueInvalid(errors=[f"{'.'.join(map(str, p.path))}: {p.reason}" for p in problems])
    with configuration_change() as change:
        row = Queue.objects.filter(name=spec.name).first() or Queue(name=spec.name)
        if is_new and row.pk:
            raise QueueAlreadyExists(f"A queue {spec.name} exists already.")
        _refuse_collision(spec)
        before = row.as_spec() if row.pk else None
        settle_removals(before, spec)
        row.take_from(spec)
        row.source = source or row.source
        if source != Source.FILE:
            row.is_enabled = spec.is_enabled
        if file_digest is not None:
            row.file_digest, row.file_path = file_digest, file_path
        row.save()
        _set_sub_queues(row, spec)
        saved = replace(spec, is_enabled=row.is_enabled)
        _put(change, saved)
        record_queue("queue.updated" if before else "queue.created", spec.name, old=before, new=saved)
    return row


def _get_row(name: str) -> Queue:
    """Return a queue's row. Raises QueueNotFound."""
    row = Queue.objects.filter(name=name).first()
    if row is None:
        raise QueueNotFound(f"No queue {name[:128]!r}.")
    return row


def _set_enabled(name: str, *, is_enabled: bool) -> bool:
    """Enable or disable a queue; where it came from stays, since files do not say this."""
    with configuration_change() as change:
        row = _get_row(name)
        if row.is_enabled == is_enabled:
            return False
        before = row.as_spec()
        after = replace(before, is_enabled=is_enabled)
        settle_removals(before, after)
        row.is_enabled = is_enabled
        row.save(update_fields=["is_enabled", "updated_at"])
        _put(change, after)
        record_queue("queue.updated", name, old=before, new=after)
    return True


def _refuse_collision(spec: QueueSpec) -> None:
    """Raise QueueNameTaken if another queue answers to one of the names."""
    sub_queues: dict[str, list[str]] = {name: [] for name in Queue.objects.values_list("name", flat=True)}
    for queue, sub in SubQueue.objects.values_list("queue__name", "name"):
        sub_queues[queue].append(sub)
    sub_queues.pop(spec.name, None)
    claimed = claimed_names(spec.name, [sub.name for sub in spec.sub_queues])
    for other, subs in sub_queues.items():
        if shared := claimed & claimed_names(other, subs):
            raise QueueNameTaken(f"The queue {other} answers to {min(shared)!r} too.")


def _set_sub_queues(row: Queue, spec: QueueSpec) -> None:
    """Make a queue's sub-queues those of its specification."""
    row.sub_queues.exclude(name__in=[sub.name for sub in spec.sub_queues]).delete()
    for position, sub in enumerate(spec.sub_queues):
        SubQueue.objects.update_or_create(
            queue=row, name=sub.name, defaults={"priority": sub.priority, "position": position}
        )


def _put(change: Change, spec: QueueSpec) -> None:
    """Store what is to be published about a queue, and what belongs to it."""
    change.put(Kind.QUEUE, spec.name, spec.encode(), uses=documents_used(spec))
