"""The maintenance duty of the audit."""

from runqy.audit.operations import move_pending
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register


@register
class AuditRecorder(DatabaseDuty):
    """Move audit records of changes in Redis to the database; while that is unavailable they stay in Redis."""

    name = "audit_recorder"
    interval_s = 1.0

    def run(self, broker: Broker) -> None:
        move_pending()
