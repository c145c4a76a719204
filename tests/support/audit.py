"""Gives tests all that was recorded, also what waits in Redis for maintenance."""

from django.db.models import QuerySet

from runqy.audit.models import AuditRecord
from runqy.audit.operations import move_pending


def audit_records() -> "QuerySet[AuditRecord]":
    """Return all records, once those that wait in Redis are in the database."""
    move_pending()
    return AuditRecord.objects.all()
