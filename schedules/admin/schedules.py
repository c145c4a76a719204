"""The list of schedules, and the page of a schedule."""

import json
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.generic import View

from queues.queries import get_fresh_catalog, hides_payloads
from runqy.admin_site.base_admin import LIVE
from runqy.admin_site.labels import LABEL_TEMPLATE
from runqy.admin_site.times import RelativeTime
from runqy.admin_site.views import AdminView, AdminViewMixin
from runqy.audit.history import AuditedModelAdmin
from runqy.core.formats.timestamps import list_zones
from runqy.errors import BrokerUnavailable, ConfigurationUnavailable, PreconditionFailed, RunqyError
from runqy.redis_connection import get_broker
from schedules.admin.forms import ScheduleForm
from schedules.admin.presenters import STATE_VARIANTS, describe, list_next, show_due, show_fires
from schedules.definition_serializers import parse_schedule
from schedules.models import REASON_MAX_LENGTH, Schedule, ScheduleSource
from schedules.operations import delete_schedule, pause_schedule, save_schedule, trigger_schedule, unpause_schedule
from schedules.queries import (
    FireView,
    ScheduleState,
    find_last_fires,
    find_problem,
    get_state,
    list_fires,
    view_fires,
)
from schedules.runner import run_due

NEXT_COUNT = 5
FIRES_SHOWN = 20


class ScheduleFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("paused", "paused"), ("problem", "last fire enqueued nothing"), ("ended", "ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        conditions = {
            "paused": Q(is_paused=True),
            "problem": ~Q(problem=""),
            "ended": Q(is_paused=False, next_due_at=None),
        }
        return queryset.filter(conditions.get(self.value() or "", Q()))


class ScheduleAdmin(AuditedModelAdmin):
    """Schedules. All changes go through the operations."""

    form = ScheduleForm
    audit_kind = "schedule"
    list_display = ("name", "badge", "queue", "due", "next_due", "last_fire", "problem_text")
    list_filter = (ScheduleFilter, "source")
    search_fields = ("name", "queue")
    search_help_text = "Name or queue"
    empty_text = (
        "A schedule enqueues a task by the clock: every night, every ten minutes. Add one here, or in a queue file."
    )
    ordering = ("name",)
    actions = None
    counted_relations = ("fires",)
    sortable_by = ("name", "queue")
    warn_unsaved_form = True
    list_before_template = "admin_site/live_changelist.html"
    change_form_before_template = "admin_site/version.html"
    change_form_outer_before_template = "schedules/admin/status.html"
    fieldsets = (
        (None, {"fields": ("name", "queue")}),
        ("When", {"fields": ("cron", "every", "time_zone", "preview", "jitter", "starts_at", "ends_at")}),
        ("What", {"fields": ("payload", "options")}),
        ("If it cannot run in time", {"fields": ("overlap", "catch_up", "catch_up_window")}),
    )

    class Media:
        css = {"all": ("admin_site/pages.css", "queues/queues.css")}
        js = (LIVE,)

    def has_run_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("schedules.run_schedule")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if self._may_edit(request, obj) else []

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("name", "preview") if obj else ("preview",)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"time_zone": timezone.get_current_timezone_name(), **super().get_changeform_initial_data(request)}

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        page = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        try:
            catalog = get_fresh_catalog()
        except ConfigurationUnavailable:
            catalog = None
        fires = find_last_fires(get_broker(), page.result_list)
        for row in page.result_list:
            row.shown_state = get_state(row, catalog) if catalog else None
            row.last_fire_view = fires.get(row.pk)
        return page

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # Read again: the form sets what was typed on its own.
        row = Schedule.objects.filter(pk=obj.pk).first() if (obj := kwargs.get("obj")) else None
        if row is not None:
            context |= self._status(request, row)
        context["show_save_and_continue"] = False  # Save leads there
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        def refuse_change(version: str | None) -> None:
            if change and version != form.cleaned_data["version"]:
                raise PreconditionFailed(
                    "This schedule was changed by another user while you edited it. Reload the page and repeat your "
                    "changes."
                )

        row, _ = save_schedule(
            get_broker(),
            spec=form.spec,
            requested=form.requested,
            source=ScheduleSource.ADMIN,
            is_new=not change,
            precondition=refuse_change,
        )
        obj.pk = row.pk

    def response_post_save_add(self, request: HttpRequest, obj: Any) -> HttpResponseRedirect:
        return HttpResponseRedirect(reverse("admin:schedules_schedule_change", args=[obj.pk]))

    response_post_save_change = response_post_save_add

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        delete_schedule(name=obj.name)

    def get_urls(self) -> list[URLPattern]:
        return [
            path("preview/", self.page(PreviewView), name="schedules_schedule_preview"),
            path("<path:object_id>/run/", self.page(RunView), name="schedules_schedule_run"),
            *super().get_urls(),
        ]

    @admin.display(description="preview")
    def preview(self, row: Any) -> str:
        return render_to_string("schedules/admin/preview_frame.html", {"zones": list_zones()})

    @admin.display(description="state")
    def badge(self, row: Any) -> str:
        state: ScheduleState | None = row.shown_state
        if state is None:
            return "-"
        context = {"text": state.value, "type": STATE_VARIANTS[state], "label_title": row.paused_reason}
        return render_to_string(LABEL_TEMPLATE, context)

    @admin.display(description="due")
    def due(self, row: Schedule) -> str:
        return f"{describe(row.timing)} ({row.time_zone})" if row.cron else describe(row.timing)

    @admin.display(description="next", ordering="next_due_at")
    def next_due(self, row: Schedule) -> str:
        if row.next_due_at is None:
            return "-"
        if row.next_due_at <= get_broker().now():
            return "due"
        time = RelativeTime.of_datetime(row.next_due_at, get_broker().now_ns())
        return render_to_string("admin_site/relative_time.html", {"time": time})

    @admin.display(description="last fire")
    def last_fire(self, row: Any) -> str:
        if row.last_fire_view is None:
            return "-"
        (fire,) = show_fires(row, [row.last_fire_view])
        time = RelativeTime.of_datetime(row.last_fire_view.fire.due_at, get_broker().now_ns())
        return render_to_string("schedules/admin/last_fire.html", {"fire": fire, "time": time})

    @admin.display(description="problem", empty_value="-")
    def problem_text(self, row: Any) -> str | None:
        return find_problem(row, row.last_fire_view) or None

    def _may_edit(self, request: HttpRequest, obj: Any) -> bool:
        return self.has_change_permission(request, obj) if obj else self.has_add_permission(request)

    def _status(self, request: HttpRequest, row: Schedule) -> dict[str, Any]:
        try:
            catalog = get_fresh_catalog()
        except ConfigurationUnavailable:
            catalog = None
        before = request.GET.get("before", "")
        is_page = before.isascii() and before.isdigit() and len(before) < 19
        fires, older = list_fires(row, FIRES_SHOWN, int(before) if is_page else None)
        is_hidden = hides_payloads(row.parent_queue, catalog) and not request.user.has_perm("tasks.view_payload")
        state = get_state(row, catalog) if catalog else None
        return {
            "schedule": row,
            "state": state,
            "state_variant": STATE_VARIANTS[state] if state else "",
            "words": describe(row.timing),
            "next_times": list_next(row, NEXT_COUNT),
            "fires": show_fires(row, _view(fires)),
            "older_fires": older,
            "has_newer_fires": is_page,
            "payload": "hidden" if is_hidden else json.dumps(json.loads(row.payload), indent=2, ensure_ascii=False),
            "options": json.dumps(row.options, ensure_ascii=False) if row.options else "",
            "may_run": self.has_run_permission(request),
            "reason_max": REASON_MAX_LENGTH,
            "may_edit": self._may_edit(request, row),
        }


class RunView(AdminViewMixin, View):
    """Pause, unpause or trigger a schedule."""

    permission = "run"

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.model_admin.get_object(request, object_id)
        if not isinstance(row, Schedule):
            raise Http404
        broker, verb = get_broker(), request.POST.get("verb")
        if verb == "pause":
            pause_schedule(broker, name=row.name, reason=request.POST.get("reason", "").strip()[:REASON_MAX_LENGTH])
        elif verb == "unpause":
            unpause_schedule(broker, name=row.name)
        elif verb == "trigger":
            fire = trigger_schedule(broker, name=row.name)
            run_due(broker, Schedule.objects.filter(pk=row.pk), broker.now())
            fire.refresh_from_db()
            messages.info(request, f"The fire is {fire.state}{f': {fire.reason}' if fire.reason else ''}.")
        return HttpResponseRedirect(reverse("admin:schedules_schedule_change", args=[row.pk]))


class PreviewView(AdminView):
    """When a schedule that is being typed would be due."""

    template_name = "schedules/admin/preview.html"
    http_method_names = ["post"]

    def post(self, request: HttpRequest) -> HttpResponse:
        form = request.POST
        definition: dict[str, Any] = {"name": "preview", "queue": form.get("queue") or "-"}
        definition |= {name: form[name] for name in ("cron", "every", "time_zone") if form.get(name)}
        context: dict[str, Any] = {"is_empty": not (form.get("cron") or form.get("every"))}
        try:
            for name in ("starts_at", "ends_at"):
                if time := ScheduleForm.base_fields[name].clean(form.get(name, "")):
                    definition[name] = time.isoformat()
            spec, _ = parse_schedule(definition)
        except ValidationError as error:
            return self.render_to_response(context | {"errors": error.messages})
        except RunqyError as error:
            return self.render_to_response(context | {"errors": error.errors})
        now = get_broker().now()
        timing = spec.timing(now)
        times = [show_due(time, spec.time_zone) for time in timing.list_after(now, NEXT_COUNT)]
        context |= {"words": describe(timing), "next_times": times, "zone": spec.time_zone}
        return self.render_to_response(context)


def _view(fires: Any) -> list[FireView]:
    try:
        return view_fires(get_broker(), fires)
    except BrokerUnavailable:
        return [FireView(fire=fire) for fire in fires]
