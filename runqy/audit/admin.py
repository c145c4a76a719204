"""The audit in the admin: to be read."""

import json
from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from runqy.audit.models import AuditRecord
from runqy.staff.pages import StaffModelAdmin


@admin.register(AuditRecord)
class AuditRecordAdmin(StaffModelAdmin):
    """Records: nobody adds, changes or deletes one."""

    list_display = ("number", "at", "actor_kind", "actor_name", "action", "object_kind", "object_name", "address")
    list_filter = ("actor_kind", "object_kind", "action", "at")
    search_fields = ("actor_name", "object_name", "request_id", "address")
    fields = (
        *("number", "at", "actor_kind", "actor_name", "actor_id", "address", "request_id"),
        *("action", "object_kind", "object_name", "what_changed", "previous", "digest"),
    )
    readonly_fields = ("what_changed",)

    @admin.display(description="changes")
    def what_changed(self, row: AuditRecord) -> str:
        """Return a line for each field."""
        changes: dict[str, Any] = json.loads(row.changes)
        return "\n".join(f"{name}: {_said(change)}" for name, change in changes.items()) or "-"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False


def _said(change: Any) -> str:
    """Return a change as people read it."""
    if isinstance(change, str):
        return change
    return f"{json.dumps(change['old'])} → {json.dumps(change['new'])}"
