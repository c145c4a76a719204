"""The list of one queue's tasks: a tab for each state, pages, and actions on tasks."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from queues.payload_schema import example_curl, example_payload
from queues.queries import resolve_redis_queue
from runqy.admin_site.views import AdminView
from runqy.api.pagination import decode_cursor, encode_cursor
from runqy.broker.queues.stats import QueueCounts, count_tasks
from runqy.broker.states import TaskState
from runqy.broker.tasks.listing import LISTED_STATES, Anchor
from runqy.errors import RequestInvalid, choices_error
from runqy.redis_connection import get_broker
from tasks.admin.browser import bulk_links
from tasks.admin.filters import ENDED, tasks_url
from tasks.admin.permissions import actions_for_selected, labels_for
from tasks.admin.presenters import STATE_NAMES, TIME_COLUMNS, queue_tasks_url
from tasks.admin.shown_tasks import shown_tasks
from tasks.history.queries import TaskCount
from tasks.queries import PageRequest, TaskWindow, get_task_window
from tasks.task_browser import NEWEST_FIRST, TaskQuery

TASKS_PER_PAGE = 50
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

    template_name = "admin/tasks/task/list.html"

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
