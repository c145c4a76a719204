"""Running, archiving, deleting and cancelling tasks that somebody picked."""

import json

import pytest

from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from runqy.broker.keys import lookup
from runqy.broker.operation import Request
from runqy.broker.states import TaskState
from runqy.errors import QueueNotFound, RequestInvalid, TaskStateUnsuited
from tasks.handling import Action, handle_task
from tasks.picking import MOST_PICKED, Pick, cancel_picked, handle_picked, states_of_one
from tests.api.client import ApiClient
from tests.support.tasks import fields, listed
from tests.tasks.life import put_in

pytestmark = pytest.mark.usefixtures("client")


def pick(state: str, *task_ids: str, queue: str = "simple") -> Pick:
    """Return a pick."""
    return Pick(queue=queue, state=TaskState(state), task_ids=task_ids)


def recorded() -> list[tuple[str, str, list[str]]]:
    """Return what the audit says: actions, objects and the tasks' ids."""
    rows = AuditRecord.objects.filter(action__startswith="tasks.").order_by("number")
    return [(row.action, row.object_name, json.loads(row.changes)["ids"]["old"]) for row in rows]


@pytest.mark.parametrize(
    ("action", "state"), [(action, state.value) for action in Action for state in states_of_one(action)]
)
def test_what_is_said_to_be_possible_in_a_state_happens(single_broker: Broker, action: Action, state: str) -> None:
    put_in(single_broker, state, "t1")

    assert handle_picked(single_broker, action=action, pick=pick(state, "t1")).affected == 1


@pytest.mark.parametrize(
    ("action", "state"),
    [("run", "active"), ("run", "pending"), ("archive", "active"), ("archive", "completed"), ("delete", "active")],
)
def test_what_cannot_be_done_in_a_state_is_refused(single_broker: Broker, action: str, state: str) -> None:
    put_in(single_broker, state, "t1")

    with pytest.raises(TaskStateUnsuited):
        handle_picked(single_broker, action=Action(action), pick=pick(state, "t1"))


def test_only_the_picked_tasks_are_touched_and_named_in_one_record(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")

    handled = handle_picked(single_broker, action=Action.RUN, pick=pick("archived", "t3", "t1", "t3"))

    assert (handled.queue, handled.matched, handled.affected) == ("simple", 2, 2)
    assert listed(single_broker, "simple") == {"pending": ["t3", "t1"], "archived": ["t2"]}
    assert recorded() == [("tasks.run", "simple", ["t3", "t1"])]


def test_tasks_that_have_left_their_state_are_left_alone(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    put_in(single_broker, "pending", "t2")

    handled = handle_picked(single_broker, action=Action.DELETE, pick=pick("archived", "t1", "t2", "gone"))

    assert (handled.matched, handled.affected) == (3, 1)
    assert listed(single_broker, "simple") == {"pending": ["t2"]}
    assert recorded() == [("tasks.deleted", "simple", ["t1"])]


def test_a_deleted_task_is_not_found_by_its_id_any_more(single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1")

    handle_picked(single_broker, action=Action.DELETE, pick=pick("pending", "t1"))

    assert not single_broker.client.exists(lookup("t1"))


def test_what_moves_while_it_is_picked_is_named_in_a_second_record(single_broker: Broker, monkeypatch) -> None:
    put_in(single_broker, "archived", "t1", "t2")
    stale = Request((), lambda _: [TaskState.ARCHIVED, TaskState.ARCHIVED])
    monkeypatch.setattr("tasks.picking.read_states", lambda *_: stale)
    handle_task(single_broker, action=Action.RUN, queue="simple", task_id="t2")

    handled = handle_picked(single_broker, action=Action.DELETE, pick=pick("archived", "t1", "t2"))

    assert handled.affected == 1
    amended = AuditRecord.objects.get(action="queue.amended")
    assert json.loads(amended.changes)["outcome"]["new"] == "not done to t2"


def test_nothing_done_leaves_no_record(single_broker: Broker) -> None:
    handle_picked(single_broker, action=Action.DELETE, pick=pick("pending", "gone"))

    assert recorded() == []


def test_tasks_that_run_are_asked_to_stop(single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1", "t2")
    put_in(single_broker, "completed", "t3")

    handled = cancel_picked(single_broker, pick=pick("active", "t1", "t2", "t3", "gone"))

    assert (handled.matched, handled.affected) == (4, 2)
    assert {"cancel" in fields(single_broker, task_id, "simple") for task_id in ("t1", "t2")} == {True}
    assert recorded() == [("tasks.canceled", "simple", ["t1", "t2"])]


@pytest.mark.parametrize("task_ids", [(), tuple(f"t{n}" for n in range(MOST_PICKED + 1))])
def test_no_tasks_and_too_many_are_refused(single_broker: Broker, task_ids: tuple[str, ...]) -> None:
    with pytest.raises(RequestInvalid):
        handle_picked(single_broker, action=Action.RUN, pick=pick("archived", *task_ids))


def test_an_unknown_queue_is_refused(single_broker: Broker) -> None:
    with pytest.raises(QueueNotFound):
        cancel_picked(single_broker, pick=pick("active", "t1", queue="nope"))


def test_a_pick_may_spell_its_queue_in_any_way(client: ApiClient, single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1", queue="inference_high")

    assert handle_picked(
        single_broker, action=Action.ARCHIVE, pick=pick("pending", "t1", queue="inference.high")
    ).affected
