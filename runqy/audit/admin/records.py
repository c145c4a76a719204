"""The admin pages of audit records: a list with search and an export as CSV, and a page for each."""

import csv
import json
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from unfold.paginator import InfinitePaginator

from runqy.admin_site.base_admin import ReadOnlyModelAdmin
from runqy.admin_site.times import show_time
from runqy.audit import queries
from runqy.audit.admin.filters import ActionFilter, ActorKindFilter, KindFilter, ObjectFilter, PeriodFilter
from runqy.audit.admin.presenters import describe_changes, describe_field, is_new, read_changes, summarize
from runqy.audit.history import find_object_url
from runqy.audit.models import AuditRecord

_COLUMNS = (
    *("number", "at", "recorded_at", "actor_kind", "actor_name", "actor_id", "address", "request_id"),
    *("action", "object_kind", "object_name", "changes"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that start a formula in a spreadsheet, https://owasp.org/www-community/attacks/CSV_Injection."""
_MAX_LINE = 90
_LATE_S = 60


class _Echo:
    """A file whose `write` returns the line, so that csv can be streamed."""

    def write(self, line: str) -> str:
        return line


def csv_lines(records: Iterable[AuditRecord]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(_COLUMNS)
    for record in records:
        yield writer.writerow([_escape(cell) for cell in _cells(record)])


def _cells(record: AuditRecord) -> Iterator[str]:
    for name in _COLUMNS:
        if name in ("at", "recorded_at"):
            time = getattr(record, name)
            yield time.astimezone(UTC).isoformat() if time else ""
        elif name == "changes":
            yield "\n".join(str(change) for change in read_changes(record.changes))
        else:
            yield str(getattr(record, name))


def _escape(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


class AuditRecordAdmin(ReadOnlyModelAdmin):
    """Audit records."""

    list_display = ("time", "actor", "done", "object_label", "changes_line")
    list_display_links = ("time",)
    list_filter = (("at", PeriodFilter), KindFilter, ObjectFilter, ActionFilter, ActorKindFilter)
    list_filter_submit = True
    paginator = InfinitePaginator  # it does not count all records
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_before_template = "audit/above_list.html"
    search_fields = ("object_name",)
    search_help_text = "Object, actor, action or address"
    empty_text = "Changes made from now on are listed here."
    sortable_by = ()
    actions = None
    fieldsets = (
        (None, {"fields": ("time", "actor", "done", "object_label", "object_page")}),
        ("Changes", {"fields": ("changes_table",)}),
        ("Origin", {"fields": ("address", "request_id", "actor_id")}),
        ("Record", {"fields": ("number", "recorded_time")}),
    )
    readonly_fields = ("time", "actor", "done", "object_label", "object_page", "changes_table", "recorded_time")

    class Media:
        css = {"all": ("audit/audit.css",)}

    def get_urls(self) -> list[URLPattern]:
        export = self.admin_site.admin_view(self.export_view)
        return [path("export/", export, name="audit_auditrecord_export"), *super().get_urls()]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return queryset.filter(queries.search_condition(search_term)), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        context = {"title": "Audit", "waiting": queries.count_waiting(), **(extra_context or {})}
        return super().changelist_view(request, context)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = self.get_changelist_instance(request).queryset
        name = f"audit-{timezone.now().astimezone(UTC):%Y%m%dT%H%M%SZ}.csv"
        response = StreamingHttpResponse(
            csv_lines(queries.iterate_records(found)), content_type="text/csv; charset=utf-8"
        )
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        response["Cache-Control"] = "no-store"
        return response

    @admin.display(description="time")
    def time(self, row: AuditRecord) -> str:
        time = show_time(row.at)
        if row.recorded_at is None or (row.recorded_at - row.at).total_seconds() < _LATE_S:
            return time
        return format_html("{} (recorded {})", time, show_time(row.recorded_at))

    @admin.display(description="recorded")
    def recorded_time(self, row: AuditRecord) -> str:
        if row.recorded_at is None:
            return "with the change"
        return format_html("{}, after waiting in Redis", show_time(row.recorded_at))

    @admin.display(description="actor")
    def actor(self, row: AuditRecord) -> str:
        if row.actor_kind == row.actor_name:
            return row.actor_name
        return f"{row.actor_name} ({row.actor_kind})"

    @admin.display(description="object")
    def object_label(self, row: AuditRecord) -> str:
        return row.describe_object()

    @admin.display(description="action")
    def done(self, row: AuditRecord) -> str:
        return row.describe_action()  # the next column has the kind of object

    @admin.display(description="changes")
    def changes_line(self, row: AuditRecord) -> str:
        line = summarize(row) or "-"
        return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…"

    @admin.display(description="page")
    def object_page(self, row: AuditRecord) -> str:
        return render_to_string("audit/object_link.html", {"url": find_object_url(row)})

    @admin.display(description="fields")
    def changes_table(self, row: AuditRecord) -> str:
        changes = [(change, describe_field(change.field)) for change in describe_changes(row)]
        exact = json.dumps(json.loads(row.changes), indent=2, ensure_ascii=False)
        context = {"changes": changes, "exact": exact, "is_new": is_new(row)}
        return render_to_string("audit/changes.html", context)
