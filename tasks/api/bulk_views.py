"""All tasks of a state over HTTP: run, archive or delete them at once. Only administrators get here."""

from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view

from runqy.api.answers import json_answer
from runqy.api.pagination import read_limit
from runqy.api.parameters import read_flag
from runqy.api.permissions import identity_of
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker
from tasks.api import handling_examples as examples
from tasks.api import handling_outputs as outputs
from tasks.api.handling_inputs import read_state
from tasks.handling import MOST_AT_ONCE, Action, Selection, handle_tasks, states_for


class HandleTasksView(KeyedView):
    """What is done to all tasks of a state."""

    is_of_queues = True
    action: ClassVar[Action]

    def post(self, request: HttpRequest, queue: str) -> HttpResponse:
        """Do it."""
        selection = Selection(
            queue=queue,
            state=read_state(request, states_for(self.action)),
            most=read_limit(request, default=MOST_AT_ONCE, most=MOST_AT_ONCE),
        )
        is_dry_run, allowed_queues = read_flag(request, "dry_run"), identity_of(request).queues
        handled = handle_tasks(
            get_broker(), action=self.action, selection=selection, is_dry_run=is_dry_run, allowed_queues=allowed_queues
        )
        return json_answer(
            {
                "queue": handled.queue,
                "action": self.action,
                "state": selection.state,
                "dry_run": is_dry_run,
                "matched": handled.matched,
                "affected": handled.affected,
            }
        )


def _described(action: Action, description: str) -> Any:
    """Return what the schema says about doing something to all tasks of a state."""
    limit = f"How many at most, the oldest first: {MOST_AT_ONCE} unless told, and no more"
    return extend_schema_view(
        post=extend_schema(
            operation_id=f"{action}_tasks",
            summary=description.partition(".")[0],
            description=description,
            tags=["tasks"],
            parameters=[
                OpenApiParameter("state", str, required=True, enum=[state.value for state in states_for(action)]),
                OpenApiParameter("limit", {"type": "integer", "minimum": 1}, description=limit),
                OpenApiParameter("dry_run", bool, description="Only tell how many there are"),
            ],
            request=None,
            responses={200: outputs.TasksHandled, **problems(400, 401, 403, 404, 429, 503)},
            examples=[examples.handled(action)],
        )
    )


@_described(Action.RUN, "Make all tasks of a state pending. One that is over starts anew, its retries unspent.")
class RunTasksView(HandleTasksView):
    """What runs tasks before their time, or once more."""

    action = Action.RUN


@_described(Action.ARCHIVE, "Archive all tasks of a state. An archive keeps the newest 10,000.")
class ArchiveTasksView(HandleTasksView):
    """What gives tasks up."""

    action = Action.ARCHIVE


@_described(Action.DELETE, "Delete all tasks of a state, and all that is kept about them.")
class DeleteTasksView(HandleTasksView):
    """What removes tasks."""

    action = Action.DELETE
