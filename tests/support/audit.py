"""All audit records for tests, including those that wait in Redis for maintenance."""

from django.db.models import QuerySet

from runqy.audit.models import AuditRecord
from runqy.audit.operations import move_pending


def audit_records() -> "QuerySet[AuditRecord]":
    """Move the records that wait in Redis to the database, and return all."""
    move_pending()
    return AuditRecord.objects.all()
