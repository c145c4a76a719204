"""Create and change queues: by the API as a whole or one sub-queue at a time, and by the admin's form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from queues.config import parse_spec
from queues.configurations import QueueConfig
from queues.definitions import QueueSpec, SubQueue
from queues.grants import refuse_added_grants
from queues.models import Queue, Source
from queues.names import AllowedQueues
from queues.operations import save_queue, spec_version
from queues.validation import NAME_RULE, is_queue_name
from runqy.errors import PreconditionFailed, QueueAlreadyExists, QueueInvalid, QueueNotFound
from runqy.publication.operations import configuration_change

__all__ = ["QueueConfigInput", "add_queue", "edit_queue", "upsert_queue"]

_LIMITED_KEY = "This key is limited to queues"
_NO_VAULT_PERMISSION = "You may not change vaults (vaults.change_vault)"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfigInput:
    """A queue as a client of the API sends it."""

    name: str
    definition: Mapping[str, Any]
    """Spelled as in queue files, not validated."""
    is_enabled: bool | None = None
    """None: unchanged, a new queue is enabled."""


def upsert_queue(
    *,
    config: QueueConfigInput,
    force: bool = False,
    allowed_queues: AllowedQueues = None,
    check: Callable[[str | None], None] = lambda _: None,
) -> tuple[QueueConfig, bool]:
    """Create a queue, or with `force` change one; return it, and whether it is new.

    Released command lines write out a queue file's sub-queues one by one, as `inference.high`: such a name, without
    the key `sub_queues`, adds or changes that sub-queue. `check` gets the version of what is to be changed.
    Raises QueueInvalid, QueueAlreadyExists, QueueNameTaken; for a key that is limited to queues QueueNotFound where it
    is not for the queue, and KeyInsufficient where the queue would be given more of vaults.
    """
    if not is_queue_name(config.name):
        raise QueueInvalid(errors=[f"name: {NAME_RULE}"])
    with configuration_change():
        queue, sub_queue = _parts(config)
        if allowed_queues is not None and queue not in allowed_queues:
            raise QueueNotFound(f"No queue {queue[:128]!r} that this key may change.")
        row = Queue.objects.filter(name=queue).first()
        before = row.as_spec() if row else None
        check(spec_version(before) if before else None)
        spec = _spec(config, queue, before)
        is_new = before is None
        if sub_queue:
            spec, is_new = _with_sub_queue(spec, sub_queue, before, force)
        elif before and not force:
            raise QueueAlreadyExists(f"A queue {queue} exists already; force=true updates it.")
        if allowed_queues is not None:
            refuse_added_grants(before.deployment if before else None, spec.deployment, reason=_LIMITED_KEY)
        saved = save_queue(spec=spec, source=Source.API)
    return QueueConfig.of(saved, sub_queue), is_new


def add_queue(*, spec: QueueSpec, may_grant_vaults: bool) -> Queue:
    """Create a queue in the admin. Raises KeyInsufficient, and as `save_queue` does."""
    if not may_grant_vaults:
        refuse_added_grants(None, spec.deployment, reason=_NO_VAULT_PERMISSION)
    return save_queue(spec=spec, source=Source.ADMIN, is_new=True)


def edit_queue(*, spec: QueueSpec, version: str, may_grant_vaults: bool) -> Queue:
    """Change a queue that was at a version when it was read; one that stays the same keeps its source.

    Raises QueueNotFound, PreconditionFailed when it has changed since, KeyInsufficient where it would be given more
    of vaults without `may_grant_vaults`, and as `save_queue` does.
    """
    with configuration_change():
        row = Queue.objects.filter(name=spec.name).first()
        if row is None:
            raise QueueNotFound(f"No queue {spec.name[:128]!r}.")
        before = row.as_spec()
        if spec_version(before) != version:
            raise PreconditionFailed(
                "Somebody else has changed this queue since you opened the page. Open it again and enter your changes."
            )
        if not may_grant_vaults:
            refuse_added_grants(before.deployment, spec.deployment, reason=_NO_VAULT_PERMISSION)
        return row if before == spec else save_queue(spec=spec, source=Source.ADMIN)


def _parts(config: QueueConfigInput) -> tuple[str, str]:
    """Return the queue that a name means, and the sub-queue, if it means one."""
    name = config.name
    if "." not in name or "sub_queues" in config.definition or Queue.objects.filter(name=name).exists():
        return name, ""
    cuts = [place for place, char in enumerate(name) if char == "." and 0 < place < len(name) - 1]
    known = set(Queue.objects.filter(name__in=[name[:cut] for cut in cuts]).values_list("name", flat=True))
    cut = next((cut for cut in reversed(cuts) if name[:cut] in known), cuts[-1] if cuts else 0)
    return (name[:cut], name[cut + 1 :]) if cut else (name, "")


def _spec(config: QueueConfigInput, queue: str, before: QueueSpec | None) -> QueueSpec:
    """Return the specification of a queue that a client sends."""
    spec = parse_spec(queue, dict(config.definition))
    is_enabled = before.is_enabled if before else True
    return replace(spec, is_enabled=is_enabled if config.is_enabled is None else config.is_enabled)


def _with_sub_queue(stated: QueueSpec, name: str, before: QueueSpec | None, force: bool) -> tuple[QueueSpec, bool]:
    """Return a queue with one sub-queue added or changed, and whether that is new."""
    sub = SubQueue(name=name, priority=stated.priority)
    subs = before.sub_queues if before else ()
    if before and not subs:
        raise QueueAlreadyExists(
            f"The queue {before.name} exists and has no sub-queues: its tasks would be left behind. "
            f"Delete it, or send it whole, with sub_queues and force=true."
        )
    is_new = name not in [other.name for other in subs]
    if not is_new and not force:
        raise QueueAlreadyExists(f"The queue {stated.name} has a sub-queue {name} already; force=true updates it.")
    changed = (*subs, sub) if is_new else tuple(sub if other.name == name else other for other in subs)
    spec = replace(stated, sub_queues=changed, priority=max(other.priority for other in changed))
    if before and not force and replace(before, sub_queues=changed, priority=spec.priority) != spec:
        raise QueueAlreadyExists(f"The queue {stated.name} is deployed differently; force=true changes all of it.")
    return spec, is_new
