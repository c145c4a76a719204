"""Reads which tasks of a queue people mean."""

from dataclasses import dataclass

from django.http import HttpRequest
from drf_spectacular.utils import OpenApiParameter

from runqy.api.pagination import read_cursor, read_limit
from runqy.broker.listing import LISTED_STATES, Anchor
from runqy.broker.states import TaskState
from runqy.errors import RequestInvalid
from tasks.listing import PageRequest

ORDERS = {"oldest": False, "newest": True}

LIST_PARAMETERS = [
    OpenApiParameter("state", str, enum=[state.value for state in LISTED_STATES], description="`pending` unless told"),
    OpenApiParameter(
        "order", str, enum=list(ORDERS), description="`oldest`, unless told: what runs or is forgotten next, first"
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListCursor:
    """Where a list of tasks goes on, and which list it is."""

    queue: str
    """As it is spelled in the path."""
    state: TaskState
    is_newest_first: bool
    end: Anchor


def read_page(request: HttpRequest, queue: str) -> PageRequest:
    """Return what a client wants to see of a queue; a cursor has to be one of the same list. Raises RequestInvalid."""
    state = read_state(request, LISTED_STATES, default=TaskState.PENDING)
    order = request.GET.get("order", "") or "oldest"
    if order not in ORDERS:
        raise RequestInvalid(errors=[f"order: must be one of {', '.join(ORDERS)}"])
    cursor = read_cursor(request, ListCursor)
    if cursor is not None and (cursor.queue, cursor.state, cursor.is_newest_first) != (queue, state, ORDERS[order]):
        raise RequestInvalid(errors=["cursor: is of a list with another queue, state or order"])
    return PageRequest(
        state=state,
        limit=read_limit(request),
        is_newest_first=ORDERS[order],
        after=None if cursor is None else cursor.end,
    )


def next_cursor(queue: str, asked: PageRequest, end: Anchor | None) -> ListCursor | None:
    """Return the cursor of the page behind the one that ended there."""
    if end is None:
        return None
    return ListCursor(queue=queue, state=asked.state, is_newest_first=asked.is_newest_first, end=end)


def read_state(request: HttpRequest, valid: tuple[TaskState, ...], *, default: TaskState | None = None) -> TaskState:
    """Return the state that a client names, one of those that are valid here. Raises RequestInvalid."""
    text = request.GET.get("state", "") or default
    if text not in valid:
        raise RequestInvalid(errors=[f"state: must be one of {', '.join(valid)}"])
    return TaskState(text)
