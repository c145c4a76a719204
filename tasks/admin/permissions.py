"""Permissions on tasks in the admin, and the actions that the state of a task allows."""

from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, QueryDict

from queues.queries import get_fresh_catalog, hides_payloads
from runqy.broker.states import TaskState
from runqy.errors import RequestInvalid, choices_error
from tasks.actions import VALID_STATES, TaskAction, permission_for


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLabels:
    """The texts of an action."""

    label: str
    icon: str
    past: str
    """Follows a number of tasks: "12 tasks archived"."""
    consequence: str
    needs_confirmation: bool = False
    """Also for a single task."""


LABELS = {
    TaskAction.RUN: ActionLabels(
        label="Run now",
        icon="play_arrow",
        past="put back on the queue",
        consequence="Finished tasks restart with a fresh retry count; previous results are discarded.",
    ),
    TaskAction.CANCEL: ActionLabels(
        label="Cancel",
        icon="cancel",
        past="cancelled",
        consequence="Waiting tasks are archived at once; running tasks are stopped and their work is lost.",
        needs_confirmation=True,
    ),
    TaskAction.ARCHIVE: ActionLabels(
        label="Archive",
        icon="inventory_2",
        past="archived",
        consequence="The task will not run. It can be put back on the queue until it expires.",
    ),
    TaskAction.DELETE: ActionLabels(
        label="Delete",
        icon="delete",
        past="deleted",
        consequence="Payload, result and error are deleted permanently.",
        needs_confirmation=True,
    ),
}


def labels_for(action: TaskAction, state: TaskState | None) -> ActionLabels:
    """Return the texts of an action on tasks in a state, or, for None, on ended tasks of the history."""
    # Ended tasks are not run "now" but again.
    is_again = action is TaskAction.RUN and (state is None or state.is_final)
    return replace(LABELS[action], label="Run again") if is_again else LABELS[action]


def can_apply(user: Any, action: TaskAction) -> bool:
    return not settings.ASYNQ_READ_ONLY and user.has_perm(permission_for(action))


def parse_action(request: HttpRequest, fields: QueryDict) -> TaskAction:
    """Return the `action` of a form, if the user has the permission. Raise RequestInvalid, PermissionDenied."""
    text = fields.get("action", "")
    if text not in LABELS:
        raise RequestInvalid(f"action: {choices_error(LABELS)}")
    if not can_apply(request.user, TaskAction(text)):
        raise PermissionDenied
    return TaskAction(text)


def can_test(user: Any) -> bool:
    return not settings.ASYNQ_READ_ONLY and user.has_perm("tasks.enqueue_task")


def can_view_payloads(user: Any, queue: str) -> bool:
    """Return whether a user may view payloads, results and errors of a queue or Redis queue; of all if it is empty.

    Raise ConfigurationUnavailable.
    """
    return user.has_perm("tasks.view_payload") or not hides_payloads(queue, get_fresh_catalog())


def actions_for_one(user: Any, state: TaskState) -> list[TaskAction]:
    return [action for action in TaskAction if can_apply(user, action) and state in VALID_STATES[action]]


def actions_for_selected(user: Any, state: TaskState) -> list[TaskAction]:
    """Return the actions that a user may apply to selected tasks in a state."""
    actions = actions_for_one(user, state)
    # Cancelling tasks that wait is archiving them: one button is enough.
    return [action for action in actions if action is not TaskAction.CANCEL or state is TaskState.ACTIVE]
