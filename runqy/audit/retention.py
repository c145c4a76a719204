"""Remove records older than RUNQY_AUDIT_KEPT."""

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from runqy.audit.models import AuditRecord
from runqy.audit.operations import record

REMOVED_AT_ONCE = 1000
_AT_MOST_EVERY = timedelta(days=1)  # each removal leaves a record


def remove_old_records() -> int:
    """Remove the oldest records, at most REMOVED_AT_ONCE, and return how many."""
    if not settings.RUNQY_AUDIT_KEPT_S:
        return 0
    until = timezone.now() - timedelta(seconds=settings.RUNQY_AUDIT_KEPT_S)
    with transaction.atomic():
        old = list(AuditRecord.objects.filter(at__lt=until).order_by("at").only("at")[:REMOVED_AT_ONCE])
        if not old or (len(old) < REMOVED_AT_ONCE and old[0].at > until - _AT_MOST_EVERY):
            return 0
        removed, _ = AuditRecord.objects.filter(pk__in=[row.pk for row in old]).delete()
        if removed:  # by this process: another one may have removed them since they were read
            changes = {"records": (None, removed), "before": (None, until)}
            record(action="audit.removed", object_kind="audit", object_name="audit", changes=changes)
    return removed
