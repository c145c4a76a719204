"""Leads from the page of an object to the records of what was done to it."""

from typing import Any, ClassVar

from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from runqy.audit.links import records_url
from runqy.staff.pages import StaffModelAdmin


class AuditedModelAdmin(StaffModelAdmin):
    """An admin whose objects stand in the audit; their history is there rather than in Django's log."""

    audit_kind: ClassVar[str] = ""
    """How the audit calls this kind of object."""

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        """Return the names by which the audit knows an object."""
        return (str(obj),)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead those who may read the audit there; show others Django's log."""
        obj = self.get_object(request, unquote(object_id))
        if not self.audit_kind or obj is None or not request.user.has_perm("audit.view_auditrecord"):
            shown: HttpResponse = super().history_view(request, object_id, extra_context)
            return shown
        return HttpResponseRedirect(records_url(self.audit_kind, *self.audit_names(obj)))
