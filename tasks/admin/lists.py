"""The start page of tasks and its lists: queues with counts, the tasks of a queue, and what a filter finds."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.views import View

from queues.catalog import RedisQueue
from queues.payload_schema import example_curl, example_payload
from queues.queries import list_redis_queues, resolve_redis_queue, run_with_fresh_catalog
from runqy.admin_site.views import AdminView, AdminViewMixin
from runqy.api.pagination import decode_cursor, encode_cursor
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.states import TaskState
from runqy.broker.tasks.listing import LISTED_STATES, Anchor
from runqy.errors import BrokerUnavailable, QueueNotFound, RequestInvalid, SearchTooSlow, TaskNotFound, choices_error
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction
from tasks.admin.filters import (
    filter_context,
    is_filtered,
    page_url,
    read_filter,
    url_with_absolute_times,
    with_absolute_times,
)
from tasks.admin.permissions import actions_for_selected, can_apply, labels_for
from tasks.admin.presenters import (
    ENDED,
    STATE_NAMES,
    TIME_COLUMNS,
    ShownRun,
    as_fields,
    not_found_message,
    queue_tasks_url,
    shown_tasks,
    task_url,
    tasks_url,
)
from tasks.bulk_actions import list_valid_actions
from tasks.history.queries import (
    RunCursor,
    RunFilter,
    RunOrder,
    TaskCount,
    count_ended_tasks,
    find_newest_run,
    list_runs,
)
from tasks.queries import PageRequest, TaskWindow, get_task, get_task_window
from tasks.search import (
    NEWEST_FIRST,
    SearchCursor,
    SearchRequest,
    TaskQuery,
    count_by_queue,
    find_redis_queues,
    list_longest_running,
    search_tasks,
)

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
            record = run_with_fresh_catalog(get_task, task_id)
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
    template_name = "admin/tasks/task/queue_list.html"

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


_DEFAULT_STATES = (TaskState.PENDING, TaskState.ACTIVE, TaskState.RETRY, TaskState.ARCHIVED, TaskState.SCHEDULED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The end of a page, the direction in which the list continues, and the list that it belongs to."""

    queue: str
    state: TaskState
    end: Anchor
    is_backward: bool = False


class QueueTasksView(AdminView):
    """A page of the tasks of a queue, in two round trips."""

    template_name = "admin/tasks/task/queue_tasks.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request, broker = self.request, get_broker()
        resolved = resolve_redis_queue(broker, kwargs["queue"])
        (counts,) = broker.run(count_tasks([resolved.redis_queue], now_ns=broker.now_ns()))
        state = parse_state(request.GET.get("state", "")) or _first_state(counts)
        cursor = decode_cursor(request.GET.get("cursor", ""), Cursor)
        if cursor is not None and (cursor.queue, cursor.state) != (resolved.redis_queue, state):
            raise RequestInvalid("cursor: belongs to a list of another queue or state.")
        page = PageRequest(
            state=state,
            limit=TASKS_PER_PAGE,
            is_newest_first=state in NEWEST_FIRST,
            after=cursor.end if cursor else None,
        )
        is_backward = cursor is not None and cursor.is_backward
        window = get_task_window(broker, resolved.redis_queue, page, is_backward=is_backward)
        return super().get_context_data(**kwargs) | {
            "title": f"Tasks of {resolved.redis_queue}",
            "section": "queues",
            "redis_queue": resolved.redis_queue,
            "queue": resolved.queue,
            "counts": counts,
            "state": state,
            "state_name": STATE_NAMES[state],
            "state_count": getattr(counts, state),
            "tabs": [
                (tab, STATE_NAMES[tab], getattr(counts, tab), queue_tasks_url(resolved.redis_queue, tab))
                for tab in LISTED_STATES
            ],
            "history_url": tasks_url(state=ENDED, queue=resolved.redis_queue),
            "time_column": TIME_COLUMNS[state],
            "is_newest_first": page.is_newest_first,
            "rows": shown_tasks(window.tasks, request.user),
            "actions_for_selected": [
                (action, labels_for(action, state)) for action in actions_for_selected(request.user, state)
            ],
            "matches": TaskCount(count=getattr(counts, state), is_exact=True),
            "bulk_actions": bulk_links(request, TaskQuery(queue=resolved.redis_queue, state=state)),
            "curl": example_curl(
                request.build_absolute_uri("/").rstrip("/"),
                resolved.redis_queue,
                example_payload(resolved.queue.input if resolved.queue else ()),
            ),
            **_page_links(resolved.redis_queue, state, window),
        }


def _first_state(counts: QueueCounts) -> TaskState:
    return next((state for state in _DEFAULT_STATES if getattr(counts, state)), TaskState.PENDING)


def parse_state(text: str) -> TaskState | None:
    """Return the state with this name; None if it is empty. Raise RequestInvalid."""
    if not text:
        return None
    if text not in LISTED_STATES:
        raise RequestInvalid(f"state: {choices_error(LISTED_STATES)}")
    return TaskState(text)


def _page_links(queue: str, state: TaskState, window: TaskWindow) -> dict[str, str]:
    """Return the URLs of the previous and the next page; empty if there is none."""

    def url(end: Anchor | None, *, is_backward: bool) -> str:
        if end is None:
            return ""
        cursor = encode_cursor(Cursor(queue=queue, state=state, end=end, is_backward=is_backward))
        query = urlencode({"queue": queue, "state": state.value, "cursor": cursor})
        return f"{reverse('admin:tasks_task_changelist')}?{query}"

    return {"previous_url": url(window.previous, is_backward=True), "next_url": url(window.next, is_backward=False)}


TASKS_PER_PAGE = 50
_MAX_COUNTED = 10_000
"""Tasks that a filter finds in the history are counted up to this number."""
_MAX_RUNNING = 3


class TaskListView(AdminView):
    """A page of the tasks that a filter finds."""

    title = "Tasks"
    template_name = "admin/tasks/task/task_list.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        form, status = read_filter(request), 200
        # Others to whom the URL is given may read times in another zone.
        if form.is_valid() and (url := url_with_absolute_times(request, form)):
            return HttpResponseRedirect(url)
        context = self.get_context_data(**kwargs) | filter_context(request, form) | {"section": "tasks"}
        if not form.is_valid():
            return self.render_to_response(context, status=400)
        query = form.query()
        try:
            context |= _find_runs(request, query, form.order) if query.state is None else _find_tasks(request, query)
        except SearchTooSlow as error:  # shown on the page, where the user can narrow the filter
            context["search_error"], status = error.detail, error.status
        if query.state is None and form.order is RunOrder.SLOWEST and context.get("is_first") and _is_of_any_run(query):
            context |= _find_running(request, query)
        context["bulk_actions"] = [] if form.ignored or form.ignores_text else bulk_links(request, query)
        return self.render_to_response(context, status=status)


def bulk_links(request: HttpRequest, query: TaskQuery) -> list[tuple[TaskAction, str, dict[str, str]]]:
    """Return the actions on all tasks that a filter finds: action, label, and the fields of the action's form."""
    fields = as_fields(with_absolute_times(query))
    return [
        (action, labels_for(action, query.state).label, {**fields, "action": action.value})
        for action in list_valid_actions(query.state)
        if can_apply(request.user, action)
    ]


def _find_runs(request: HttpRequest, query: TaskQuery, order: RunOrder) -> dict[str, Any]:
    """Return the template's context for a page of runs that ended."""
    cursor = decode_cursor(request.GET.get("cursor", ""), RunCursor)
    if cursor is not None and cursor.order is not order:
        raise RequestInvalid("cursor: belongs to a list in another order.")
    run_filter = query.run_filter()
    page = list_runs(run_filter, limit=TASKS_PER_PAGE, order=order, after=cursor)
    # When htmx replaces only the rows, the page keeps its count.
    is_counted = bool(page.runs) and request.headers.get("HX-Target") != "rows"
    end = page.end
    return {
        "runs": [ShownRun.of(run, request.user) for run in page.runs],
        "matches": _count_matching(run_filter) if is_counted else None,
        "next_url": page_url(request, cursor=encode_cursor(end)) if end else "",
        "is_first": cursor is None,
        "order": order,
    }


def _count_matching(run_filter: RunFilter) -> TaskCount:
    try:
        return count_ended_tasks(run_filter, limit=_MAX_COUNTED)
    except SearchTooSlow:
        # The page has its runs, so it is shown without a count.
        return TaskCount(count=0, is_exact=False)


def _is_of_any_run(query: TaskQuery) -> bool:
    """Return whether a filter has only conditions that a run can meet before it ends: its queue and its period."""
    return query == TaskQuery(queue=query.queue, since=query.since)


def _find_running(request: HttpRequest, query: TaskQuery) -> dict[str, Any]:
    """Return the template's context for the tasks that have run for longest."""
    # Among the slowest runs, since they may be slower than all that have ended.
    broker = get_broker()
    try:
        tasks = list_longest_running(broker, find_redis_queues(broker, query.queue), limit=_MAX_RUNNING)
    except QueueNotFound:  # the queue is only in the history
        tasks = []
    except BrokerUnavailable as error:
        return {"running_error": error.detail}
    return {
        "running": shown_tasks(tasks, request.user),
        "running_url": tasks_url(TaskQuery(state=TaskState.ACTIVE, queue=query.queue)),
    }


def _find_tasks(request: HttpRequest, query: TaskQuery) -> dict[str, Any]:
    """Return the template's context for a page of tasks in Redis, which are listed queue by queue."""
    broker, state = get_broker(), query.state
    assert state is not None  # noqa: S101 (narrows the type)
    cursor = decode_cursor(request.GET.get("cursor", ""), SearchCursor)
    if cursor is not None and cursor.state is not state:
        raise RequestInvalid("cursor: belongs to a list of another state.")
    counts = count_by_queue(broker, find_redis_queues(broker, query.queue), state)
    page = search_tasks(broker, list(counts), query, SearchRequest(limit=TASKS_PER_PAGE, after=cursor))
    total = sum(counts.values())
    matches = TaskCount(count=total, is_exact=True)
    if query.text:
        matches = TaskCount(count=len(page.tasks), is_exact=page.end is None and cursor is None)
    return {
        "matches": matches,
        "tasks": shown_tasks(page.tasks, request.user),
        "state": state,
        "state_name": STATE_NAMES[state],
        "time_column": TIME_COLUMNS[state],
        "total": total,
        "queue_count": len(counts),
        "searched": page.searched if query.text else 0,
        "next_url": page_url(request, cursor=encode_cursor(page.end)) if page.end else "",
        "is_partial": page.end is not None and len(page.tasks) < TASKS_PER_PAGE,
        "is_first": cursor is None,
    }
