"""The form that puts a task on a queue, to see what becomes of it."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from queues.payload_examples import curl_line, example_payload
from queues.queries import get_fresh_catalog
from runqy.broker.records import TaskRecord
from runqy.broker.states import TaskState
from runqy.connection import get_broker
from runqy.errors import PayloadInvalid, RunqyError
from runqy.request_ids import trace_headers
from runqy.staff.pages import StaffForm
from tasks import payloads
from tasks.admin.rights import may_try
from tasks.admin.shown import task_url
from tasks.operations import enqueue_and_wait
from tasks.task_specs import TaskSpec

WAIT_S = 5


class TrialForm(StaffForm):
    """A payload for a queue."""

    queue = forms.ChoiceField()
    payload = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 12, "spellcheck": "false", "class": "live-mono"}),
        help_text="A JSON object. It reaches the worker as it stands here, with the defaults of the queue's schema.",
    )

    def __init__(self, *args: Any, queues: list[str], **kwargs: Any) -> None:
        """Take the names of the queues there are."""
        super().__init__(*args, **kwargs)
        self.fields["queue"].choices = [(name, name) for name in queues]  # type: ignore[attr-defined]

    def clean_payload(self) -> bytes:
        """Return the payload on one line."""
        try:
            return payloads.read_object(self.cleaned_data["payload"])
        except PayloadInvalid as error:
            raise forms.ValidationError(error.detail) from error


def try_out(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """Show the form, or queue its task, wait a little for its end, and show it."""
    if not may_try(request.user):
        raise PermissionDenied
    catalog = get_fresh_catalog()
    takers = [queue for queue in catalog.definitions if queue.is_enabled]
    queues = [name for queue in takers for name, _ in queue.redis_queues(catalog.separator)]
    wanted = catalog.find(request.POST.get("queue") or request.GET.get("queue", "") or (queues[0] if queues else ""))
    chosen = wanted.redis_queue if wanted else ""
    example = example_payload(wanted.queue.input if wanted else ())
    pretty = payloads.pretty(example.encode()) or example
    form = TrialForm(request.POST or None, queues=queues, initial={"queue": chosen, "payload": pretty})
    if request.method == "POST" and form.is_valid() and (task := _try(request, form)):
        messages.add_message(request, *_outcome(task))
        return HttpResponseRedirect(task_url(task.id, task.queue))
    context |= {
        "title": "Try a task",
        "form": form,
        "queues": queues,
        "chosen": chosen,
        "schema": wanted.queue.input if wanted else (),
        "wait_s": WAIT_S,
        "curl": curl_line(request.build_absolute_uri("/").rstrip("/"), chosen, example),
    }
    return TemplateResponse(request, "admin/tasks/task/trial.html", context)


def _try(request: HttpRequest, form: TrialForm) -> TaskRecord | None:
    """Queue the task of a form; None if it was refused, which stands in the form then."""
    spec = TaskSpec(queue=form.cleaned_data["queue"], payload=form.cleaned_data["payload"])
    try:
        headers = trace_headers(request.headers.get("traceparent", ""))
        return enqueue_and_wait(
            get_broker(), spec=spec, headers=headers, client_id=f"user {request.user.pk}", timeout_s=WAIT_S
        )
    except RunqyError as error:
        if error.status >= 500:
            raise
        for sentence in error.errors:
            form.add_error("payload" if isinstance(error, PayloadInvalid) else "queue", sentence)
        return None


def _outcome(task: TaskRecord) -> tuple[int, str]:
    """Return how good what became of a task is, and what that is."""
    if task.state is TaskState.COMPLETED:
        return messages.SUCCESS, "The task was queued, and it succeeded."
    if task.state is TaskState.ARCHIVED:
        return messages.ERROR, "The task was queued, and it failed for good."
    if task.state is TaskState.RETRY:
        return messages.WARNING, "The task was queued. Its first run failed; it is tried again."
    if task.state is TaskState.ACTIVE:
        return messages.INFO, f"The task was queued and runs. It was not over after {WAIT_S} s: refresh to see more."
    return messages.WARNING, f"The task was queued, but no worker took it within {WAIT_S} s. Does one serve this queue?"
