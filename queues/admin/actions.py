"""What can be done to the queues that are selected in the list."""

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from queues.exporting import write_queue_file
from queues.models import Queue
from queues.operations import disable_queue, enable_queue, redeploy_queue
from queues.switching import pause_whole_queue, unpause_whole_queue
from runqy.connection import get_broker
from runqy.errors import RunqyError

__all__ = ["ACTIONS", "export", "exported", "switch"]

Switch = Callable[[str], object]
"""Takes the name of a queue; tells by its truth whether it changed anything."""


def _pause(name: str) -> object:
    return pause_whole_queue(get_broker(), name=name)


def _resume(name: str) -> object:
    return unpause_whole_queue(get_broker(), name=name)


SWITCHES: dict[str, tuple[Switch, str]] = {
    "enable": (lambda name: enable_queue(name=name), "enabled"),
    "disable": (lambda name: disable_queue(name=name), "disabled"),
    "pause": (_pause, "paused"),
    "resume": (_resume, "resumed"),
    "redeploy": (lambda name: redeploy_queue(name=name), "redeployed: its workers take the newest commit"),
}
"""By verb: what is done, and what the queue is then."""


def switch(request: HttpRequest, verb: str, names: Iterable[str]) -> None:
    """Do one thing to some queues, and tell what became of it."""
    apply, done = SWITCHES[verb]
    changed: list[str] = []
    same: list[str] = []
    for name in names:
        try:
            (changed if apply(name) else same).append(name)
        except RunqyError as error:
            messages.error(request, f"{name}: {error.detail}")
    if changed:
        messages.success(request, f"{_listed(changed)} {done}.")
    if same:
        messages.info(request, f"Nothing to do: {_listed(same)} {'was' if len(same) == 1 else 'were'} {done} already.")


def exported(queues: Iterable[Queue], file: str) -> HttpResponse:
    """Return some queues as a file to be kept."""
    answer = HttpResponse(write_queue_file(queue.as_spec() for queue in queues), content_type="application/yaml")
    answer["Content-Disposition"] = f'attachment; filename="{file}.yaml"'
    answer["Cache-Control"] = "no-store"
    return answer


@admin.action(description="Enable", permissions=["change"])
def enable(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    """Enable queues."""
    switch(request, "enable", _names(queryset))


@admin.action(description="Disable", permissions=["change"])
def disable(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    """Disable queues."""
    switch(request, "disable", _names(queryset))


@admin.action(description="Pause", permissions=["pause"])
def pause(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    """Pause queues."""
    switch(request, "pause", _names(queryset))


@admin.action(description="Resume", permissions=["pause"])
def resume(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    """Let queues go on."""
    switch(request, "resume", _names(queryset))


@admin.action(description="Export as queue file", permissions=["change"])
def export(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> HttpResponse:
    """Export queues as one queue file."""
    return exported(queryset, "queues")


def _names(queryset: QuerySet[Queue]) -> list[str]:
    """Return the names of queues, in order."""
    return list(queryset.order_by("name").values_list("name", flat=True))


def _listed(names: list[str]) -> str:
    """Return some names as people list them."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


ACTIONS = (enable, disable, pause, resume, export)
