"""What staff do to one task: asked for twice where it destroys, done, and said."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse

from runqy.broker.broker import Broker
from runqy.broker.records import TaskRecord
from runqy.connection import get_broker
from runqy.errors import RequestInvalid, RunqyError
from tasks.admin.details import find_shown_task
from tasks.admin.rights import WORDS, Deed, may
from tasks.admin.shown import queue_tasks_url, task_url
from tasks.handling import Action, cancel_task, handle_task

_DONE = {
    Deed.RUN: "The task was put back on the queue.",
    Deed.ARCHIVE: "The task was archived.",
    Deed.DELETE: "The task {id} was deleted.",
}


def handle_one(context: dict[str, Any], request: HttpRequest, object_id: str) -> HttpResponse:
    """Do something to a task, or ask first; what is refused is said on its page."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    deed = read_deed(request)
    record = find_shown_task(request, object_id)
    if WORDS[deed].destroys and "confirmed" not in request.POST:
        return _ask(context, request, deed, record)
    here = task_url(record.id, record.queue)
    try:
        said = _do(get_broker(), deed, record)
    except RunqyError as error:
        if error.status >= 500:
            raise
        messages.error(request, error.detail)
        return HttpResponseRedirect(here)
    messages.success(request, said)
    return HttpResponseRedirect(queue_tasks_url(record.queue, record.state) if deed is Deed.DELETE else here)


def read_deed(request: HttpRequest) -> Deed:
    """Return what somebody wants to do and may. Raises RequestInvalid, PermissionDenied."""
    text = request.POST.get("deed", "")
    if text not in tuple(Deed):
        raise RequestInvalid(f"Nobody can do {text[:32]!r} to a task.")
    if not may(request.user, Deed(text)):
        raise PermissionDenied
    return Deed(text)


def _do(broker: Broker, deed: Deed, record: TaskRecord) -> str:
    """Do it and return what happened. Raises what `handle_task` and `cancel_task` do."""
    if deed is Deed.CANCEL:
        if cancel_task(broker, task_id=record.id, queue=record.queue):
            return "The task was cancelled: it is archived and will not run."
        return "Its worker was told to stop the task. It is archived once that has happened, usually within a second."
    handle_task(broker, action=Action(deed), queue=record.queue, task_id=record.id)
    return _DONE[deed].format(id=record.id)


def _ask(context: dict[str, Any], request: HttpRequest, deed: Deed, record: TaskRecord) -> HttpResponse:
    """Ask whether it is really meant."""
    words = WORDS[deed]
    context |= {
        "title": f"{words.label} a task",
        "question": f"{words.label} the task {record.id}?",
        "words": words,
        "facts": [("Queue", record.queue), ("State", record.state.value)],
        "fields": [("deed", deed.value), ("confirmed", "yes")],
        "action": request.get_full_path(),
        "back": task_url(record.id, record.queue),
    }
    return TemplateResponse(request, "admin/tasks/task/confirm.html", context)
