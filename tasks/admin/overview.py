"""The page from which all tasks are reached: the queues with their counts, or the tasks of one, or one found by id."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from queues.places import QueuePlace, list_places
from queues.queries import run_operation
from runqy.broker.counting import QueueCounts, count_tasks
from runqy.broker.listing import LISTED_STATES
from runqy.broker.states import TaskState
from runqy.connection import get_broker
from runqy.errors import TaskNotFound
from tasks.admin.lists import show_list
from tasks.admin.shown import no_such_task, queue_tasks_url, task_url
from tasks.queries import get_task

QUEUES_PER_PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A Redis queue with its counts."""

    name: str
    url: str
    is_paused: bool
    counts: list[tuple[TaskState, int, str]]
    """State, number, and where those tasks are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A queue with its Redis queues."""

    name: str
    is_enabled: bool
    is_defined: bool
    lines: list[Line]


def show_tasks(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """Show what the query asks for: a task by its id, the tasks of a queue, or the queues."""
    wanted = request.GET.get("id", "").strip()
    if wanted:
        try:
            record = run_operation(get_task, wanted)
        except TaskNotFound:
            messages.error(request, no_such_task(wanted))
        else:
            return HttpResponseRedirect(task_url(record.id, record.queue))
    if queue := request.GET.get("queue", ""):
        return show_list(context, request, queue)
    return _show_queues(context, request)


def _show_queues(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """Show some queues with their counts, in two round trips however many there are."""
    broker, search = get_broker(), request.GET.get("q", "").strip()
    places = list_places(broker)
    found = [(name, list(group)) for name, group in groupby(places, key=_group_name)]
    if search:
        found = [(name, group) for name, group in found if _has(name, group, search.lower())]
    page = Paginator(found, QUEUES_PER_PAGE).get_page(request.GET.get("page"))
    names = [place.redis_queue for _, group in page for place in group]
    counted = broker.run(count_tasks(names, now_ns=broker.now_ns())) if names else []
    counts = {count.queue: count for count in counted}
    context |= {
        "title": "Tasks",
        "groups": [_group(name, group, counts) for name, group in page],
        "states": LISTED_STATES,
        "page": page,
        "search": search,
        "has_queues": bool(places),
    }
    return TemplateResponse(request, "admin/tasks/task/overview.html", context)


def _group_name(place: QueuePlace) -> str:
    """Return the name of the queue that a Redis queue belongs to."""
    return place.queue.name if place.queue else place.redis_queue


def _has(name: str, group: list[QueuePlace], search: str) -> bool:
    """Tell whether a queue or one of its Redis queues has a text in its name."""
    return search in name.lower() or any(search in place.redis_queue.lower() for place in group)


def _group(name: str, group: list[QueuePlace], counts: dict[str, QueueCounts]) -> Group:
    """Return a queue as the page shows it."""
    queue = group[0].queue
    return Group(
        name=name,
        is_enabled=queue is None or queue.is_enabled,
        is_defined=queue is not None,
        lines=[_line(counts[place.redis_queue]) for place in group],
    )


def _line(count: QueueCounts) -> Line:
    """Return a Redis queue as the page shows it."""
    return Line(
        name=count.queue,
        url=queue_tasks_url(count.queue),
        is_paused=count.is_paused,
        counts=[(state, getattr(count, state), queue_tasks_url(count.queue, state)) for state in LISTED_STATES],
    )
