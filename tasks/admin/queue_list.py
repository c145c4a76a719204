"""The start page of tasks: queues with their counts, and the search for a task by its id."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.views import View

from queues.catalog import RedisQueue
from queues.queries import list_redis_queues, run_operation
from runqy.admin_site.views import AdminView, AdminViewMixin
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.tasks.listing import LISTED_STATES
from runqy.errors import TaskNotFound
from runqy.redis_connection import get_broker
from tasks.admin.browser import TaskListView
from tasks.admin.filters import is_filtered
from tasks.admin.lists import QueueTasksView
from tasks.admin.presenters import STATE_NAMES, not_found_message, queue_tasks_url, task_url
from tasks.history.queries import find_newest_run
from tasks.queries import get_task
from tasks.task_browser import find_redis_queues

QUEUES_PER_PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A Redis queue with its counts."""

    name: str
    url: str
    is_paused: bool
    counts: list[tuple[str, int, str]]
    """State, number of tasks, and URL of their list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueGroup:
    """A queue with its Redis queues."""

    name: str
    is_enabled: bool
    is_defined: bool
    rows: list[QueueRow]


class TasksView(AdminViewMixin, View):
    """The start page: the task that `id` names, the tasks that a filter finds, the tasks of `queue`, or queues with
    counts.

    `parent` limits the queues to the Redis queues of a queue.
    """

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if url := self._find_task(request.GET.get("id", "").strip()):
            return HttpResponseRedirect(url)
        parent, state = request.GET.get("parent", ""), request.GET.get("state", "")
        queue = request.GET.get("queue", "") or (parent if state else "")
        if is_filtered(request.GET) or (state in LISTED_STATES and not _is_one_queue(queue)):
            return TaskListView.as_view(model_admin=self.model_admin)(request)
        redis_queues = [] if queue else list_redis_queues(get_broker())
        if parent and not queue:
            redis_queues = [each for each in redis_queues if _queue_name(each) == parent]
            queue = redis_queues[0].redis_queue if len(redis_queues) == 1 else ""
        if queue:
            return QueueTasksView.as_view(model_admin=self.model_admin)(request, queue=queue)
        return QueueListView.as_view(model_admin=self.model_admin)(request, redis_queues=redis_queues, parent=parent)

    def _find_task(self, task_id: str) -> str:
        """Return the URL of a task; empty without an id, or with a message if it was not found."""
        if not task_id:
            return ""
        try:
            record = run_operation(get_task, task_id)
        except TaskNotFound:
            if run := find_newest_run(task_id):
                return task_url(run.task_id, run.redis_queue)
            messages.error(self.request, not_found_message(task_id))
            return ""
        return task_url(record.id, record.queue)


def _is_one_queue(name: str) -> bool:
    return bool(name) and len(find_redis_queues(get_broker(), name)) == 1


class QueueListView(AdminView):
    """A page of queues with their counts, in one round trip."""

    title = "Tasks by queue"
    template_name = "admin/tasks/task/overview.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        redis_queues: list[RedisQueue] = kwargs["redis_queues"]
        search = self.request.GET.get("q", "").strip()
        found = [(name, list(group)) for name, group in groupby(redis_queues, key=_queue_name)]
        if search:
            found = [(name, group) for name, group in found if _matches(name, group, search.lower())]
        page = Paginator(found, QUEUES_PER_PAGE).get_page(self.request.GET.get("page"))
        counts = _count([each for _, group in page for each in group])
        return super().get_context_data(**kwargs) | {
            "section": "queues",
            "groups": [_queue_group(name, group, counts) for name, group in page],
            "states": [STATE_NAMES[state] for state in LISTED_STATES],
            "query": urlencode({name: value for name, value in self.request.GET.items() if name != "page"}),
            "page": page,
            "search": search,
            "has_queues": bool(redis_queues),
        }


def _count(redis_queues: list[RedisQueue]) -> dict[str, QueueCounts]:
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
