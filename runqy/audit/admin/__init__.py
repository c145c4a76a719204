"""The audit in the admin: search, pages, CSV export."""

from django.contrib import admin

from runqy.audit.admin.records import AuditRecordAdmin
from runqy.audit.models import AuditRecord

admin.site.register(AuditRecord, AuditRecordAdmin)
