"""The audit in the admin: to be searched, read and taken along as CSV."""

from runqy.audit.admin.records import AuditRecordAdmin

__all__ = ["AuditRecordAdmin"]
