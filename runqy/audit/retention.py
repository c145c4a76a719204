"""Remove records older than RUNQY_AUDIT_KEPT."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from runqy.audit.models import AuditRecord
from runqy.audit.operations import record
from runqy.maintenance.retention import ROWS_AT_ONCE

_AT_MOST_EVERY = timedelta(days=1)  # each removal leaves a record


def find_old_records() -> QuerySet[AuditRecord]:
    """Return the records to remove, the oldest first. Few wait for a day, until there are more."""
    if not settings.RUNQY_AUDIT_KEPT_S:
        return AuditRecord.objects.none()
    old = AuditRecord.objects.filter(at__lt=_kept_since()).order_by("at")
    is_due = old.filter(at__lte=_kept_since() - _AT_MOST_EVERY).exists() or old[ROWS_AT_ONCE - 1 :].exists()
    return old if is_due else old.none()


def remove_records(old: QuerySet[AuditRecord]) -> None:
    """Remove records, and record that."""
    removed, _ = old.delete()
    if removed:  # by this process: another one may have removed them since they were found
        changes = {"records": (None, removed), "before": (None, _kept_since())}
        record(action="audit.removed", object_kind="audit", object_name="audit", changes=changes)


def _kept_since() -> datetime:
    return timezone.now() - timedelta(seconds=settings.RUNQY_AUDIT_KEPT_S)
