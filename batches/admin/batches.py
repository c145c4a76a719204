"""Batches in the admin: their list, and a page with a progress bar."""

from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode

from batches.models import Batch, CallbackState, Member, MemberState
from batches.operations import cancel_batch
from batches.queries import get_batch, list_members
from runqy.admin_site import labels
from runqy.admin_site.base_admin import LIVE, ReadOnlyModelAdmin
from runqy.admin_site.times import show_time
from runqy.admin_site.views import AdminView
from runqy.redis_connection import get_broker

_MEMBERS = 50
"""Members on a page."""
_FAILED = [state for state in MemberState.values if state not in ("waiting", "enqueued", "completed")]


class ProgressView(AdminView):
    """The part of a batch's page that changes."""

    template_name = "admin/batches/batch/progress.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        batch = get_batch(unquote(self.kwargs["object_id"]))
        state = self.request.GET.get("state", "")
        state = state if state in MemberState.values else ""
        may_view = self.request.user.has_perm("tasks.view_payload")
        members, next_after = _list_shown(batch, state, self.request.GET.get("after", ""), may_view)
        ended = batch.total - batch.open_count
        return super().get_context_data(**kwargs) | {
            "title": f"Batch {batch}",
            "batch": batch,
            "state": _state(batch),
            "is_open": not batch.is_ended or batch.callback_state == CallbackState.WAITING,
            "ended": ended,
            "not_completed": ended - batch.completed_count,
            "counts": [
                (value, label, batch.counts[value]) for value, label in MemberState.choices if batch.counts.get(value)
            ],
            "callback": _describe_callback(batch),
            "callback_url": _task_url(batch.callback_task_id, batch.callback_queue),
            "members": [(member, *_describe_member(member)) for member in members],
            "members_state": MemberState(state).label if state else "",
            "next_members": f"state={state}&after={next_after}" if next_after else "",
            "query": self.request.GET.urlencode(),
            "by": batch.created_by.get("name", ""),
            "can_cancel": self.request.user.has_perm("tasks.cancel_task") and not (batch.is_ended or batch.is_canceled),
        }


class BatchView(ProgressView):
    """The page of a batch."""

    template_name = "admin/batches/batch/detail.html"


class CancelView(AdminView):
    """Cancels a batch, after a confirmation."""

    http_method_names = ("get", "post")
    template_name = "admin/tasks/task/confirm.html"

    def has_permission(self) -> bool:
        return super().has_permission() and self.request.user.has_perm("tasks.cancel_task")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        batch = get_batch(unquote(self.kwargs["object_id"]))
        left = f"{batch.open_count:,} of {batch.total:,}"
        return super().get_context_data(**kwargs) | {
            "title": "Cancel a batch",
            "question": f"Cancel the batch {batch}?",
            "facts": [("Members that have not ended", left), ("Queues", ", ".join(batch.queues))],
            "labels": {
                "label": "Cancel",
                "consequence": "Nothing more is added. Waiting tasks are archived at once; running tasks are stopped "
                "and their work is lost.",
                "needs_confirmation": True,
            },
            "form_url": self.request.path,
            "back_url": _batch_url(batch),
        }

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        batch = cancel_batch(get_broker(), unquote(object_id))
        messages.success(request, "The batch is closed, and its tasks that have not ended are being cancelled.")
        return HttpResponseRedirect(_batch_url(batch))


class BatchAdmin(ReadOnlyModelAdmin):
    """Batches: created by clients, run by maintenance."""

    list_display = ("label", "progress", "created", "creator", "state_badge")
    list_display_links = ("label",)
    ordering = ("-created_at", "id")
    search_fields = ("name", "id__startswith")
    search_help_text = "Name, or the first characters of the id"
    actions = None
    list_before_template = "admin_site/live_changelist.html"
    empty_text = "A batch is created by POST /batches: tasks that have a callback together."

    class Media:
        css = {"all": ["admin_site/pages.css"]}
        js = (LIVE,)

    def get_urls(self) -> list[URLPattern]:
        own = [
            path("<path:object_id>/change/", self.page(BatchView), name="batches_batch_change"),
            path("<path:object_id>/progress/", self.page(ProgressView), name="batches_batch_progress"),
            path("<path:object_id>/cancel/", self.page(CancelView), name="batches_batch_cancel"),
        ]
        # Django's other pages are not served: batches are not edited or deleted here.
        return own + [url for url in super().get_urls() if url.name == "batches_batch_changelist"]

    @admin.display(description="batch")
    def label(self, batch: Batch) -> str:
        return str(batch)

    @admin.display(description="members")
    def progress(self, batch: Batch) -> str:
        failed = sum(batch.counts.get(state, 0) for state in _FAILED)
        ended = f"{batch.total - batch.open_count:,} of {batch.total:,} ended"
        return f"{ended}, {failed:,} not completed" if failed else ended

    @admin.display(description="created", ordering="created_at")
    def created(self, batch: Batch) -> str:
        return show_time(batch.created_at)

    @admin.display(description="by")
    def creator(self, batch: Batch) -> str:
        return str(batch.created_by.get("name", ""))

    @admin.display(description="state")
    def state_badge(self, batch: Batch) -> str:
        text, variant = _state(batch)
        return render_to_string(labels.LABEL_TEMPLATE, {"text": text, "type": variant})


def _state(batch: Batch) -> tuple[str, str]:
    """Return the state of a batch, and its variant."""
    if batch.has_problem:
        return "incomplete", labels.DANGER
    if not batch.is_ended:
        canceled = ("being cancelled", labels.NEUTRAL)
        return canceled if batch.is_canceled else ("running" if batch.is_closed else "open", labels.INFO)
    if batch.completed_count == batch.total:
        return "completed", labels.SUCCESS
    is_canceled = batch.completed_count + batch.counts.get(MemberState.CANCELED, 0) == batch.total
    return ("cancelled", labels.NEUTRAL) if is_canceled else ("failed", labels.DANGER)


def _list_shown(batch: Batch, state: str, after: str, may_view_payloads: bool) -> tuple[list[Member], int | None]:
    """Return members of a state and the end of the page; without a state those that failed first, on a single page."""
    list_page = partial(list_members, batch, may_view_payloads=may_view_payloads)
    if state:
        page = list_page(limit=_MEMBERS, state=state, after=int(after) if after.isdecimal() else None)
        return page.members, page.end
    shown: list[Member] = []
    for each in (*_FAILED, MemberState.WAITING, MemberState.ENQUEUED, MemberState.COMPLETED):
        if batch.counts.get(each) and len(shown) < _MEMBERS:
            shown += list_page(limit=_MEMBERS - len(shown), state=each).members
    return shown, None


def _describe_member(member: Member) -> tuple[str, str]:
    """Return the URL of its task, and the variant of its state."""
    failed = labels.NEUTRAL if member.state == MemberState.CANCELED else labels.DANGER
    variant = {
        MemberState.WAITING: labels.NEUTRAL,
        MemberState.ENQUEUED: labels.INFO,
        MemberState.COMPLETED: labels.SUCCESS,
    }.get(MemberState(member.state), failed)
    return _task_url(member.task_id, member.redis_queue), variant


def _describe_callback(batch: Batch) -> str:
    if batch.callback_state == CallbackState.NONE:
        return "none"
    text = f"{CallbackState(batch.callback_state).label}, when {batch.on}, on {batch.callback_queue}"
    if batch.callback_state == CallbackState.PLANNED and batch.is_ended:
        missing = batch.total - batch.completed_count
        text = f"Not due, since all members are completed, and it is called when {batch.on}"
        if missing:
            text = f"Not due, since {missing:,} are not completed; due once these were run again and are"
    return f"{text}: {batch.callback_reason}" if batch.callback_reason else text


def _batch_url(batch: Batch) -> str:
    return reverse("admin:batches_batch_change", args=[quote(batch.pk)])


def _task_url(task_id: str, redis_queue: str) -> str:
    if not task_id:
        return ""
    return f"{reverse('admin:tasks_task_change', args=[quote(task_id)])}?{urlencode({'queue': redis_queue})}"
