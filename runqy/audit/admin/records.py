"""The pages of records: a list to search, and one page for each."""

from datetime import UTC
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils import timezone

from runqy.audit import queries
from runqy.audit.admin.export import csv_lines
from runqy.audit.admin.filters import ActionFilter, ActorKindFilter, KindFilter, ObjectFilter, PeriodFilter
from runqy.audit.admin.objects import find_object_url
from runqy.audit.admin.paging import RecordList
from runqy.audit.changes import read_changes
from runqy.audit.models import AuditRecord
from runqy.staff.pages import StaffModelAdmin

_SHOWN_CHARACTERS = 90


@admin.register(AuditRecord)
class AuditRecordAdmin(StaffModelAdmin):
    """Records: nobody adds, changes or deletes one."""

    list_display = ("time", "actor", "action", "what", "said")
    list_display_links = ("time",)
    list_filter = (PeriodFilter, KindFilter, ObjectFilter, ActionFilter, ActorKindFilter)
    list_filter_submit = True
    show_facets = admin.ShowFacets.NEVER  # counting is what pages by number avoid
    list_before_template = "audit/above_list.html"
    search_fields = ("object_name",)
    search_help_text = "Object, actor, action or address"
    empty_says = "Whatever people change from now on stands here."
    sortable_by = ()
    actions = None
    fieldsets = (
        (None, {"fields": ("time", "actor", "action", "what", "page")}),
        ("What changed", {"fields": ("changes_table",)}),
        ("Where it came from", {"fields": ("address", "request_id", "actor_id")}),
        ("Its place in the chain", {"fields": ("number", "place", "digest", "previous")}),
    )
    readonly_fields = ("time", "actor", "what", "page", "changes_table", "place")

    class Media:
        css = {"all": ("audit/audit.css",)}

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Leave out the button to the history, which a record is itself."""
        return super().render_change_form(request, context | {"show_history": False}, *args, **kwargs)

    def get_urls(self) -> list[URLPattern]:
        """Add the export."""
        export = self.admin_site.admin_view(self.export_view)
        return [path("export/", export, name="audit_auditrecord_export"), *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RecordList]:
        """Page by numbers."""
        return RecordList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search as the audit's queries do."""
        return queryset.filter(queries.matching(search_term)), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Title the page with its subject."""
        return super().changelist_view(request, {"title": "Audit", **(extra_context or {})})

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Send the records that the list's search and filters find."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = self.get_changelist_instance(request).queryset
        name = f"audit-{timezone.now().astimezone(UTC):%Y%m%dT%H%M%SZ}.csv"
        answer = StreamingHttpResponse(csv_lines(queries.walk(found)), content_type="text/csv; charset=utf-8")
        answer["Content-Disposition"] = f'attachment; filename="{name}"'
        answer["Cache-Control"] = "no-store"
        return answer

    @admin.display(description="time (UTC)")
    def time(self, row: AuditRecord) -> str:
        """Return the second."""
        return f"{row.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    @admin.display(description="actor")
    def actor(self, row: AuditRecord) -> str:
        """Return who did it."""
        if row.actor_kind == row.actor_name:
            return row.actor_name
        return f"{row.actor_name} ({row.actor_kind})"

    @admin.display(description="object")
    def what(self, row: AuditRecord) -> str:
        """Return what it was done to."""
        return f"{row.object_kind.replace('_', ' ')} {row.object_name}"

    @admin.display(description="changes")
    def said(self, row: AuditRecord) -> str:
        """Return the changes in a line, cut."""
        line = "; ".join(str(change) for change in read_changes(row.changes))
        return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"

    @admin.display(description="its page")
    def page(self, row: AuditRecord) -> str:
        """Link to the object."""
        return render_to_string("audit/object_link.html", {"url": find_object_url(row)})

    @admin.display(description="fields")
    def changes_table(self, row: AuditRecord) -> str:
        """Return a table with a line for each field."""
        return render_to_string("audit/changes.html", {"changes": read_changes(row.changes)})

    @admin.display(description="checked just now")
    def place(self, row: AuditRecord) -> str:
        """Check this record and its link to the one before it."""
        if not queries.is_key_known(row):
            return "It was made with another RUNQY_SECRET_KEY: manage.py verify_audit verifies it with that one."
        if queries.is_in_its_place(row):
            return (
                f"It is as it was written, and follows record {row.number - 1}."
                if row.number > 1
                else ("It is as it was written, and is the first.")
            )
        return "It is not as it was written, or the record before it is gone: run manage.py verify_audit."

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False
