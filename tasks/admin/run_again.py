"""The form that runs a task again as a new one, with its payload or an edited one."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import cached_property
from django.views.generic import FormView

from queues.definitions import PayloadField
from queues.queries import get_fresh_catalog
from runqy.admin_site.base_admin import StyledForm
from runqy.admin_site.views import AdminViewMixin
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


class RunAgainView(AdminViewMixin, FormView):  # type: ignore[type-arg]
    """The form. A POST enqueues the new task, with the payload of the form, or unchanged if there is none."""

    template_name = "admin/tasks/task/run_again.html"
    form_class = PayloadForm

    @cached_property
    def original(self) -> Original:
        """Return the task that the URL names. Raise TaskNotFound, QueueNotFound, PermissionDenied."""
        object_id = self.kwargs["object_id"]
        record, run = find_task_or_run(self.request, object_id)
        redis_queue = record.queue if record else run.redis_queue if run else ""
        if not can_copy(self.request.user, redis_queue):
            raise PermissionDenied
        return Original(redis_queue=redis_queue, id=unquote(object_id), record=record)

    @cached_property
    def payload(self) -> bytes | None:
        return find_payload(self.original)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if "payload" not in request.POST:
            return self._enqueue(get_payload(self.original))
        return super().post(request, *args, **kwargs)

    def get_initial(self) -> dict[str, Any]:
        return {"payload": _pretty(self.payload)}

    def form_valid(self, form: PayloadForm) -> HttpResponse:
        try:
            return self._enqueue(form.cleaned_data["payload"])
        except RunqyError as error:
            if error.status >= 500:
                raise
            for message in error.errors:
                form.add_error("payload", message)
            return self.form_invalid(form)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        original = self.original
        return super().get_context_data(**kwargs) | {
            "title": f"Run task {original.id} again",
            "original_id": original.id,
            "original_url": task_url(original.id, original.redis_queue),
            "redis_queue": original.redis_queue,
            "is_payload_kept": self.payload is not None,
            "schema": _schema(original.redis_queue),
        }

    def _enqueue(self, payload: bytes) -> HttpResponse:
        """Enqueue the new task, and redirect to its page. Raise the errors of `enqueue_copy`."""
        traceparent = self.request.headers.get("traceparent", "")
        copy_id = enqueue_copy(get_broker(), original=self.original, payload=payload, traceparent=traceparent)
        messages.success(self.request, "The new task was enqueued. The original stays as it is.")
        return HttpResponseRedirect(task_url(copy_id, self.original.redis_queue))


def _pretty(payload: bytes | None) -> str:
    if payload is None:
        return "{}"
    return payloads.format_pretty(payload) or payload.decode("utf-8", "replace")


def _schema(redis_queue: str) -> tuple[PayloadField, ...]:
    resolved = get_fresh_catalog().find(redis_queue)
    return tuple(resolved.queue.input) if resolved else ()
