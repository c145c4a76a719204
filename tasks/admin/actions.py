"""Actions on tasks in the admin: on one or on selected ones, with a confirmation page."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse

from queues.queries import resolve_redis_queue
from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from runqy.broker.tasks.cancel import Cancellation
from runqy.broker.tasks.listing import LISTED_STATES
from runqy.broker.tasks.record import TaskRecord
from runqy.errors import RequestInvalid, RunqyError, choices_error
from runqy.redis_connection import get_broker
from tasks.actions import (
    ActionResult,
    StateChange,
    TaskAction,
    TaskSelection,
    apply_action,
    apply_to_selected,
    cancel_selected,
    cancel_task,
)
from tasks.admin.details import find_requested_task
from tasks.admin.permissions import LABELS, actions_for_selected, can_apply
from tasks.admin.presenters import STATE_NAMES, queue_tasks_url, task_url
from tasks.admin.task_rows import task_rows

_DONE = {
    TaskAction.RUN: "The task was put back on the queue.",
    TaskAction.ARCHIVE: "The task was archived.",
    TaskAction.DELETE: "The task {id} was deleted.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionAction:
    """An action on selected tasks of a queue."""

    action: TaskAction
    queue: str
    state: TaskState
    task_ids: list[str]


def apply_to_one(context: dict[str, Any], request: HttpRequest, object_id: str) -> HttpResponse:
    """Apply an action to a task, or render its confirmation page; a refusal is shown on the task's page."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    action = _parse_action(request)
    record = find_requested_task(request, object_id)
    if LABELS[action].needs_confirmation and "confirmed" not in request.POST:
        return _confirm_one(context, request, action, record)
    url = task_url(record.id, record.queue)
    try:
        message = _apply_to_one(get_broker(), action, record)
    except RunqyError as error:
        if error.status >= 500:
            raise
        messages.error(request, error.detail)
        return HttpResponseRedirect(url)
    messages.success(request, message)
    return HttpResponseRedirect(queue_tasks_url(record.queue, record.state) if action is TaskAction.DELETE else url)


def apply_to_many(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """Apply an action to selected tasks, or render its confirmation page."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    action = _parse_action(request)
    state = request.POST.get("state", "")
    if state not in LISTED_STATES:
        raise RequestInvalid(f"state: {choices_error(LISTED_STATES)}")
    selected = SelectionAction(
        action=action,
        queue=resolve_redis_queue(get_broker(), request.POST.get("queue", "")).redis_queue,
        state=TaskState(state),
        task_ids=request.POST.getlist("id"),
    )
    url = queue_tasks_url(selected.queue, selected.state)
    if not selected.task_ids:
        messages.warning(request, "No tasks selected.")
        return HttpResponseRedirect(url)
    if action not in actions_for_selected(request.user, selected.state):
        raise RequestInvalid(f"The action {action} is not allowed for tasks in the state {state}.")
    if "confirmed" not in request.POST and LABELS[action].needs_confirmation:
        return _confirm_many(context, request, selected)
    messages.add_message(request, *_describe_outcome(selected, _apply_to_many(selected)))
    return HttpResponseRedirect(url)


def describe_tasks(count: int) -> str:
    """Return "1 task" or "2,000 tasks"."""
    return "1 task" if count == 1 else f"{count:,} tasks"


def _parse_action(request: HttpRequest) -> TaskAction:
    """Return the requested action. Raise RequestInvalid, PermissionDenied."""
    text = request.POST.get("action", "")
    if text not in tuple(TaskAction):
        raise RequestInvalid(f"action: {choices_error(TaskAction)}")
    if not can_apply(request.user, TaskAction(text)):
        raise PermissionDenied
    return TaskAction(text)


_CANCELLATIONS = {
    Cancellation.CANCELED: "The task was cancelled: it is archived and will not run.",
    Cancellation.REQUESTED: "Cancellation requested. The worker stops the task, usually within a second; then it is "
    "archived.",
    Cancellation.REQUESTED_ELSEWHERE: "Cancellation requested. A worker of another program runs the task and may not "
    "be able to interrupt it: it is archived when that worker puts it back.",
}


def _apply_to_one(broker: Broker, action: TaskAction, record: TaskRecord) -> str:
    """Apply an action and return what happened. Raise as `apply_action` and `cancel_task`."""
    if action is TaskAction.CANCEL:
        return _CANCELLATIONS[cancel_task(broker, task_id=record.id, queue=record.queue)]
    apply_action(broker, action=StateChange(action), queue=record.queue, task_id=record.id)
    return _DONE[action].format(id=record.id)


def _apply_to_many(selected: SelectionAction) -> ActionResult:
    broker = get_broker()
    selection = TaskSelection(queue=selected.queue, state=selected.state, task_ids=selected.task_ids)
    if selected.action is TaskAction.CANCEL:
        return cancel_selected(broker, selection=selection)
    return apply_to_selected(broker, action=StateChange(selected.action), selection=selection)


def _describe_outcome(selected: SelectionAction, result: ActionResult) -> tuple[int, str]:
    """Return the level and the text of the message about an action."""
    message = f"{describe_tasks(result.affected)} {LABELS[selected.action].past}"
    if selected.action is TaskAction.CANCEL:
        message += " or being stopped by their workers"
    unaffected = result.matched - result.affected
    if not unaffected:
        return messages.SUCCESS, f"{message}."
    reason = f"no longer {selected.state}, or another task holds their unique key"
    return messages.WARNING, f"{message}; {unaffected:,} unchanged: {reason}."


def _confirm_one(context: dict[str, Any], request: HttpRequest, action: TaskAction, record: TaskRecord) -> HttpResponse:
    labels = LABELS[action]
    (row,) = task_rows([record], request.user, now_ns=get_broker().now_ns())
    context |= {
        "title": f"{labels.label} a task",
        "question": f"{labels.label} task {record.id}?",
        "labels": labels,
        "facts": [("Queue", record.queue), ("State", row.state)],
        "fields": [("action", action.value), ("confirmed", "yes")],
        "form_url": request.get_full_path(),
        "back_url": task_url(record.id, record.queue),
    }
    return TemplateResponse(request, "admin/tasks/task/confirm.html", context)


def _confirm_many(context: dict[str, Any], request: HttpRequest, selected: SelectionAction) -> HttpResponse:
    labels, count = LABELS[selected.action], len(selected.task_ids)
    context |= {
        "title": f"{labels.label}: {describe_tasks(count)}",
        "question": f"{labels.label} {describe_tasks(count)}?",
        "labels": labels,
        "facts": [("Queue", selected.queue), ("State", STATE_NAMES[selected.state]), ("Tasks", f"{count:,}")],
        "fields": [
            ("action", selected.action.value),
            ("queue", selected.queue),
            ("state", selected.state.value),
            ("confirmed", "yes"),
            *(("id", task_id) for task_id in selected.task_ids),
        ],
        "form_url": request.get_full_path(),
        "back_url": queue_tasks_url(selected.queue, selected.state),
    }
    return TemplateResponse(request, "admin/tasks/task/confirm.html", context)
