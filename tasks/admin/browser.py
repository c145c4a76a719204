"""The list of tasks of all queues or of one: ended tasks from the history, other tasks from Redis."""

from typing import Any

from django.http import HttpRequest, HttpResponse

from runqy.admin_site.views import AdminView
from runqy.api.pagination import decode_cursor, encode_cursor
from runqy.broker.states import TaskState
from runqy.errors import BrokerUnavailable, QueueNotFound, RequestInvalid, SearchTooSlow
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction
from tasks.admin.filters import (
    as_fields,
    filter_context,
    page_url,
    read_filter,
    tasks_url,
    with_absolute_times,
)
from tasks.admin.permissions import can_apply, labels_for
from tasks.admin.presenters import STATE_NAMES, TIME_COLUMNS
from tasks.admin.shown_runs import ShownRun
from tasks.admin.shown_tasks import shown_tasks
from tasks.bulk_actions import list_valid_actions
from tasks.history.queries import RunCursor, RunFilter, RunOrder, TaskCount, count_ended_tasks, list_runs
from tasks.task_browser import (
    SearchCursor,
    SearchRequest,
    TaskQuery,
    count_by_queue,
    find_redis_queues,
    list_longest_running,
    search_tasks,
)

TASKS_PER_PAGE = 50
_MAX_COUNTED = 10_000
"""Tasks that a filter finds in the history are counted up to this number."""
_MAX_RUNNING = 3


class TaskListView(AdminView):
    """A page of the tasks that a filter finds."""

    title = "Tasks"
    template_name = "admin/tasks/task/browse.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        form, status = read_filter(request), 200
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
        "matches": _count(run_filter) if is_counted else None,
        "next_url": page_url(request, cursor=encode_cursor(end)) if end else "",
        "is_first": cursor is None,
        "order": order,
    }


def _count(run_filter: RunFilter) -> TaskCount:
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
