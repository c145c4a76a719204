"""The maintenance duties of the audit."""

from runqy.audit.models import AuditRecord
from runqy.audit.operations import find_old_records, move_pending, remove_records
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register
from runqy.maintenance.retention import register_retention


@register
class AuditRecorder(DatabaseDuty):
    """Move records that wait in Redis to the database. While it is unavailable they stay in Redis."""

    name = "audit_recorder"
    interval_s = 1.0

    def run(self, broker: Broker) -> None:
        move_pending()


register_retention(AuditRecord, find_old_records, remove_records)
