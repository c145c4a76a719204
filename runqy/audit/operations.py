"""Appends to the audit."""

from django.db import transaction
from django.utils import timezone

from runqy.audit.actors import current_actor
from runqy.audit.changes import Changes, encode_changes
from runqy.audit.models import LONGEST_TEXT, AuditHead, AuditRecord

__all__ = ["record"]


def record(*, action: str, object_kind: str, object_name: str, changes: Changes | None = None) -> AuditRecord:
    """Append who acts here and what they changed, in the transaction of the change.

    `action` reads like `queue.paused`. `changes` has the old and the new value of each field, CHANGED where they are
    secret. The chain stays locked until the transaction ends, so call this last, after all other locks were taken. For
    a change of Redis open `transaction.atomic()` around both: then a database that is away stops the change, and a
    change that fails leaves no record.
    """
    actor = current_actor()
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
        )
        row.digest = row.chained_digest()
        row.save()
        head.number, head.digest = row.number, row.digest
        head.save()
    return row


def _fitting(text: str) -> str:
    """Return a text as its column takes it: what cannot be printed escaped, and cut."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)[:LONGEST_TEXT]
