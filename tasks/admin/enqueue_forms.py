"""The forms that enqueue a task: a test task, and one that runs a task again, with its payload or an edited one."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import cached_property
from django.views.generic import FormView

from queues.catalog import ResolvedQueue
from queues.definitions import PayloadField
from queues.payload_schema import example_curl, example_payload
from queues.queries import get_fresh_catalog
from runqy.admin_site.base_admin import StyledForm
from runqy.admin_site.views import AdminViewMixin
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue import NewTask
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import PayloadInvalid, RunqyError
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.admin.details import can_copy, find_task_or_run
from tasks.admin.permissions import can_test
from tasks.admin.presenters import task_url
from tasks.copies import Original, enqueue_copy, find_payload, get_payload
from tasks.operations import enqueue_and_wait

WAIT_S = 5
_OUTCOMES = {
    TaskState.COMPLETED: (messages.SUCCESS, "The task was enqueued and completed."),
    TaskState.ARCHIVED: (messages.ERROR, "The task was enqueued and failed; it is archived."),
    TaskState.RETRY: (messages.WARNING, "The task was enqueued. Its first run failed; it will be retried."),
    TaskState.ACTIVE: (messages.INFO, f"The task is still active after {WAIT_S} s. Refresh the page to follow it."),
}
_NOT_STARTED = (
    messages.WARNING,
    f"No worker started the task within {WAIT_S} s. Check that one serves this queue.",
)


class PayloadForm(StyledForm):
    """The payload of a new task."""

    payload = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 16, "spellcheck": "false", "class": "page-mono"}),
        help_text="JSON, checked against the queue's payload schema. The original task stays as it is.",
    )

    def clean_payload(self) -> bytes:
        try:
            return payloads.parse_payload(self.cleaned_data["payload"])
        except PayloadInvalid as error:
            raise forms.ValidationError(error.detail) from error


class TestTaskForm(PayloadForm):
    """A payload for a queue."""

    field_order = ("queue", "payload")
    queue = forms.ChoiceField()
    payload = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 12, "spellcheck": "false", "class": "page-mono"}),
        help_text="JSON; an object if the queue has a schema. The worker receives it unchanged, with the schema's "
        "defaults added.",
    )

    def __init__(self, *args: Any, queues: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["queue"].choices = [(name, name) for name in queues]  # type: ignore[attr-defined]


class TestTaskView(AdminViewMixin, FormView):  # type: ignore[type-arg]
    """The form for a test task. On POST, wait up to WAIT_S for the end of the task and redirect to its page."""

    title = "Test a task"
    template_name = "admin/tasks/task/test.html"
    form_class = TestTaskForm

    def has_permission(self) -> bool:
        return super().has_permission() and can_test(self.request.user)

    @cached_property
    def queues(self) -> list[str]:
        catalog = get_fresh_catalog()
        enabled = [queue for queue in catalog.definitions if queue.is_enabled]
        return [name for queue in enabled for name, _ in queue.redis_queues(catalog.separator)]

    @cached_property
    def selected(self) -> ResolvedQueue | None:
        name = self.request.POST.get("queue") or self.request.GET.get("queue", "")
        return get_fresh_catalog().find(name or (self.queues[0] if self.queues else ""))

    @property
    def example(self) -> str:
        return example_payload(self.selected.queue.input if self.selected else ())

    def get_initial(self) -> dict[str, Any]:
        pretty = payloads.format_pretty(self.example.encode()) or self.example
        return {"queue": self.selected.redis_queue if self.selected else "", "payload": pretty}

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"queues": self.queues}

    def form_valid(self, form: TestTaskForm) -> HttpResponse:
        task = _enqueue(self.request, form)
        if task is None:
            return self.form_invalid(form)
        messages.add_message(self.request, *_OUTCOMES.get(task.state, _NOT_STARTED))
        return HttpResponseRedirect(task_url(task.id, task.queue))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        name = self.selected.redis_queue if self.selected else ""
        return super().get_context_data(**kwargs) | {
            "queues": self.queues,
            "selected": name,
            "schema": self.selected.queue.input if self.selected else (),
            "wait_s": WAIT_S,
            "curl": example_curl(self.request.build_absolute_uri("/").rstrip("/"), name, self.example),
        }


def _enqueue(request: HttpRequest, form: TestTaskForm) -> TaskRecord | None:
    """Enqueue the task of a form. If it is refused, add the errors to the form and return None."""
    task = NewTask.requested(queue=form.cleaned_data["queue"], payload=form.cleaned_data["payload"])
    try:
        return enqueue_and_wait(
            get_broker(),
            task,
            client_id=f"user {request.user.pk}",
            timeout_s=WAIT_S,
            traceparent=request.headers.get("traceparent", ""),
        )
    except RunqyError as error:
        if error.status >= 500:
            raise
        for message in error.errors:
            form.add_error("payload" if isinstance(error, PayloadInvalid) else "queue", message)
        return None


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
