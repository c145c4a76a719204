"""The admin of bulk actions: their list, the preview from which a user requests one, and the page with its progress."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import JSONField, QuerySet
from django.db.models.fields.json import KT
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse

from runqy.admin_site import labels
from runqy.admin_site.base_admin import LIVE
from runqy.admin_site.times import show_time
from runqy.admin_site.views import AdminView
from runqy.audit.history import AuditedModelAdmin, records_url
from runqy.broker.states import TaskState
from runqy.errors import BulkActionNotFound, RequestInvalid
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction
from tasks.admin.filters import describe, make_form, with_absolute_times
from tasks.admin.permissions import can_apply, can_view_payloads, labels_for, parse_action
from tasks.admin.presenters import as_fields, task_urls, tasks_url
from tasks.bulk_actions import (
    AUDIT_KIND,
    cancel_bulk_action,
    create_bulk_action,
    get_bulk_action,
    get_query,
    list_valid_actions,
    preview_bulk_action,
)
from tasks.models import BulkAction
from tasks.search import TaskQuery

BULK_STATE_VARIANTS = {
    BulkAction.State.RUNNING: labels.INFO,
    BulkAction.State.FINISHED: labels.SUCCESS,
    BulkAction.State.FAILED: labels.DANGER,
}
# "Cancelled" is spelled as on all other pages.
BULK_STATE_NAMES = {state: state.label for state in BulkAction.State} | {BulkAction.State.CANCELED: "Cancelled"}
_COPIES = 20
_MAX_CHOICES = 100
_RUN_AGAIN = "Tasks that Redis still has run again under their ids, the others as new tasks with the same payload."
_DELETE_ENDED = (
    "Tasks are deleted from Redis and from the history with payloads, results and errors. Charts keep counts."
)


class _ValueFilter(admin.SimpleListFilter):
    """Bulk actions that have a value in a field."""

    field = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        found = model_admin.get_queryset(request).order_by().values_list(KT(self.field), flat=True).distinct()
        return [(name, name) for name in sorted(filter(None, found[:_MAX_CHOICES]))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.field: self.value()}) if self.value() else queryset


class BulkStateFilter(_ValueFilter):
    """Bulk actions in a state."""

    title, parameter_name, field = "state", "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, str(name)) for state, name in BULK_STATE_NAMES.items()]


class RequestedByFilter(_ValueFilter):
    """Bulk actions that a user requested."""

    title, parameter_name, field = "user", "by", "actor__name"


class BulkQueueFilter(_ValueFilter):
    """Bulk actions on the tasks of a queue, whose name is as the filter spells it."""

    title, parameter_name, field = "queue", "queue", "conditions__queue"


class RequestView(AdminView):
    """The number of tasks that a filter finds. A POST requests the action on them."""

    template_name = "admin/tasks/bulkaction/request.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        action, query = _parse_request(self.request, self.request.GET)
        preview, texts = preview_bulk_action(get_broker(), query), labels_for(action, query.state)
        return super().get_context_data(**kwargs) | {
            "title": f"{texts.label} all",
            "section": "bulk",
            "label": texts.label,
            "is_dangerous": texts.needs_confirmation,
            "consequence": _consequence(action, query.state),
            "preview": preview,
            "is_ended": query.state is None,
            "conditions": describe(query, self.request.user),
            "fields": {**as_fields(query), "action": action.value, "expected": str(preview.count)},
            "back_url": tasks_url(query),
        }

    def post(self, request: HttpRequest) -> HttpResponse:
        action, query = _parse_request(request, request.POST)
        expected = _parse_count(request.POST.get("expected", ""))
        bulk = create_bulk_action(get_broker(), action=action, query=query, expected=expected)
        return HttpResponseRedirect(bulk_url(bulk.pk))


class ProgressView(AdminView):
    """The part of a bulk action's page that changes."""

    template_name = "admin/tasks/bulkaction/progress.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        bulk = _find(self.kwargs["object_id"])
        context = super().get_context_data(**kwargs) | _progress(self.request, bulk)
        return context | {"title": title_of(bulk), "section": "bulk"}


class BulkActionView(ProgressView):
    """The page of a bulk action."""

    template_name = "admin/tasks/bulkaction/detail.html"


class CancelView(AdminView):
    """Stops a bulk action."""

    http_method_names = ("post",)

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        bulk = _find(object_id)
        if not can_apply(request.user, TaskAction(bulk.action)):
            raise PermissionDenied
        if cancel_bulk_action(bulk.pk):
            messages.success(request, "The bulk action was cancelled. Tasks that it has already changed stay changed.")
        else:
            messages.warning(request, "The bulk action had already ended.")
        return HttpResponseRedirect(bulk_url(bulk.pk))


class BulkActionAdmin(AuditedModelAdmin):
    """Bulk actions: requested from a filter, applied by maintenance."""

    audit_kind = AUDIT_KIND
    audit_field = "pk"
    list_display = ("title", "requested_by", "requested_at", "progress", "state_badge")
    list_display_links = ("title",)
    list_filter = (BulkStateFilter, RequestedByFilter, BulkQueueFilter)
    ordering = ("-id",)
    actions = None
    list_before_template = "admin/tasks/bulkaction/above_list.html"
    empty_text = "An action on all tasks that match a filter is requested from the list of tasks or of errors."

    class Media:
        css = {"all": ["admin_site/pages.css"]}
        js = (LIVE,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        queryset: QuerySet[Any] = super().get_queryset(request).annotate(conditions=Cast("query", JSONField()))
        return queryset

    def get_urls(self) -> list[URLPattern]:
        own = [
            path("add/", self.page(RequestView), name="tasks_bulkaction_add"),
            path("<str:object_id>/change/", self.page(BulkActionView), name="tasks_bulkaction_change"),
            path("<str:object_id>/progress/", self.page(ProgressView), name="tasks_bulkaction_progress"),
            path("<str:object_id>/cancel/", self.page(CancelView), name="tasks_bulkaction_cancel"),
        ]
        # Django's other pages are not served: bulk actions are not edited or deleted here.
        return own + [url for url in super().get_urls() if url.name == "tasks_bulkaction_changelist"]

    @admin.display(description="action")
    def title(self, bulk: BulkAction) -> str:
        return title_of(bulk)

    @admin.display(description="by")
    def requested_by(self, bulk: BulkAction) -> str:
        return str(bulk.actor.get("name", ""))

    @admin.display(description="requested", ordering="created_at")
    def requested_at(self, bulk: BulkAction) -> str:
        return show_time(bulk.created_at)

    @admin.display(description="tasks")
    def progress(self, bulk: BulkAction) -> str:
        parts = [f"{bulk.done:,} of {bulk.expected:,}"]
        parts += [f"{bulk.skipped:,} skipped"] if bulk.skipped else []
        parts += [f"{bulk.failed:,} failed"] if bulk.failed else []
        return ", ".join(parts)

    @admin.display(description="state", ordering="state")
    def state_badge(self, bulk: BulkAction) -> str:
        context = {"text": BULK_STATE_NAMES[BulkAction.State(bulk.state)], "type": _state_variant(bulk)}
        return render_to_string("unfold/helpers/label.html", context)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("tasks.view_task"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        # There is no form without a filter: bulk actions are requested from lists.
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def title_of(bulk: BulkAction) -> str:
    """Return the title of a bulk action: "Run again: ended tasks of mail"."""
    query = get_query(bulk)
    subject = f"tasks of {query.queue}" if query.queue else "tasks"
    kind = f"{query.state} " if query.state else "ended "
    return f"{labels_for(TaskAction(bulk.action), query.state).label}: {kind}{subject}"


def bulk_url(number: int) -> str:
    return reverse("admin:tasks_bulkaction_change", args=[number])


def _find(object_id: str) -> BulkAction:
    """Raise BulkActionNotFound if the id names no bulk action."""
    text = unquote(object_id)
    # A longer number does not fit into a database's bigint.
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BulkActionNotFound
    return get_bulk_action(int(text))


def _progress(request: HttpRequest, bulk: BulkAction) -> dict[str, Any]:
    query = get_query(bulk)
    problems = [(each["queue"], each["id"], each) for each in reversed(bulk.problems)]
    tasks = [(queue, task_id) for queue, task_id, _ in problems]
    copies = list(bulk.copies.order_by("-id").values_list("copy_queue", "copy_id")[:_COPIES])
    urls = task_urls(get_broker(), (*tasks, *copies))
    handled = bulk.done + bulk.skipped + bulk.failed
    return {
        "bulk": bulk,
        "is_open": bulk.state in BulkAction.OPEN_STATES,
        "state_name": BULK_STATE_NAMES[BulkAction.State(bulk.state)],
        "state_variant": _state_variant(bulk),
        "handled": handled,
        "total": max(bulk.expected, handled),
        "conditions": describe(query, request.user),
        "tasks_url": tasks_url(query) if not query.text or can_view_payloads(request.user, query.queue) else "",
        "problems": [(task_id, urls[queue, task_id], each) for queue, task_id, each in problems],
        "copies": [(copy_id, urls[queue, copy_id]) for queue, copy_id in copies],
        "can_cancel": can_apply(request.user, TaskAction(bulk.action)),
        "records_url": records_url(AUDIT_KIND, str(bulk.pk)),
        "by": bulk.actor.get("name", ""),
    }


def _state_variant(bulk: BulkAction) -> str:
    return BULK_STATE_VARIANTS.get(BulkAction.State(bulk.state), labels.NEUTRAL)


def _parse_request(request: HttpRequest, fields: QueryDict) -> tuple[TaskAction, TaskQuery]:
    """Return the action and the filter of a form. Raise RequestInvalid, PermissionDenied."""
    action = parse_action(request, fields)
    query = _parse_query(request, fields)
    if action not in list_valid_actions(query.state):
        raise RequestInvalid(f"action: {action} is not possible for these tasks.")
    return action, query


def _parse_query(request: HttpRequest, fields: QueryDict) -> TaskQuery:
    """Return the filter of a form. Raise RequestInvalid, PermissionDenied."""
    form = make_form(request, fields)
    if form.ignores_text:
        raise PermissionDenied
    if not form.is_valid():
        raise RequestInvalid(errors=[f"{name}: {error}" for name, found in form.errors.items() for error in found])
    if form.ignored:
        raise RequestInvalid(errors=[f"{name}: applies to ended tasks only; remove it." for name in form.ignored])
    return with_absolute_times(form.query())


def _consequence(action: TaskAction, state: TaskState | None) -> str:
    if state is not None:
        return labels_for(action, state).consequence
    return _RUN_AGAIN if action is TaskAction.RUN else _DELETE_ENDED


def _parse_count(text: str) -> int:
    """Return a number of tasks; 0 if the text is not one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
