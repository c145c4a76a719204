"""Actions on the queues that are selected in the list."""

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from queues.models import Queue
from queues.operations import disable_queue, enable_queue, redeploy_queue
from queues.pausing import pause_whole_queue, unpause_whole_queue
from queues.queue_files import write_queue_file
from runqy.errors import RunqyError
from runqy.redis_connection import get_broker

Operation = Callable[[str], object]
"""Takes the name of a queue. Returns whether it changed the queue."""


def _pause(name: str) -> object:
    return pause_whole_queue(get_broker(), name=name)


def _resume(name: str) -> object:
    return unpause_whole_queue(get_broker(), name=name)


OPERATIONS: dict[str, tuple[Operation, str]] = {
    "enable": (lambda name: enable_queue(name=name), "enabled"),
    "disable": (lambda name: disable_queue(name=name), "disabled"),
    "pause": (_pause, "paused"),
    "resume": (_resume, "resumed"),
    "redeploy": (lambda name: redeploy_queue(name=name), "redeployed: workers deploy the newest commit"),
}
"""By verb: the operation, and the participle for messages."""


def apply_to_queues(request: HttpRequest, verb: str, names: Iterable[str]) -> None:
    """Apply an operation to queues one by one, and report the results to the user."""
    operation, participle = OPERATIONS[verb]
    changed: list[str] = []
    unchanged: list[str] = []
    for name in names:
        try:
            (changed if operation(name) else unchanged).append(name)
        except RunqyError as error:
            messages.error(request, f"{name}: {error.detail}")
    if changed:
        messages.success(request, f"{_join(changed)} {participle}.")
    if unchanged:
        was = "was" if len(unchanged) == 1 else "were"
        messages.info(request, f"Unchanged: {_join(unchanged)} {was} already {participle}.")


def export_response(queues: Iterable[Queue], file: str) -> HttpResponse:
    response = HttpResponse(write_queue_file(queue.as_spec() for queue in queues), content_type="application/yaml")
    response["Content-Disposition"] = f'attachment; filename="{file}.yaml"'
    response["Cache-Control"] = "no-store"
    return response


@admin.action(description="Enable", permissions=["change"])
def enable(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    apply_to_queues(request, "enable", _names(queryset))


@admin.action(description="Disable", permissions=["change"])
def disable(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    apply_to_queues(request, "disable", _names(queryset))


@admin.action(description="Pause", permissions=["pause"])
def pause(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    apply_to_queues(request, "pause", _names(queryset))


@admin.action(description="Resume", permissions=["pause"])
def resume(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
    apply_to_queues(request, "resume", _names(queryset))


@admin.action(description="Export as queue file", permissions=["change"])
def export(model_admin: Any, request: HttpRequest, queryset: QuerySet[Queue]) -> HttpResponse:
    return export_response(queryset, "queues")


def _names(queryset: QuerySet[Queue]) -> list[str]:
    return list(queryset.order_by("name").values_list("name", flat=True))


def _join(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


ACTIONS = (enable, disable, pause, resume, export)
