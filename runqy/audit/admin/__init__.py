"""The audit in the admin: search, pages, CSV export."""

from runqy.audit.admin.records import AuditRecordAdmin

__all__ = ["AuditRecordAdmin"]
