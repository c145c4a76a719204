"""Actions on tasks in the admin."""

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from tests.support.audit import audit_records
from tests.support.tasks import fields, listed, put
from tests.tasks.admin.pages import BULK, LIST, action_url, change, text
from tests.tasks.task_helpers import put_in

CONFIRMED = "confirmed"


def recorded() -> list[tuple[str, str, str]]:
    """Return the audit records about tasks: actor, action, object."""
    rows = audit_records().filter(action__startswith="task").order_by("number")
    return [(row.actor_name, row.action, row.object_name) for row in rows]


@pytest.mark.parametrize(
    ("action", "state", "new_state"),
    [("run", "archived", "pending"), ("run", "scheduled", "pending"), ("archive", "pending", "archived")],
)
def test_run_and_archive_need_no_confirmation(
    operator: Client, single_broker: Broker, action: str, state: str, new_state: str
) -> None:
    put_in(single_broker, state, "t1")

    response = operator.post(action_url("t1"), {"action": action}, follow=True)

    assert response.redirect_chain == [(change("t1"), 302)]
    assert {"run": "put back on the queue", "archive": "The task was archived."}[action] in text(response)
    assert listed(single_broker, "simple") == {new_state: ["t1"]}
    past = {"run": "task.run", "archive": "task.archived"}[action]
    assert recorded() == [("the-operator", past, "t1")]


@pytest.mark.parametrize("action", ["cancel", "delete"])
def test_cancel_and_delete_need_confirmation(operator: Client, single_broker: Broker, action: str) -> None:
    put_in(single_broker, "pending", "t1")

    response = operator.post(action_url("t1"), {"action": action})

    assert f"{action.capitalize()} task t1?" in text(response)
    assert f"Yes, {action}" in text(response)
    assert (listed(single_broker, "simple"), recorded()) == ({"pending": ["t1"]}, [])


def test_deleting_a_task_redirects_to_the_list_of_its_state(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")

    response = operator.post(action_url("t1"), {"action": "delete", CONFIRMED: "yes"}, follow=True)

    assert response.redirect_chain == [(f"{LIST}?queue=simple&state=archived", 302)]
    assert "The task t1 was deleted." in text(response)
    assert listed(single_broker, "simple") == {}
    assert recorded() == [("the-operator", "task.deleted", "t1")]


def test_an_active_task_is_cancelled_by_its_worker(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1")

    response = operator.post(action_url("t1"), {"action": "cancel", CONFIRMED: "yes"}, follow=True)

    assert "Cancellation requested." in text(response)
    assert "cancel" in fields(single_broker, "t1", "simple")


def test_the_task_of_the_page_is_cancelled_where_another_queue_has_its_id(
    operator: Client, single_broker: Broker
) -> None:
    put(single_broker, "t1", queue="simple")
    put(single_broker, "t1", queue="image")

    operator.post(action_url("t1", "simple"), {"action": "cancel", CONFIRMED: "yes"})

    assert listed(single_broker, "simple") == {"archived": ["t1"]}
    assert listed(single_broker, "image") == {"pending": ["t1"]}


@pytest.mark.parametrize(
    ("action", "state", "expected"),
    [
        ("delete", "active", "The task is running; cancel it first."),
        ("cancel", "completed", "The task has already finished: it is completed."),
        ("archive", "completed", "The action is not allowed for a task in the state completed."),
    ],
)
def test_an_action_that_the_state_does_not_allow_shows_an_error(
    operator: Client, single_broker: Broker, action: str, state: str, expected: str
) -> None:
    put_in(single_broker, state, "t1")

    response = operator.post(action_url("t1"), {"action": action, CONFIRMED: "yes"}, follow=True)

    assert expected in text(response)
    assert recorded() == []


def test_invalid_forms_are_refused(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")

    assert operator.post(action_url("t1"), {"action": "explode"}).status_code == 400
    assert operator.post(BULK, {"action": "delete", "queue": "simple", "state": "odd", "id": "t1"}).status_code == 400
    assert operator.post(BULK, {"action": "run", "queue": "nope", "state": "archived", "id": "t1"}).status_code == 404
    assert (
        operator.post(BULK, {"action": "archive", "queue": "simple", "state": "archived", "id": "t1"}).status_code
        == 400
    )


def test_a_form_from_another_site_is_refused(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    operator.handler.enforce_csrf_checks = True

    assert operator.post(action_url("t1"), {"action": "run"}).status_code == 403
    assert operator.post(BULK, {"action": "run", "queue": "simple", "state": "archived", "id": "t1"}).status_code == 403
    assert listed(single_broker, "simple") == {"archived": ["t1"]}


def test_selected_tasks_are_put_back_on_the_queue(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")

    form = {"action": "run", "queue": "simple", "state": "archived", "id": ["t1", "t3"]}
    response = operator.post(BULK, form, follow=True)

    assert response.redirect_chain == [(f"{LIST}?queue=simple&state=archived", 302)]
    assert "2 tasks put back on the queue." in text(response)
    assert listed(single_broker, "simple") == {"pending": ["t1", "t3"], "archived": ["t2"]}
    assert recorded() == [("the-operator", "tasks.run", "simple")]


def test_selected_tasks_are_deleted_after_confirmation(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")
    form = {"action": "delete", "queue": "simple", "state": "archived", "id": ["t1", "t3"]}

    page = operator.post(BULK, form)
    assert "Delete 2 tasks?" in text(page)
    assert listed(single_broker, "simple") == {"archived": ["t1", "t2", "t3"]}
    pairs = page.context["fields"]
    confirmed = {name: [value for other, value in pairs if other == name] for name, _ in pairs}
    response = operator.post(BULK, confirmed, follow=True)

    assert "2 tasks deleted." in text(response)
    assert listed(single_broker, "simple") == {"archived": ["t2"]}


def test_selected_active_tasks_are_cancelled_by_their_workers(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1", "t2")

    form = {"action": "cancel", "queue": "simple", "state": "active", "id": ["t1", "t2"], CONFIRMED: "yes"}
    response = operator.post(BULK, form, follow=True)

    assert "2 tasks cancelled or being stopped by their workers." in text(response)
    assert recorded() == [("the-operator", "tasks.canceled", "simple")]


def test_selected_tasks_that_changed_state_are_reported(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    put_in(single_broker, "pending", "t2")

    form = {"action": "run", "queue": "simple", "state": "archived", "id": ["t1", "t2"]}
    response = operator.post(BULK, form, follow=True)

    assert "1 task put back on the queue; 1 unchanged: no longer archived" in text(response)


def test_an_empty_selection_is_reported(operator: Client) -> None:
    response = operator.post(BULK, {"action": "run", "queue": "simple", "state": "archived"}, follow=True)

    assert "No tasks selected." in text(response)
