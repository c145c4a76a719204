"""Actions on queues: on those that are selected in the list, and on the page of one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from queues.models import Queue, ReleaseState
from queues.operations import disable_queue, enable_queue
from queues.pausing import pause_whole_queue, unpause_whole_queue
from queues.queue_files import write_queue_file
from queues.releases import find_release, redeploy_queue, roll_back
from runqy.errors import RunqyError
from runqy.redis_connection import get_broker


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueAction:
    """An action that is applied to queues one by one."""

    operation: Callable[[HttpRequest, str], object]
    """Takes the name of a queue. Returns whether it changed the queue, or a sentence that says how."""
    done: str
    """The participle for messages."""
    permission: str = "change"

    def apply(self, request: HttpRequest, names: Iterable[str]) -> None:
        """Apply the operation to queues, and report the results to the user."""
        changed: list[str] = []
        unchanged: list[str] = []
        for name in names:
            try:
                result = self.operation(request, name)
            except RunqyError as error:
                messages.error(request, f"{name}: {error.detail}")
                continue
            if isinstance(result, str):
                messages.success(request, result)
            else:
                (changed if result else unchanged).append(name)
        if changed:
            messages.success(request, f"{_join(changed)} {self.done}.")
        if unchanged:
            was = "was" if len(unchanged) == 1 else "were"
            messages.info(request, f"Unchanged: {_join(unchanged)} {was} already {self.done}.")


def _roll_back(request: HttpRequest, name: str) -> str:
    release = roll_back(name=name, may_grant_vaults=request.user.has_perm("vaults.change_vault"))
    live = find_release(release.queue, ReleaseState.LIVE)
    if live is not None and live.number == release.like:  # the one before was rolling out
        return f"Release {release.number - 1} of {name} stopped; workers go back to {live.number}."
    return f"{name} rolled back: workers go back to release {release.like}."


QUEUE_ACTIONS = {
    "enable": QueueAction(operation=lambda _, name: enable_queue(name=name), done="enabled"),
    "disable": QueueAction(operation=lambda _, name: disable_queue(name=name), done="disabled"),
    "pause": QueueAction(
        operation=lambda _, name: pause_whole_queue(get_broker(), name=name), done="paused", permission="pause"
    ),
    "resume": QueueAction(
        operation=lambda _, name: unpause_whole_queue(get_broker(), name=name), done="resumed", permission="pause"
    ),
    "redeploy": QueueAction(
        operation=lambda _, name: redeploy_queue(name=name),
        done="redeployed: workers are asked to run the newest commit",
    ),
    "roll back": QueueAction(operation=_roll_back, done="rolled back"),
}
"""By verb."""


def export_response(queues: Iterable[Queue], file: str) -> HttpResponse:
    response = HttpResponse(write_queue_file(queue.as_spec() for queue in queues), content_type="application/yaml")
    response["Content-Disposition"] = f'attachment; filename="{file}.yaml"'
    response["Cache-Control"] = "no-store"
    return response


@admin.action(description="Export as queue file", permissions=["change"])
def export(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> HttpResponse:
    return export_response(queryset, "queues")


def _list_action(verb: str) -> Callable[..., None]:
    @admin.action(description=verb.capitalize(), permissions=[QUEUE_ACTIONS[verb].permission])
    def apply(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
        QUEUE_ACTIONS[verb].apply(request, queryset.order_by("name").values_list("name", flat=True))

    apply.__name__ = verb  # Django's name of the action
    return apply


def _join(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


LIST_ACTIONS = (*(_list_action(verb) for verb in QUEUE_ACTIONS if verb != "roll back"), export)
