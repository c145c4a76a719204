"""The form that runs a task again as a new one, with its payload or an edited one."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from queues.definitions import PayloadField
from queues.queries import get_fresh_catalog
from runqy.admin_site.base_admin import StyledForm
from runqy.errors import PayloadInvalid, RunqyError
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.admin.details import can_copy, find_task_or_run
from tasks.admin.presenters import task_url
from tasks.copies import Original, enqueue_copy, find_payload, get_payload


class PayloadForm(StyledForm):
    """The payload of the new task."""

    payload = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 16, "spellcheck": "false", "class": "page-mono"}),
        help_text="JSON, checked against the queue's payload schema. The original task stays as it is.",
    )

    def clean_payload(self) -> bytes:
        try:
            return payloads.parse_payload(self.cleaned_data["payload"])
        except PayloadInvalid as error:
            raise forms.ValidationError(error.detail) from error


def show_run_again(context: dict[str, Any], request: HttpRequest, object_id: str) -> HttpResponse:
    """Render the form; on POST enqueue the new task: with the payload of the form, or unchanged without one."""
    record, run = find_task_or_run(request, object_id)
    redis_queue = record.queue if record else run.redis_queue if run else ""
    if not can_copy(request.user, redis_queue):
        raise PermissionDenied
    original = Original(redis_queue=redis_queue, id=unquote(object_id), record=record)
    payload = find_payload(original)
    form = PayloadForm(request.POST if "payload" in request.POST else None, initial={"payload": _pretty(payload)})
    if request.method == "POST" and "payload" not in request.POST:
        return _enqueue(request, original, get_payload(original))
    if request.method == "POST" and form.is_valid():
        try:
            return _enqueue(request, original, form.cleaned_data["payload"])
        except RunqyError as error:
            if error.status >= 500:
                raise
            for message in error.errors:
                form.add_error("payload", message)
    context |= {
        "title": f"Run task {original.id} again",
        "form": form,
        "original_id": original.id,
        "original_url": task_url(original.id, redis_queue),
        "redis_queue": redis_queue,
        "is_payload_kept": payload is not None,
        "schema": _schema(redis_queue),
    }
    return TemplateResponse(request, "admin/tasks/task/run_again.html", context)


def _enqueue(request: HttpRequest, original: Original, payload: bytes) -> HttpResponse:
    """Enqueue the new task, and redirect to its page. Raise as `enqueue_copy`."""
    traceparent = request.headers.get("traceparent", "")
    copy_id = enqueue_copy(get_broker(), original=original, payload=payload, traceparent=traceparent)
    messages.success(request, "The new task was enqueued. The original stays as it is.")
    return HttpResponseRedirect(task_url(copy_id, original.redis_queue))


def _pretty(payload: bytes | None) -> str:
    if payload is None:
        return "{}"
    return payloads.format_pretty(payload) or payload.decode("utf-8", "replace")


def _schema(redis_queue: str) -> tuple[PayloadField, ...]:
    resolved = get_fresh_catalog().find(redis_queue)
    return tuple(resolved.queue.input) if resolved else ()
