"""The start page of tasks: queues with their counts, and the search for a task by its id."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse

from queues.catalog import RedisQueue
from queues.queries import list_redis_queues, run_operation
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.tasks.listing import LISTED_STATES
from runqy.errors import TaskNotFound
from runqy.redis_connection import get_broker
from tasks.admin.browser import show_tasks_of
from tasks.admin.filters import is_filtered, read_filter
from tasks.admin.lists import show_list
from tasks.admin.presenters import STATE_NAMES, not_found_message, queue_tasks_url, task_url
from tasks.queries import get_task
from tasks.run_queries import find_newest_run
from tasks.task_browser import find_redis_queues

QUEUES_PER_PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A Redis queue with its counts."""

    name: str
    url: str
    is_paused: bool
    counts: list[tuple[str, int, str]]
    """State, number of tasks, URL of their list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueGroup:
    """A queue with its Redis queues."""

    name: str
    is_enabled: bool
    is_defined: bool
    rows: list[QueueRow]


def show_tasks(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """Redirect to the task that `id` names, or render what a filter finds, the tasks of `queue`, or queues with counts.

    `parent` limits the latter to the Redis queues of a queue.
    """
    task_id = request.GET.get("id", "").strip()
    if task_id:
        try:
            record = run_operation(get_task, task_id)
        except TaskNotFound:
            if run := find_newest_run(task_id):
                return HttpResponseRedirect(task_url(run.task_id, run.redis_queue))
            messages.error(request, not_found_message(task_id))
        else:
            return HttpResponseRedirect(task_url(record.id, record.queue))
    parent, state = request.GET.get("parent", ""), request.GET.get("state", "")
    queue = request.GET.get("queue", "") or (parent if state else "")
    if is_filtered(request.GET) or (state in LISTED_STATES and not _is_one_queue(queue)):
        return show_tasks_of(context, request, read_filter(request))
    if queue:
        return show_list(context, request, queue)
    redis_queues = list_redis_queues(get_broker())
    if parent:
        redis_queues = [each for each in redis_queues if _queue_name(each) == parent]
        if len(redis_queues) == 1:
            return show_list(context, request, redis_queues[0].redis_queue)
    return _show_queues(context, request, redis_queues, parent)


def _is_one_queue(name: str) -> bool:
    """Return whether a name means a single Redis queue."""
    return bool(name) and len(find_redis_queues(get_broker(), name)) == 1


def _show_queues(
    context: dict[str, Any], request: HttpRequest, redis_queues: list[RedisQueue], parent: str
) -> HttpResponse:
    """Render a page of queues with their counts, in one round trip."""
    search = request.GET.get("q", "").strip()
    found = [(name, list(group)) for name, group in groupby(redis_queues, key=_queue_name)]
    if search:
        found = [(name, group) for name, group in found if _matches(name, group, search.lower())]
    page = Paginator(found, QUEUES_PER_PAGE).get_page(request.GET.get("page"))
    counts = _count([each for _, group in page for each in group])
    context |= {
        "title": "Tasks by queue",
        "section": "queues",
        "groups": [_queue_group(name, group, counts) for name, group in page],
        "states": [STATE_NAMES[state] for state in LISTED_STATES],
        "parent": parent,
        "query": urlencode({name: value for name, value in request.GET.items() if name != "page"}),
        "page": page,
        "search": search,
        "has_queues": bool(redis_queues),
    }
    return TemplateResponse(request, "admin/tasks/task/overview.html", context)


def _count(redis_queues: list[RedisQueue]) -> dict[str, QueueCounts]:
    """Return the counts of Redis queues by name."""
    broker, names = get_broker(), [each.redis_queue for each in redis_queues]
    return {count.queue: count for count in broker.run(count_tasks(names, now_ns=broker.now_ns()))} if names else {}


def _queue_name(each: RedisQueue) -> str:
    return each.queue.name if each.queue else each.redis_queue


def _matches(name: str, group: list[RedisQueue], search: str) -> bool:
    return search in name.lower() or any(search in each.redis_queue.lower() for each in group)


def _queue_group(name: str, group: list[RedisQueue], counts: dict[str, QueueCounts]) -> QueueGroup:
    queue = group[0].queue
    return QueueGroup(
        name=name,
        is_enabled=queue is None or queue.is_enabled,
        is_defined=queue is not None,
        rows=[_queue_row(counts[each.redis_queue]) for each in group],
    )


def _queue_row(count: QueueCounts) -> QueueRow:
    return QueueRow(
        name=count.queue,
        url=queue_tasks_url(count.queue),
        is_paused=count.is_paused,
        counts=[
            (STATE_NAMES[state], getattr(count, state), queue_tasks_url(count.queue, state)) for state in LISTED_STATES
        ],
    )
