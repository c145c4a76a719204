"""The list of tasks of all queues, or of one: those that ended from the history, the others from Redis."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from runqy.admin_site.relative_time import RelativeTime
from runqy.api.pagination import decode_cursor, encode_cursor
from runqy.broker.states import RunOutcome, TaskState
from runqy.errors import RequestInvalid
from runqy.redis_connection import get_broker
from tasks.actions import TaskAction
from tasks.admin.filters import (
    OUTCOME_NAMES,
    OUTCOME_VARIANTS,
    TaskFilterForm,
    as_fields,
    filter_context,
    page_url,
    with_absolute_times,
)
from tasks.admin.permissions import HIDDEN, LABELS, can_apply, can_view_payloads
from tasks.admin.presenters import STATE_NAMES, TIME_COLUMNS, format_ms, task_url, worker_url
from tasks.admin.task_rows import task_rows
from tasks.bulk_actions import list_valid_actions
from tasks.models import TaskRun
from tasks.run_queries import RunCursor, RunOrder, list_runs
from tasks.task_browser import SearchCursor, SearchRequest, TaskQuery, count_by_queue, find_redis_queues, search_tasks

TASKS_PER_PAGE = 50
_EXCERPT = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run in a list."""

    task_id: str
    url: str
    queue: str
    outcome: str
    outcome_variant: str
    attempt: int
    ended: RelativeTime | None
    run_time: str
    wait_time: str
    worker_id: str
    worker_url: str
    commit: str
    payload: str
    error: str


def show_tasks_of(context: dict[str, Any], request: HttpRequest, form: TaskFilterForm) -> HttpResponse:
    """Render a page of the tasks that a filter finds."""
    context |= filter_context(request, form) | {"title": "Tasks", "section": "tasks"}
    if not form.is_valid():
        return TemplateResponse(request, "admin/tasks/task/browse.html", context, status=400)
    query = form.query()
    if query.state is None:
        context |= _find_runs(request, query, form.order)
    else:
        context |= _find_tasks(request, query, query.state)
    context["bulk_actions"] = bulk_links(request, query)
    return TemplateResponse(request, "admin/tasks/task/browse.html", context)


def bulk_links(request: HttpRequest, query: TaskQuery) -> list[tuple[TaskAction, str, dict[str, str]]]:
    """Return the actions on all tasks that a filter finds: action, label, and the fields of its form."""
    fields = as_fields(with_absolute_times(query))
    return [
        (action, bulk_label(action, query.state), {**fields, "action": action.value})
        for action in list_valid_actions(query.state)
        if can_apply(request.user, action)
    ]


def bulk_label(action: TaskAction, state: TaskState | None) -> str:
    ended = (None, TaskState.ARCHIVED, TaskState.COMPLETED)
    return "Run again" if action is TaskAction.RUN and state in ended else LABELS[action].label


def run_row(run: TaskRun, *, now_ns: int, is_visible: bool) -> RunRow:
    """Return a row of a list; without `is_visible` payload and error are hidden."""
    outcome = RunOutcome(run.outcome)
    error = run.exception_line
    return RunRow(
        task_id=run.task_id,
        url=task_url(run.task_id, run.redis_queue),
        queue=run.redis_queue,
        outcome=OUTCOME_NAMES[outcome],
        outcome_variant=OUTCOME_VARIANTS.get(outcome, ""),
        attempt=run.attempt,
        ended=RelativeTime.of_ns(int(run.ended_at.timestamp() * 1e9), now_ns),
        run_time=format_ms(run.run_ms),
        wait_time=format_ms(run.wait_ms),
        worker_id=run.worker_id,
        worker_url=worker_url(run.worker_id),
        commit=run.commit,
        payload=run.payload[:_EXCERPT] if is_visible else "",
        error=(error[:_EXCERPT] if is_visible else HIDDEN) if error else "",
    )


def _find_runs(request: HttpRequest, query: TaskQuery, order: RunOrder) -> dict[str, Any]:
    """Return the page of runs that ended, for the template."""
    cursor = decode_cursor(request.GET.get("cursor", ""), RunCursor)
    if cursor is not None and cursor.order is not order:
        raise RequestInvalid("cursor: belongs to a list in another order.")
    page = list_runs(query.run_filter(), limit=TASKS_PER_PAGE, order=order, after=cursor)
    now_ns, user, end = get_broker().now_ns(), request.user, page.end
    return {
        "runs": [run_row(run, now_ns=now_ns, is_visible=can_view_payloads(user, run.redis_queue)) for run in page.runs],
        "next_url": page_url(request, cursor=encode_cursor(end)) if end else "",
        "is_partial": page.is_partial,
        "searched_to": end.ended_at if end and page.is_partial and order is not RunOrder.SLOWEST else None,
        "is_first": cursor is None,
        "order": order,
    }


def _find_tasks(request: HttpRequest, query: TaskQuery, state: TaskState) -> dict[str, Any]:
    """Return the page of tasks in Redis, for the template: queue by queue."""
    broker = get_broker()
    cursor = decode_cursor(request.GET.get("cursor", ""), SearchCursor)
    if cursor is not None and cursor.state is not state:
        raise RequestInvalid("cursor: belongs to a list of another state.")
    counts = count_by_queue(broker, find_redis_queues(broker, query.queue), state)
    page = search_tasks(broker, list(counts), query, SearchRequest(limit=TASKS_PER_PAGE, after=cursor))
    now_ns, user = broker.now_ns(), request.user
    return {
        "tasks": task_rows(page.tasks, user, now_ns=now_ns),
        "state": state,
        "state_name": STATE_NAMES[state],
        "time_column": TIME_COLUMNS[state],
        "total": sum(counts.values()),
        "queue_count": len(counts),
        "searched": page.searched if query.text else 0,
        "next_url": page_url(request, cursor=encode_cursor(page.end)) if page.end else "",
        "is_partial": page.end is not None and len(page.tasks) < TASKS_PER_PAGE,
        "is_first": cursor is None,
    }
