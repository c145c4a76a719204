"""Actions on tasks in the admin, on one task or on selected ones, with a confirmation page."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from queues.queries import resolve_redis_queue
from runqy.admin_site.views import AdminView
from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import Cancellation
from runqy.broker.tasks.listing import LISTED_STATES
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import RequestInvalid, RunqyError, choices_error
from runqy.redis_connection import get_broker
from tasks.actions import (
    ActionResult,
    TaskAction,
    TaskSelection,
    apply_action,
    apply_to_selected,
    cancel_task,
)
from tasks.admin.details import find_requested_task
from tasks.admin.permissions import LABELS, actions_for_selected, parse_action
from tasks.admin.presenters import STATE_NAMES, queue_tasks_url, shown_tasks, task_url

_DONE = {
    TaskAction.RUN: "The task was put back on the queue.",
    TaskAction.ARCHIVE: "The task was archived.",
    TaskAction.DELETE: "The task {id} was deleted.",
}


class _ActionView(AdminView):
    """An action, by POST. Some actions ask for a confirmation first."""

    http_method_names = ("post",)
    template_name = "admin/tasks/task/confirm.html"

    def confirm(self, **context: Any) -> HttpResponse:
        form_url = self.request.get_full_path()
        return self.render_to_response(self.get_context_data() | {"form_url": form_url} | context)


class TaskActionView(_ActionView):
    """An action on a task. A refusal is shown on the page of the task."""

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        action = parse_action(request, request.POST)
        record = find_requested_task(request, object_id)
        url = task_url(record.id, record.queue)
        if LABELS[action].needs_confirmation and "confirmed" not in request.POST:
            labels = LABELS[action]
            (shown,) = shown_tasks([record], request.user)
            return self.confirm(
                title=f"{labels.label} a task",
                question=f"{labels.label} task {record.id}?",
                labels=labels,
                facts=[("Queue", record.queue), ("State", shown.state)],
                fields=[("action", action.value), ("confirmed", "yes")],
                back_url=url,
            )
        try:
            message = _apply_to_one(get_broker(), action, record)
        except RunqyError as error:
            if error.status >= 500:  # not a refusal: the error page explains it
                raise
            messages.error(request, error.detail)
            return HttpResponseRedirect(url)
        messages.success(request, message)
        # A deleted task has no page to return to.
        return HttpResponseRedirect(queue_tasks_url(record.queue, record.state) if action is TaskAction.DELETE else url)


class SelectedTasksView(_ActionView):
    """An action on selected tasks of a queue, all in the same state."""

    def post(self, request: HttpRequest) -> HttpResponse:
        action = parse_action(request, request.POST)
        state_name = request.POST.get("state", "")
        if state_name not in LISTED_STATES:
            raise RequestInvalid(f"state: {choices_error(LISTED_STATES)}")
        state = TaskState(state_name)
        queue = resolve_redis_queue(get_broker(), request.POST.get("queue", "")).redis_queue
        selected = TaskSelection(queue=queue, state=state, task_ids=request.POST.getlist("id"))
        url = queue_tasks_url(queue, state)
        if not selected.task_ids:
            messages.warning(request, "No tasks selected.")
            return HttpResponseRedirect(url)
        if action not in actions_for_selected(request.user, state):
            raise RequestInvalid(f"The action {action} is not allowed for tasks in the state {state}.")
        if "confirmed" not in request.POST and LABELS[action].needs_confirmation:
            labels, tasks = LABELS[action], describe_tasks(len(selected.task_ids))
            fields = {"action": action.value, "queue": queue, "state": state.value, "confirmed": "yes"}
            return self.confirm(
                title=f"{labels.label}: {tasks}",
                question=f"{labels.label} {tasks}?",
                labels=labels,
                facts=[("Queue", queue), ("State", STATE_NAMES[state]), ("Tasks", f"{len(selected.task_ids):,}")],
                fields=[*fields.items(), *(("id", task_id) for task_id in selected.task_ids)],
                back_url=url,
            )
        result = apply_to_selected(get_broker(), action=action, selection=selected)
        messages.add_message(request, *_describe_outcome(action, state, result))
        return HttpResponseRedirect(url)


def describe_tasks(count: int) -> str:
    """Return "1 task" or "2,000 tasks"."""
    return "1 task" if count == 1 else f"{count:,} tasks"


_CANCELLATIONS = {
    Cancellation.CANCELED: "The task was cancelled: it is archived and will not run.",
    Cancellation.REQUESTED: "Cancellation requested. The worker stops the task, usually within a second; then it is "
    "archived.",
    Cancellation.REQUESTED_ELSEWHERE: "Cancellation requested. A worker of another program runs the task and may not "
    "be able to interrupt it: it is archived when that worker puts it back.",
}


def _apply_to_one(broker: Broker, action: TaskAction, record: TaskRecord) -> str:
    """Apply an action, and return the message about it. Raise the errors of `apply_action` and `cancel_task`."""
    if action is TaskAction.CANCEL:
        return _CANCELLATIONS[cancel_task(broker, task_id=record.id, queue=record.queue)]
    apply_action(broker, action=action, queue=record.queue, task_id=record.id)
    return _DONE[action].format(id=record.id)


def _describe_outcome(action: TaskAction, state: TaskState, result: ActionResult) -> tuple[int, str]:
    """Return the level and the text of the message about an action."""
    message = f"{describe_tasks(result.affected)} {LABELS[action].past}"
    if action is TaskAction.CANCEL:
        message += " or being stopped by their workers"
    unaffected = result.matched - result.affected
    if not unaffected:
        return messages.SUCCESS, f"{message}."
    reason = f"no longer {state}, or another task holds their unique key"
    return messages.WARNING, f"{message}; {unaffected:,} unchanged: {reason}."
