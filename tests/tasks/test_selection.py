"""Actions on selected tasks."""

import json

import pytest

from runqy.broker.broker import Broker
from runqy.broker.keys import lookup
from runqy.broker.request import Request
from runqy.broker.states import TaskState
from runqy.errors import QueueNotFound, RequestInvalid, TaskStateUnsuited
from tasks.actions import (
    MAX_SELECTED,
    VALID_STATES,
    TaskAction,
    TaskSelection,
    apply_action,
    apply_to_selected,
)
from tests.support.audit import audit_records
from tests.support.redis_client import redis_of
from tests.support.tasks import fields, listed
from tests.tasks.task_helpers import put_in

pytestmark = pytest.mark.usefixtures("queues")


def select(state: str, *task_ids: str, queue: str = "simple") -> TaskSelection:
    return TaskSelection(queue=queue, state=TaskState(state), task_ids=task_ids)


def recorded() -> list[tuple[str, str, list[str]]]:
    """Return the audit records: actions, objects and the tasks' ids."""
    rows = audit_records().filter(action__startswith="tasks.").order_by("number")
    return [(row.action, row.object_name, json.loads(row.changes)["ids"]["old"]) for row in rows]


@pytest.mark.parametrize(
    ("action", "state"), [(action, state.value) for action in TaskAction for state in VALID_STATES[action]]
)
def test_actions_apply_in_the_states_that_allow_them(single_broker: Broker, action: TaskAction, state: str) -> None:
    put_in(single_broker, state, "t1")

    assert apply_to_selected(single_broker, action=action, selection=select(state, "t1")).affected == 1


@pytest.mark.parametrize(
    ("action", "state"),
    [("run", "active"), ("run", "pending"), ("archive", "active"), ("archive", "completed"), ("delete", "active")],
)
def test_actions_are_refused_in_other_states(single_broker: Broker, action: str, state: str) -> None:
    put_in(single_broker, state, "t1")

    with pytest.raises(TaskStateUnsuited):
        apply_to_selected(single_broker, action=TaskAction(action), selection=select(state, "t1"))


def test_only_selected_tasks_change_and_one_record_names_them(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")

    result = apply_to_selected(single_broker, action=TaskAction.RUN, selection=select("archived", "t3", "t1", "t3"))

    assert (result.queue, result.matched, result.affected) == ("simple", 2, 2)
    assert listed(single_broker, "simple") == {"pending": ["t3", "t1"], "archived": ["t2"]}
    assert recorded() == [("tasks.run", "simple", ["t3", "t1"])]


def test_tasks_that_left_the_state_do_not_change(single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    put_in(single_broker, "pending", "t2")

    result = apply_to_selected(
        single_broker, action=TaskAction.DELETE, selection=select("archived", "t1", "t2", "gone")
    )

    assert (result.matched, result.affected) == (3, 1)
    assert listed(single_broker, "simple") == {"pending": ["t2"]}
    assert recorded() == [("tasks.deleted", "simple", ["t1"])]


def test_a_deleted_task_is_not_found_by_its_id(single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1")

    apply_to_selected(single_broker, action=TaskAction.DELETE, selection=select("pending", "t1"))

    assert not redis_of(single_broker).exists(lookup("t1"))


def test_tasks_that_move_concurrently_are_not_counted(single_broker: Broker, monkeypatch) -> None:
    put_in(single_broker, "archived", "t1", "t2")
    stale = Request((), lambda _: [TaskState.ARCHIVED, TaskState.ARCHIVED])
    monkeypatch.setattr("tasks.actions.read_states", lambda *_: stale)
    apply_action(single_broker, action=TaskAction.RUN, queue="simple", task_id="t2")

    result = apply_to_selected(single_broker, action=TaskAction.DELETE, selection=select("archived", "t1", "t2"))

    assert (result.matched, result.affected) == (2, 1)


def test_a_task_that_leaves_its_worker_concurrently_is_not_cancelled(single_broker: Broker, monkeypatch) -> None:
    put_in(single_broker, "active", "t1")
    put_in(single_broker, "retry", "t2")
    monkeypatch.setattr("tasks.actions.read_states", lambda *_: Request((), lambda _: [TaskState.ACTIVE] * 2))

    result = apply_to_selected(single_broker, action=TaskAction.CANCEL, selection=select("active", "t1", "t2"))

    assert (result.matched, result.affected) == (2, 1)
    assert listed(single_broker, "simple") == {"active": ["t1"], "lease": ["t1"], "retry": ["t2"]}


def test_an_action_on_no_tasks_leaves_no_record(single_broker: Broker) -> None:
    apply_to_selected(single_broker, action=TaskAction.DELETE, selection=select("pending", "gone"))

    assert recorded() == []


def test_active_tasks_are_cancelled_by_their_workers(single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1", "t2")
    put_in(single_broker, "completed", "t3")

    result = apply_to_selected(
        single_broker, action=TaskAction.CANCEL, selection=select("active", "t1", "t2", "t3", "gone")
    )

    assert (result.matched, result.affected) == (4, 2)
    assert {"cancel" in fields(single_broker, task_id, "simple") for task_id in ("t1", "t2")} == {True}
    assert recorded() == [("tasks.canceled", "simple", ["t1", "t2"])]


@pytest.mark.parametrize("task_ids", [(), tuple(f"t{n}" for n in range(MAX_SELECTED + 1))])
def test_empty_and_oversized_selections_are_refused(single_broker: Broker, task_ids: tuple[str, ...]) -> None:
    with pytest.raises(RequestInvalid):
        apply_to_selected(single_broker, action=TaskAction.RUN, selection=select("archived", *task_ids))


def test_as_many_tasks_as_are_allowed_can_be_selected(single_broker: Broker) -> None:
    selection = select("archived", *(f"t{n}" for n in range(MAX_SELECTED)))

    assert apply_to_selected(single_broker, action=TaskAction.RUN, selection=selection).matched == MAX_SELECTED


def test_an_unknown_queue_is_refused(single_broker: Broker) -> None:
    with pytest.raises(QueueNotFound):
        apply_to_selected(single_broker, action=TaskAction.CANCEL, selection=select("active", "t1", queue="nope"))


def test_a_selection_may_name_its_queue_in_any_spelling(single_broker: Broker) -> None:
    put_in(single_broker, "pending", "t1", queue="inference_high")

    assert apply_to_selected(
        single_broker, action=TaskAction.ARCHIVE, selection=select("pending", "t1", queue="inference.high")
    ).affected
