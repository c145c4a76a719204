"""Appends to the audit."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.utils import timezone

from runqy.audit.actors import current_actor
from runqy.audit.chain import current_key
from runqy.audit.changes import Changes, encode_changes
from runqy.audit.models import LONGEST_TEXT, AuditHead, AuditRecord
from runqy.errors import RunqyError

__all__ = ["Announcement", "announced", "record"]


def record(*, action: str, object_kind: str, object_name: str, changes: Changes | None = None) -> AuditRecord:
    """Append who acts here and what they changed, in the transaction of the change.

    `action` reads like `queue.paused`. `changes` has the old and the new value of each field, CHANGED where they are
    secret. The chain stays locked until the transaction ends, so call this last, after all other locks were taken. For
    a change of Redis, which no transaction reaches, see `announced`.
    """
    actor, key = current_actor(), current_key()
    with transaction.atomic(savepoint=False):
        head, _ = AuditHead.objects.select_for_update().get_or_create(pk=1)
        row = AuditRecord(
            number=head.number + 1,
            at=timezone.now(),
            actor_kind=actor.kind,
            actor_id=_fitting(actor.id),
            actor_name=_fitting(actor.name),
            address=_fitting(actor.address),
            request_id=_fitting(actor.request_id),
            action=action,
            object_kind=object_kind,
            object_name=_fitting(object_name),
            changes=encode_changes(changes or {}),
            previous=head.digest,
            key_id=key.id,
        )
        row.digest = row.chained_digest(key)
        row.save()
        head.number, head.digest = row.number, row.digest
        head.save()
    return row


class Announcement:
    """A record of what is about to happen outside of the database."""

    def __init__(self, row: AuditRecord) -> None:
        self._row = row

    def amend(self, outcome: str) -> None:
        """Append what came of it, where that is something else than was announced."""
        row = self._row
        told: Changes = {"amends": (None, row.number), "outcome": (None, outcome)}
        record(
            action=f"{row.object_kind}.amended", object_kind=row.object_kind, object_name=row.object_name, changes=told
        )


@contextmanager
def announced(
    *, action: str, object_kind: str, object_name: str, changes: Changes | None = None
) -> Iterator[Announcement]:
    """Record a change of Redis, committed before the block makes it; an error in the block is recorded behind it.

    So nothing happens unrecorded, whenever the process or the database goes: what is not known to have happened is
    recorded too. Check first whether there is anything to change. Not to be used inside of a transaction.
    """
    with transaction.atomic(durable=True):
        row = record(action=action, object_kind=object_kind, object_name=object_name, changes=changes)
    announcement = Announcement(row)
    try:
        yield announcement
    except RunqyError as error:
        announcement.amend(error.code)
        raise


def _fitting(text: str) -> str:
    """Return a text as its column takes it: what cannot be printed escaped, and cut."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)[:LONGEST_TEXT]
