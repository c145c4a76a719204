"""The maintenance duties of the audit."""

from runqy.audit.operations import move_pending
from runqy.audit.retention import remove_old_records
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register


@register
class AuditRecorder(DatabaseDuty):
    """Move records that wait in Redis to the database. While it is unavailable they stay in Redis."""

    name = "audit_recorder"
    interval_s = 1.0

    def run(self, broker: Broker) -> None:
        move_pending()


@register
class AuditPruner(DatabaseDuty):
    """Remove audit records older than RUNQY_AUDIT_KEPT, at most a thousand a tick."""

    name = "audit_pruner"
    interval_s = 60.0

    def run(self, broker: Broker) -> None:
        remove_old_records()
