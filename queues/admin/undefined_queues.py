"""The page of Redis queues that no definition names: define a queue for their tasks, or move them to another."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from queues.existing_queues import UndefinedQueue, find_undefined_queues, suggest_definition
from queues.models import Queue
from queues.moves import list_moves, request_move
from queues.queries import get_fresh_catalog
from runqy.admin_site.base_admin import StyledForm
from runqy.broker.queues.stats import QueueCounts
from runqy.errors import BrokerUnavailable, RunqyError
from runqy.redis_connection import get_broker

__all__ = ["adopted_fields", "undefined_view"]


class MoveForm(StyledForm):
    """The queue to which the tasks of a Redis queue are moved."""

    source = forms.CharField(widget=forms.HiddenInput)
    destination = forms.ChoiceField(label="Move to")

    def __init__(self, *args: Any, destinations: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [("", "Select a queue"), *((name, name) for name in destinations)]
        self.fields["destination"].choices = choices  # type: ignore[attr-defined]
        self.fields["destination"].widget.attrs["aria-label"] = f"Move the tasks of {self['source'].value()} to"


@dataclass(frozen=True, slots=True, kw_only=True)
class UndefinedQueueRow:
    """A Redis queue with what can be done about it."""

    queue: UndefinedQueue
    adopt_url: str
    is_known: bool
    """A queue of the name exists, to which a sub-queue can be added."""
    destination: str
    """Empty: its tasks are not being moved."""
    form: MoveForm

    @property
    def counts(self) -> list[QueueCounts]:
        return [self.queue.counts]


def undefined_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest) -> HttpResponse:
    """Show the Redis queues that no definition names, or request a move of the tasks of one."""
    may_move = model_admin.has_change_permission(request) and not settings.ASYNQ_READ_ONLY
    if not model_admin.has_view_permission(request) or (request.method == "POST" and not may_move):
        raise PermissionDenied
    catalog = get_fresh_catalog(max_age_s=0)  # users expect queues that another process has just saved
    destinations = [name for queue in catalog.definitions for name, _ in queue.redis_queues(catalog.separator)]
    if request.method == "POST":
        _move(request, MoveForm(request.POST, destinations=destinations))
        return HttpResponseRedirect(request.path)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": "Undefined queues",
        "opts": model_admin.opts,
        "rows": _rows(request, destinations),
        "can_adopt": model_admin.has_add_permission(request),
        "can_move": may_move and bool(destinations),
        "media": model_admin.media,
    }
    return TemplateResponse(request, "queues/admin/undefined.html", context)


def adopted_fields(redis_queue: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the initial fields of a queue that names a Redis queue, and those of its sub-queues."""
    name, sub_queue = suggest_definition(redis_queue)
    return {"name": name}, [{"name": sub_queue, "priority": 1}] if sub_queue else []


def _move(request: HttpRequest, form: MoveForm) -> None:
    """Request a move, and report the result."""
    if not form.is_valid():
        messages.error(request, "Select the queue to which the tasks are moved.")
        return
    try:
        move = request_move(get_broker(), **form.cleaned_data)
    except RunqyError as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, f"Maintenance moves the tasks of {move.source} to {move.destination}.")


def _rows(request: HttpRequest, destinations: list[str]) -> list[UndefinedQueueRow] | None:
    """Return the undefined queues; None while Redis is unavailable."""
    try:
        found = find_undefined_queues(get_broker())
    except BrokerUnavailable:
        return None
    moves = list_moves()
    known = set(Queue.objects.values_list("name", flat=True))
    rows = []
    for number, queue in enumerate(found):
        name, _ = suggest_definition(queue.name)
        add_url = f"{reverse('admin:queues_queue_add')}?{urlencode({'adopt': queue.name})}"
        rows.append(
            UndefinedQueueRow(
                queue=queue,
                adopt_url=reverse("admin:queues_queue_by_name", args=[name]) if name in known else add_url,
                is_known=name in known,
                destination=moves.get(queue.name, ""),
                form=MoveForm(initial={"source": queue.name}, destinations=destinations, auto_id=f"id_{number}_%s"),
            )
        )
    return rows
