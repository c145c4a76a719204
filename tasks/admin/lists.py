"""The tasks of one queue: a tab for each state, page by page, with what can be done to them."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from queues.payload_examples import curl_line, example_payload
from queues.places import get_place
from runqy.api.pagination import decode_cursor, encode_cursor
from runqy.broker.counting import QueueCounts, count_tasks
from runqy.broker.listing import LISTED_STATES, Anchor
from runqy.broker.states import TaskState
from runqy.connection import get_broker
from runqy.errors import RequestInvalid
from tasks.admin.rights import WORDS, deeds_for_all, deeds_for_picked, sees_payloads
from tasks.admin.shown import TIME_COLUMNS, queue_tasks_url, task_row
from tasks.listing import PageRequest, Window, look_at_tasks_of

TASKS_PER_PAGE = 50
_NEWEST_FIRST = (TaskState.ARCHIVED, TaskState.COMPLETED)
"""Of what is over, people look for what ended just now; of the rest, for what runs next."""
_WORTH_A_LOOK = (TaskState.PENDING, TaskState.ACTIVE, TaskState.RETRY, TaskState.ARCHIVED, TaskState.SCHEDULED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a list goes on, in which direction, and which list it is."""

    queue: str
    state: TaskState
    end: Anchor
    goes_back: bool = False


def show_list(context: dict[str, Any], request: HttpRequest, queue: str) -> HttpResponse:
    """Show a page of the tasks of a queue, in two round trips."""
    broker = get_broker()
    place = get_place(broker, queue)
    (counts,) = broker.run(count_tasks([place.redis_queue], now_ns=broker.now_ns()))
    state = _read_state(request, counts)
    cursor = decode_cursor(request.GET.get("cursor", ""), Cursor)
    if cursor is not None and (cursor.queue, cursor.state) != (place.redis_queue, state):
        raise RequestInvalid("This page is of another list: go back to the first.")
    asked = PageRequest(
        state=state,
        limit=TASKS_PER_PAGE,
        is_newest_first=state in _NEWEST_FIRST,
        after=cursor.end if cursor else None,
    )
    window = look_at_tasks_of(broker, place.redis_queue, asked, goes_back=cursor is not None and cursor.goes_back)
    sees, now_ns, user = sees_payloads(request.user), broker.now_ns(), request.user
    context |= {
        "title": f"Tasks of {place.redis_queue}",
        "place": place,
        "counts": counts,
        "state": state,
        "in_state": getattr(counts, state),
        "tabs": [(tab, getattr(counts, tab), queue_tasks_url(place.redis_queue, tab)) for tab in LISTED_STATES],
        "time_column": TIME_COLUMNS[state],
        "is_newest_first": asked.is_newest_first,
        "rows": [task_row(record, now_ns=now_ns, sees_payloads=sees) for record in window.tasks],
        "for_picked": [(deed, WORDS[deed]) for deed in deeds_for_picked(user, state)],
        "for_all": [(deed, WORDS[deed]) for deed in deeds_for_all(user, state)],
        "curl": curl_line(
            request.build_absolute_uri("/").rstrip("/"),
            place.redis_queue,
            example_payload(place.queue.input if place.queue else ()),
        ),
        **_ends(place.redis_queue, state, window),
    }
    return TemplateResponse(request, "admin/tasks/task/list.html", context)


def _read_state(request: HttpRequest, counts: QueueCounts) -> TaskState:
    """Return the state that is asked for; without one, the first that has tasks. Raises RequestInvalid."""
    text = request.GET.get("state", "")
    if not text:
        return next((state for state in _WORTH_A_LOOK if getattr(counts, state)), TaskState.PENDING)
    if text not in LISTED_STATES:
        raise RequestInvalid(f"The state is one of {', '.join(LISTED_STATES)}.")
    return TaskState(text)


def _ends(queue: str, state: TaskState, window: Window) -> dict[str, str]:
    """Return where the pages before and behind are; empty where there is none."""

    def at(end: Anchor | None, *, goes_back: bool) -> str:
        if end is None:
            return ""
        cursor = encode_cursor(Cursor(queue=queue, state=state, end=end, goes_back=goes_back))
        query = urlencode({"queue": queue, "state": state.value, "cursor": cursor})
        return f"{reverse('admin:tasks_task_changelist')}?{query}"

    return {"page_before": at(window.before, goes_back=True), "page_behind": at(window.behind, goes_back=False)}
