"""The form that enqueues a test task and shows its result."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from queues.payload_schema import example_curl, example_payload
from queues.queries import get_fresh_catalog
from runqy.admin_site.base_admin import StyledForm
from runqy.broker.states import TaskState
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import PayloadInvalid, RunqyError
from runqy.redis_connection import get_broker
from tasks import payloads
from tasks.admin.permissions import can_test
from tasks.admin.presenters import task_url
from tasks.operations import enqueue_and_wait
from tasks.task_specs import TaskSpec

WAIT_S = 5


class TestTaskForm(StyledForm):
    """A payload for a queue."""

    queue = forms.ChoiceField()
    payload = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 12, "spellcheck": "false", "class": "page-mono"}),
        help_text="JSON; an object if the queue has a schema. The worker receives it unchanged, with the schema's "
        "defaults added.",
    )

    def __init__(self, *args: Any, queues: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["queue"].choices = [(name, name) for name in queues]  # type: ignore[attr-defined]

    def clean_payload(self) -> bytes:
        try:
            return payloads.parse_payload(self.cleaned_data["payload"])
        except PayloadInvalid as error:
            raise forms.ValidationError(error.detail) from error


def show_test_form(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """Render the form; on POST enqueue its task, wait WAIT_S for its end and redirect to its page."""
    if not can_test(request.user):
        raise PermissionDenied
    catalog = get_fresh_catalog()
    enabled = [queue for queue in catalog.definitions if queue.is_enabled]
    queues = [name for queue in enabled for name, _ in queue.redis_queues(catalog.separator)]
    selected = catalog.find(request.POST.get("queue") or request.GET.get("queue", "") or (queues[0] if queues else ""))
    name = selected.redis_queue if selected else ""
    example = example_payload(selected.queue.input if selected else ())
    pretty = payloads.format_pretty(example.encode()) or example
    form = TestTaskForm(request.POST or None, queues=queues, initial={"queue": name, "payload": pretty})
    if request.method == "POST" and form.is_valid() and (task := _enqueue(request, form)):
        messages.add_message(request, *_describe_outcome(task))
        return HttpResponseRedirect(task_url(task.id, task.queue))
    context |= {
        "title": "Test a task",
        "form": form,
        "queues": queues,
        "selected": name,
        "schema": selected.queue.input if selected else (),
        "wait_s": WAIT_S,
        "curl": example_curl(request.build_absolute_uri("/").rstrip("/"), name, example),
    }
    return TemplateResponse(request, "admin/tasks/task/test.html", context)


def _enqueue(request: HttpRequest, form: TestTaskForm) -> TaskRecord | None:
    """Enqueue the task of a form; None if it was refused, with the errors added to the form."""
    spec = TaskSpec(queue=form.cleaned_data["queue"], payload=form.cleaned_data["payload"])
    try:
        return enqueue_and_wait(
            get_broker(),
            spec=spec,
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


def _describe_outcome(task: TaskRecord) -> tuple[int, str]:
    """Return the level and the text of the message about an enqueued task."""
    if task.state is TaskState.COMPLETED:
        return messages.SUCCESS, "The task was enqueued and completed."
    if task.state is TaskState.ARCHIVED:
        return messages.ERROR, "The task was enqueued and failed; it is archived."
    if task.state is TaskState.RETRY:
        return messages.WARNING, "The task was enqueued. Its first run failed; it will be retried."
    if task.state is TaskState.ACTIVE:
        return (
            messages.INFO,
            f"The task is still active after {WAIT_S} s. Refresh the page to follow it.",
        )
    return (
        messages.WARNING,
        f"No worker started the task within {WAIT_S} s. Check that one serves this queue.",
    )
