"""Paging to and fro through the tasks of a queue."""

from dataclasses import replace

import pytest

from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from tasks.actions import TaskAction, apply_action
from tasks.queries import PageRequest, TaskWindow, get_task_window
from tests.support.tasks import put, take
from tests.tasks.task_helpers import put_in

pytestmark = pytest.mark.usefixtures("queues")

IDS = [f"t{number}" for number in range(1, 8)]


def ids_of(window: TaskWindow) -> list[str]:
    """Return the ids on a page."""
    return [record.id for record in window.tasks]


def put_all(broker: Broker, state: str) -> None:
    """Bring the seven tasks into a state, in order."""
    if state == "scheduled":
        for number, task_id in enumerate(IDS):
            put(broker, task_id, queue="simple", process_at_s=broker.now_s() + 60 + number // 2)
    elif state == "active":
        put(broker, *IDS, queue="simple")
        take(broker, len(IDS), "simple")
    else:
        put_in(broker, state, *IDS)


@pytest.mark.parametrize("is_newest_first", [False, True])
@pytest.mark.parametrize("state", ["pending", "active", "scheduled", "archived", "completed"])
def test_previous_pages_are_the_same_as_next_pages(single_broker: Broker, state: str, is_newest_first: bool) -> None:
    put_all(single_broker, state)
    request = PageRequest(state=TaskState(state), limit=3, is_newest_first=is_newest_first)

    first = get_task_window(single_broker, "simple", request)
    second = get_task_window(single_broker, "simple", replace(request, after=first.next))
    third = get_task_window(single_broker, "simple", replace(request, after=second.next))
    back = get_task_window(single_broker, "simple", replace(request, after=third.previous), is_backward=True)
    begin = get_task_window(single_broker, "simple", replace(request, after=back.previous), is_backward=True)

    assert [len(ids_of(page)) for page in (first, second, third)] == [3, 3, 1]
    assert sorted(ids_of(first) + ids_of(second) + ids_of(third)) == IDS
    assert (ids_of(back), ids_of(begin)) == (ids_of(second), ids_of(first))
    assert (first.previous, third.next, begin.previous) == (None, None, None)
    assert ids_of(get_task_window(single_broker, "simple", replace(request, after=begin.next))) == ids_of(second)


def test_the_first_page_is_complete_after_tasks_have_left(single_broker: Broker) -> None:
    put_all(single_broker, "pending")
    request = PageRequest(state=TaskState.PENDING, limit=3)
    first = get_task_window(single_broker, "simple", request)
    second = get_task_window(single_broker, "simple", replace(request, after=first.next))
    for task_id in ("t1", "t2", "t3"):
        apply_action(single_broker, action=TaskAction.DELETE, queue="simple", task_id=task_id)

    back = get_task_window(single_broker, "simple", replace(request, after=second.previous), is_backward=True)

    assert (ids_of(back), back.previous) == (["t4", "t5", "t6"], None)


def test_a_queue_without_tasks_has_one_empty_page(single_broker: Broker) -> None:
    window = get_task_window(single_broker, "simple", PageRequest(state=TaskState.RETRY, limit=3))

    assert (window.tasks, window.previous, window.next) == ([], None, None)
