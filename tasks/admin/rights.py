"""Who may do what to tasks in the admin, and in which states it can be done."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.conf import settings

from runqy.broker.states import TaskState
from tasks.handling import Action, states_for
from tasks.picking import states_of_one

HIDDEN = "hidden by RUNQY_HIDE_PAYLOADS"
"""Stands where something is that the viewer may not see."""


class Deed(StrEnum):
    """What staff do to tasks, in the order of the buttons."""

    RUN = "run"
    CANCEL = "cancel"
    ARCHIVE = "archive"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How a deed is spoken of."""

    label: str
    icon: str
    past: str
    """Behind a number of tasks."""
    consequence: str
    destroys: bool = False
    """It is asked for twice."""


WORDS = {
    Deed.RUN: Words(
        label="Run now",
        icon="play_arrow",
        past="put back on the queue",
        consequence="What is over starts anew, with its retries unspent and its result forgotten.",
    ),
    Deed.CANCEL: Words(
        label="Cancel",
        icon="cancel",
        past="cancelled",
        consequence="What waits is archived at once; what runs is stopped by its worker, and its work is lost.",
        destroys=True,
    ),
    Deed.ARCHIVE: Words(
        label="Archive",
        icon="inventory_2",
        past="archived",
        consequence="It will not run, and can be put back on the queue until it is forgotten.",
    ),
    Deed.DELETE: Words(
        label="Delete",
        icon="delete",
        past="deleted",
        consequence="Payload, result and error are gone for good.",
        destroys=True,
    ),
}

_CANCELABLE = (TaskState.PENDING, TaskState.ACTIVE, TaskState.SCHEDULED, TaskState.RETRY)


def may(user: Any, deed: Deed) -> bool:
    """Tell whether somebody may do something to tasks."""
    return not settings.ASYNQ_READ_ONLY and user.has_perm(f"tasks.{deed}_task")


def may_try(user: Any) -> bool:
    """Tell whether somebody may put a task on a queue."""
    return not settings.ASYNQ_READ_ONLY and user.has_perm("tasks.enqueue_task")


def sees_payloads(user: Any) -> bool:
    """Tell whether somebody may see payloads, results and errors."""
    return not settings.RUNQY_HIDE_PAYLOADS or user.has_perm("tasks.view_payload")


def deeds_for_one(user: Any, state: TaskState) -> list[Deed]:
    """Return what somebody may do to a task in a state."""
    return [deed for deed in Deed if may(user, deed) and state in _states_of_one(deed)]


def deeds_for_picked(user: Any, state: TaskState) -> list[Deed]:
    """Return what somebody may do to tasks picked from a list; there archiving does what cancelling would."""
    return [deed for deed in deeds_for_one(user, state) if deed is not Deed.CANCEL or state is TaskState.ACTIVE]


def deeds_for_all(user: Any, state: TaskState) -> list[Deed]:
    """Return what somebody may do to all tasks in a state at once."""
    deeds = [deed for deed in Deed if deed is not Deed.CANCEL and may(user, deed)]
    return [deed for deed in deeds if state in states_for(Action(deed))]


def _states_of_one(deed: Deed) -> tuple[TaskState, ...]:
    """Return the states in which a deed can be done to a task."""
    return _CANCELABLE if deed is Deed.CANCEL else states_of_one(Action(deed))
