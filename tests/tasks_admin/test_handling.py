"""Running, cancelling, archiving and deleting tasks from their pages."""

import json

import pytest
from django.test import Client

from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from tasks import handling
from tests.support.tasks import fields, listed, put
from tests.tasks.life import put_in
from tests.tasks_admin.reading import BULK, LIST, change, handle, text

DONE = "confirmed"


def recorded() -> list[tuple[str, str, str]]:
    """Return what the audit says about tasks: actor, action, object."""
    rows = AuditRecord.objects.filter(action__startswith="task").order_by("number")
    return [(row.actor_name, row.action, row.object_name) for row in rows]


@pytest.mark.parametrize(
    ("deed", "state", "became"),
    [("run", "archived", "pending"), ("run", "scheduled", "pending"), ("archive", "pending", "archived")],
)
def test_what_can_be_undone_is_done_at_once(
    operator: Client, single_broker: Broker, deed: str, state: str, became: str
) -> None:
    put_in(single_broker, state, "t1")

    answer = operator.post(handle("t1"), {"deed": deed}, follow=True)

    assert answer.redirect_chain == [(change("t1"), 302)]
    assert {"run": "put back on the queue", "archive": "The task was archived."}[deed] in text(answer)
    assert listed(single_broker, "simple") == {became: ["t1"]}
    past = {"run": "task.run", "archive": "task.archived"}[deed]
    assert recorded() == [("the-operator", past, "t1")]


@pytest.mark.parametrize("deed", ["cancel", "delete"])
def test_what_destroys_is_asked_for_first(operator: Client, single_broker: Broker, deed: str) -> None:
    put_in(single_broker, "pending", "t1")

    answer = operator.post(handle("t1"), {"deed": deed})

    assert f"{deed.capitalize()} the task t1?" in text(answer)
    assert f"Yes, {deed}" in text(answer)
    assert (listed(single_broker, "simple"), recorded()) == ({"pending": ["t1"]}, [])


def test_a_deleted_task_leads_back_to_the_list_of_its_state(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")

    answer = operator.post(handle("t1"), {"deed": "delete", DONE: "yes"}, follow=True)

    assert answer.redirect_chain == [(f"{LIST}?queue=simple&state=archived", 302)]
    assert "The task t1 was deleted." in text(answer)
    assert listed(single_broker, "simple") == {}
    assert recorded() == [("the-operator", "task.deleted", "t1")]


def test_a_running_task_is_told_to_stop(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1")

    answer = operator.post(handle("t1"), {"deed": "cancel", DONE: "yes"}, follow=True)

    assert "Its worker was told to stop the task." in text(answer)
    assert "cancel" in fields(single_broker, "t1", "simple")


def test_the_task_of_the_page_is_cancelled_where_another_queue_has_its_id(
    operator: Client, single_broker: Broker
) -> None:
    put(single_broker, "t1", queue="simple")
    put(single_broker, "t1", queue="image")

    operator.post(handle("t1", "simple"), {"deed": "cancel", DONE: "yes"})

    assert listed(single_broker, "simple") == {"archived": ["t1"]}
    assert listed(single_broker, "image") == {"pending": ["t1"]}


@pytest.mark.parametrize(
    ("deed", "state", "said"),
    [
        ("delete", "active", "The task runs; cancel it first."),
        ("cancel", "completed", "The task is over: it is completed."),
        ("archive", "completed", "This cannot be done to a task that is completed."),
    ],
)
def test_what_the_state_does_not_allow_any_more_is_said(
    operator: Client, single_broker: Broker, deed: str, state: str, said: str
) -> None:
    put_in(single_broker, state, "t1")

    answer = operator.post(handle("t1"), {"deed": deed, DONE: "yes"}, follow=True)

    assert said in text(answer)
    assert recorded() == []


def test_nonsense_is_refused(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")

    assert operator.post(handle("t1"), {"deed": "explode"}).status_code == 400
    assert operator.post(BULK, {"deed": "delete", "queue": "simple", "state": "odd", "id": "t1"}).status_code == 400
    assert operator.post(BULK, {"deed": "run", "queue": "nope", "state": "archived", "id": "t1"}).status_code == 404
    assert (
        operator.post(BULK, {"deed": "archive", "queue": "simple", "state": "archived", "id": "t1"}).status_code == 400
    )


def test_a_form_from_another_site_is_refused(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    operator.handler.enforce_csrf_checks = True

    assert operator.post(handle("t1"), {"deed": "run"}).status_code == 403
    assert operator.post(BULK, {"deed": "run", "queue": "simple", "state": "archived", "id": "t1"}).status_code == 403
    assert listed(single_broker, "simple") == {"archived": ["t1"]}


def test_picked_tasks_are_put_back_on_the_queue(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")

    form = {"deed": "run", "queue": "simple", "state": "archived", "id": ["t1", "t3"]}
    answer = operator.post(BULK, form, follow=True)

    assert answer.redirect_chain == [(f"{LIST}?queue=simple&state=archived", 302)]
    assert "2 tasks put back on the queue." in text(answer)
    assert listed(single_broker, "simple") == {"pending": ["t1", "t3"], "archived": ["t2"]}
    assert recorded() == [("the-operator", "tasks.run", "simple")]


def test_picked_tasks_are_deleted_after_a_question_that_keeps_them(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")
    form = {"deed": "delete", "queue": "simple", "state": "archived", "id": ["t1", "t3"]}

    question = operator.post(BULK, form)
    assert "Delete 2 tasks?" in text(question)
    assert listed(single_broker, "simple") == {"archived": ["t1", "t2", "t3"]}
    asked = question.context["fields"]
    again = {name: [value for other, value in asked if other == name] for name, _ in asked}
    answer = operator.post(BULK, again, follow=True)

    assert "2 tasks deleted." in text(answer)
    assert listed(single_broker, "simple") == {"archived": ["t2"]}


def test_picked_tasks_that_run_are_told_to_stop(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1", "t2")

    form = {"deed": "cancel", "queue": "simple", "state": "active", "id": ["t1", "t2"], DONE: "yes"}
    answer = operator.post(BULK, form, follow=True)

    assert "2 tasks cancelled or told to stop." in text(answer)
    assert recorded() == [("the-operator", "tasks.canceled", "simple")]


def test_those_that_moved_meanwhile_are_told_of(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    put_in(single_broker, "pending", "t2")

    form = {"deed": "run", "queue": "simple", "state": "archived", "id": ["t1", "t2"]}
    answer = operator.post(BULK, form, follow=True)

    assert "1 task put back on the queue; 1 left as they were: no longer archived" in text(answer)


def test_nothing_picked_is_said(operator: Client) -> None:
    answer = operator.post(BULK, {"deed": "run", "queue": "simple", "state": "archived"}, follow=True)

    assert "No task is selected: tick some first." in text(answer)


def test_all_of_a_state_are_counted_before_it_is_done(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", *(f"t{number}" for number in range(12)))
    form = {"deed": "run", "queue": "simple", "state": "archived", "scope": "all"}

    question = text(operator.post(BULK, form))
    assert "Run now all 12 tasks?" in question
    assert len(listed(single_broker, "simple")["archived"]) == 12
    answer = operator.post(BULK, form | {DONE: "yes"}, follow=True)

    assert "12 tasks put back on the queue." in text(answer)
    assert list(listed(single_broker, "simple")) == ["pending"]
    row = AuditRecord.objects.get(action="tasks.run")
    assert (row.actor_name, json.loads(row.changes)["tasks"]["old"]) == ("the-operator", 12)


def test_a_question_about_nothing_says_so(operator: Client) -> None:
    form = {"deed": "delete", "queue": "simple", "state": "archived", "scope": "all"}

    assert "There is nothing left to do" in text(operator.post(BULK, form))


def test_more_than_are_done_at_once_are_told_of(operator: Client, single_broker: Broker, monkeypatch) -> None:
    put_in(single_broker, "pending", *(f"t{number}" for number in range(5)))
    monkeypatch.setattr("tasks.admin.bulk.MOST_AT_ONCE", 3)
    monkeypatch.setattr(handling.Selection, "__init__", _at_most_three(handling.Selection.__init__))
    form = {"deed": "archive", "queue": "simple", "state": "pending", "scope": "all"}

    assert "At most 3 are done at once" in text(operator.post(BULK, form))
    answer = operator.post(BULK, form | {DONE: "yes"}, follow=True)

    assert "3 tasks archived; 2 are left. Do it again for the next 3." in text(answer)
    assert listed(single_broker, "simple")["pending"] == ["t3", "t4"]


def _at_most_three(make):
    """Return what makes a selection of three tasks."""
    return lambda self, **facts: make(self, **facts | {"most": 3})


def test_all_running_tasks_cannot_be_cancelled_at_once(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "active", "t1")

    form = {"deed": "cancel", "queue": "simple", "state": "active", "scope": "all", DONE: "yes"}

    assert operator.post(BULK, form).status_code == 400
    assert "cancel" not in fields(single_broker, "t1", "simple")
