"""Remove records older than RUNQY_AUDIT_KEPT from the beginning of the chain."""

from datetime import timedelta
from itertools import takewhile

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runqy.audit.models import AuditRecord
from runqy.audit.operations import lock_head, record
from runqy.audit.queries import REMOVED, describe_removal

REMOVED_AT_ONCE = 1000
_AT_MOST_EVERY = timedelta(days=1)  # each removal leaves a record


def remove_old_records() -> int:
    """Remove the oldest records, at most REMOVED_AT_ONCE, and return how many."""
    if not settings.RUNQY_AUDIT_KEPT_S:
        return 0
    until = timezone.now() - timedelta(seconds=settings.RUNQY_AUDIT_KEPT_S)
    with transaction.atomic():
        head = lock_head()
        oldest = AuditRecord.objects.order_by("number").only("number", "at", "digest")[:REMOVED_AT_ONCE]
        old = list(takewhile(lambda row: row.at < until, oldest))
        if not old or (len(old) < REMOVED_AT_ONCE and old[0].at > until - _AT_MOST_EVERY):
            return 0
        head.removed = old[-1].number
        head.save()  # the triggers refuse to delete records above it
        AuditRecord.objects.filter(number__lte=head.removed).delete()
        # Without a record of the removal, a chain that does not begin with record 1 is broken.
        changes = describe_removal(head.removed, old[-1].digest)
        record(action=REMOVED, object_kind="audit", object_name="audit", changes=changes)
    return len(old)
