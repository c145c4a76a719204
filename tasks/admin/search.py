"""The search of the page header: tasks in any state by id or by text."""

from collections.abc import Iterable
from typing import Any

from queues.queries import run_with_fresh_catalog
from runqy.admin_site.views import AdminView
from runqy.broker.broker import Broker
from runqy.broker.queues.stats import count_tasks
from runqy.broker.streams.run_log import PAYLOAD_MAX_BYTES
from runqy.broker.tasks.reader import TaskLocation
from runqy.errors import RequestInvalid, TaskNotFound
from runqy.redis_connection import get_broker
from tasks.admin.permissions import can_view_payloads
from tasks.admin.presenters import ENDED, STATE_NAMES, ShownRun, shown_tasks, tasks_url
from tasks.history.fulltext_index import parse_terms
from tasks.history.queries import RunFilter, find_newest_run, find_tasks_with_text, list_runs
from tasks.models import TaskRun
from tasks.queries import get_task
from tasks.search import find_redis_queues, search_redis

MAX_LENGTH = 300
_LISTED = 20
_RUNS_READ = 100
"""The runs that are read to find ended tasks. A task that was retried has several."""


class SearchView(AdminView):
    """The tasks whose id is `q`, and those whose payload or error contains it."""

    title = "Search"
    template_name = "admin/tasks/task/search.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        text, broker, user = self.request.GET.get("q", "").strip()[:MAX_LENGTH], get_broker(), self.request.user
        is_visible = can_view_payloads(user, "")
        is_searchable = is_visible and _has_terms(text)
        found: dict[str, Any] = {}
        if text:
            found |= _find_by_id(text, user)
        if is_searchable:
            found |= _find_in_redis(broker, text, user)
            listed = [(each.record.queue, each.record.id) for each in (*found.get("exact", ()), *found["tasks"])]
            found |= _find_ended(broker, text, listed)
        return (
            super().get_context_data(**kwargs)
            | found
            | {
                "section": "search",
                "text": text,
                "is_visible": is_visible,
                "is_searchable": is_searchable,
                "excerpt_bytes": PAYLOAD_MAX_BYTES,
                "is_empty": not any(found.get(name) for name in ("exact", "exact_run", "tasks", "kept", "runs")),
            }
        )


def _has_terms(text: str) -> bool:
    """Return whether a text has a letter or a digit, which a search needs."""
    try:
        return bool(text and parse_terms(text))
    except RequestInvalid:
        return False


def _find_by_id(task_id: str, user: Any) -> dict[str, Any]:
    """Return the task with an id, from Redis or otherwise from the history."""
    try:
        task = run_with_fresh_catalog(get_task, task_id)
    except TaskNotFound:
        run = find_newest_run(task_id)
        return {"exact_run": ShownRun.of(run, user) if run else None}
    return {"exact": shown_tasks([task], user)}


def _find_in_redis(broker: Broker, text: str, user: Any) -> dict[str, Any]:
    """Return the context for tasks in Redis: those that have not ended, ended ones that the search of the history does
    not find, and states in which more may match.
    """
    redis_queues = find_redis_queues(broker, "")
    counted = broker.run(count_tasks(redis_queues, now_ns=broker.now_ns())) if redis_queues else []
    searches = search_redis(broker, counted, text, limit=_LISTED)
    tasks = [task for search in searches for task in search.tasks]
    ended = [task for task in tasks if task.state.is_final]
    # The history has only the beginning of payloads, so it does not find all ended tasks.
    known = find_tasks_with_text([(task.queue, task.id) for task in ended], text)
    return {
        "tasks": shown_tasks([task for task in tasks if not task.state.is_final], user),
        "kept": shown_tasks([task for task in ended if (task.queue, task.id) not in known], user),
        "more": [
            (STATE_NAMES[search.state], tasks_url(state=search.state.value, text=text))
            for search in searches
            if not search.is_complete
        ],
    }


def _find_ended(broker: Broker, text: str, listed: Iterable[TaskLocation]) -> dict[str, Any]:
    """Return the context for ended tasks: the newest runs that match, one for each task, except the tasks listed."""
    page, now_ns, left_out = list_runs(RunFilter(text=text), limit=_RUNS_READ), broker.now_ns(), set(listed)
    by_task: dict[TaskLocation, list[TaskRun]] = {}
    for run in page.runs:
        by_task.setdefault((run.redis_queue, run.task_id), []).append(run)
    found = [runs for location, runs in by_task.items() if location not in left_out]
    return {
        "runs": [
            ShownRun(run=runs[0], now_ns=now_ns, is_visible=True, earlier=len(runs) - 1) for runs in found[:_LISTED]
        ],
        "has_more_runs": page.end is not None or len(found) > _LISTED,
        "ended_url": tasks_url(state=ENDED, text=text),
    }
