"""Paging to and fro through the tasks of a queue."""

from dataclasses import replace

import pytest

from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from tasks.handling import Action, handle_task
from tasks.listing import PageRequest, Window, look_at_tasks_of
from tests.support.tasks import put, take
from tests.tasks.life import put_in

pytestmark = pytest.mark.usefixtures("client")

IDS = [f"t{number}" for number in range(1, 8)]


def shown(window: Window) -> list[str]:
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
def test_pages_are_the_same_on_the_way_back(single_broker: Broker, state: str, is_newest_first: bool) -> None:
    put_all(single_broker, state)
    asked = PageRequest(state=TaskState(state), limit=3, is_newest_first=is_newest_first)

    first = look_at_tasks_of(single_broker, "simple", asked)
    second = look_at_tasks_of(single_broker, "simple", replace(asked, after=first.behind))
    third = look_at_tasks_of(single_broker, "simple", replace(asked, after=second.behind))
    back = look_at_tasks_of(single_broker, "simple", replace(asked, after=third.before), goes_back=True)
    begin = look_at_tasks_of(single_broker, "simple", replace(asked, after=back.before), goes_back=True)

    assert [len(shown(page)) for page in (first, second, third)] == [3, 3, 1]
    assert sorted(shown(first) + shown(second) + shown(third)) == IDS
    assert (shown(back), shown(begin)) == (shown(second), shown(first))
    assert (first.before, third.behind, begin.before) == (None, None, None)
    assert shown(look_at_tasks_of(single_broker, "simple", replace(asked, after=begin.behind))) == shown(second)


def test_going_back_shows_a_whole_first_page_where_tasks_have_gone(single_broker: Broker) -> None:
    put_all(single_broker, "pending")
    asked = PageRequest(state=TaskState.PENDING, limit=3)
    first = look_at_tasks_of(single_broker, "simple", asked)
    second = look_at_tasks_of(single_broker, "simple", replace(asked, after=first.behind))
    for task_id in ("t1", "t2", "t3"):
        handle_task(single_broker, action=Action.DELETE, queue="simple", task_id=task_id)

    back = look_at_tasks_of(single_broker, "simple", replace(asked, after=second.before), goes_back=True)

    assert (shown(back), back.before) == (["t4", "t5", "t6"], None)


def test_a_queue_without_tasks_has_one_empty_page(single_broker: Broker) -> None:
    window = look_at_tasks_of(single_broker, "simple", PageRequest(state=TaskState.RETRY, limit=3))

    assert (window.tasks, window.before, window.behind) == ([], None, None)
