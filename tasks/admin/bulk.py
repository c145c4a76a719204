"""What staff do to many tasks of a queue: those picked from a list, or all in a state, counted before it is done."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse

from queues.places import get_place
from runqy.broker.listing import LISTED_STATES
from runqy.broker.states import TaskState
from runqy.connection import get_broker
from runqy.errors import RequestInvalid
from tasks.admin.deeds import read_deed
from tasks.admin.rights import WORDS, Deed, deeds_for_all, deeds_for_picked
from tasks.admin.shown import queue_tasks_url
from tasks.handling import MOST_AT_ONCE, Action, Handled, Selection, handle_tasks
from tasks.picking import Pick, cancel_picked, handle_picked


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants to do to which tasks."""

    deed: Deed
    queue: str
    state: TaskState
    task_ids: list[str]
    """Empty: all in the state."""


def handle_many(context: dict[str, Any], request: HttpRequest) -> HttpResponse:
    """Do something to tasks, or ask first: always before all in a state, and before what destroys."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    deed = read_deed(request)
    state = request.POST.get("state", "")
    if state not in LISTED_STATES:
        raise RequestInvalid(f"The state is one of {', '.join(LISTED_STATES)}.")
    wish = Wish(
        deed=deed,
        queue=get_place(get_broker(), request.POST.get("queue", "")).redis_queue,
        state=TaskState(state),
        task_ids=[] if request.POST.get("scope") == "all" else request.POST.getlist("id"),
    )
    here = queue_tasks_url(wish.queue, wish.state)
    if request.POST.get("scope") != "all" and not wish.task_ids:
        messages.warning(request, "No task is selected: tick some first.")
        return HttpResponseRedirect(here)
    allowed = deeds_for_picked if wish.task_ids else deeds_for_all
    if deed not in allowed(request.user, wish.state):
        raise RequestInvalid(f"This cannot be done to tasks that are {state}.")
    if "confirmed" not in request.POST and (not wish.task_ids or WORDS[deed].destroys):
        return _ask(context, request, wish)
    level, said = _outcome(wish, _do(wish))
    messages.add_message(request, level, said)
    return HttpResponseRedirect(here)


def _do(wish: Wish, *, is_dry_run: bool = False) -> Handled:
    """Do it, or tell how many there are."""
    broker = get_broker()
    if not wish.task_ids:
        selection = Selection(queue=wish.queue, state=wish.state)
        return handle_tasks(broker, action=Action(wish.deed), selection=selection, is_dry_run=is_dry_run)
    if is_dry_run:
        return Handled(queue=wish.queue, matched=len(wish.task_ids), affected=0)
    pick = Pick(queue=wish.queue, state=wish.state, task_ids=wish.task_ids)
    if wish.deed is Deed.CANCEL:
        return cancel_picked(broker, pick=pick)
    return handle_picked(broker, action=Action(wish.deed), pick=pick)


def _outcome(wish: Wish, handled: Handled) -> tuple[int, str]:
    """Return what happened, and how good that is."""
    said = f"{tasks_in_words(handled.affected)} {WORDS[wish.deed].past}"
    if wish.deed is Deed.CANCEL:
        said += " or told to stop"
    left = handled.matched - handled.affected
    if not left:
        return messages.SUCCESS, f"{said}."
    if handled.affected >= MOST_AT_ONCE:
        return messages.WARNING, f"{said}; {left:,} are left. Do it again for the next {MOST_AT_ONCE:,}."
    why = f"no longer {wish.state}, or another task holds their unique key"
    return messages.WARNING, f"{said}; {left:,} left as they were: {why}."


def tasks_in_words(count: int) -> str:
    """Return a number of tasks."""
    return "1 task" if count == 1 else f"{count:,} tasks"


def _ask(context: dict[str, Any], request: HttpRequest, wish: Wish) -> HttpResponse:
    """Say how many there are and ask whether it is really meant."""
    words, count = WORDS[wish.deed], _do(wish, is_dry_run=True).matched
    scope = "all" if not wish.task_ids else "picked"
    context |= {
        "title": f"{words.label}: {tasks_in_words(count)}",
        "question": f"{words.label} {'all ' if not wish.task_ids and count > 1 else ''}{tasks_in_words(count)}?",
        "words": words,
        "facts": [("Queue", wish.queue), ("State", wish.state.value), ("How many", f"{count:,}")],
        "is_empty": not count,
        "most": MOST_AT_ONCE if count > MOST_AT_ONCE else 0,
        "fields": [
            ("deed", wish.deed.value),
            ("queue", wish.queue),
            ("state", wish.state.value),
            ("scope", scope),
            ("confirmed", "yes"),
            *(("id", task_id) for task_id in wish.task_ids),
        ],
        "action": request.get_full_path(),
        "back": queue_tasks_url(wish.queue, wish.state),
    }
    return TemplateResponse(request, "admin/tasks/task/confirm.html", context)
