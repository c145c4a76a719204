"""The form that enqueues a test task."""

import threading

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from tests.support.audit import audit_records
from tests.support.tasks import listed, message, take
from tests.support.waiting import PATIENCE_S, wait_until
from tests.tasks.admin.pages import LIST, text
from tests.tasks.task_helpers import fail_for_good, succeed

ADD = f"{LIST}add/"


@pytest.fixture(autouse=True)
def _waits_briefly(monkeypatch) -> None:
    monkeypatch.setattr("tasks.admin.enqueue_forms.WAIT_S", 0.2)


def test_the_form_starts_with_an_example_of_the_queues_schema(operator: Client) -> None:
    response = operator.get(f"{ADD}?queue=image")

    assert response.context["form"]["payload"].value() == '{\n  "prompt": "text",\n  "width": 512\n}'
    assert "What to draw" in text(response)
    assert "inference_high" in text(response)
    assert ">off<" not in text(response)


def test_a_payload_is_enqueued_unchanged_and_recorded(operator: Client, single_broker: Broker) -> None:
    payload = '{\r\n  "n": 9007199254740993, "b": 1.50,\r\n "a": "é"}'

    response = operator.post(ADD, {"queue": "simple", "payload": payload}, follow=True)

    (task_id,) = listed(single_broker, "simple")["pending"]
    assert message(single_broker, task_id, "simple").payload.decode() == payload.replace("\r\n", "  ")
    assert response.redirect_chain == [(f"{LIST}{task_id}/change/?queue=simple", 302)]
    assert "No worker started the task within" in text(response)
    row = audit_records().get(action="task.created")
    assert (row.actor_name, row.object_name) == ("the-operator", task_id)
    assert message(single_broker, task_id, "simple").headers["x-request-id"] == row.request_id


@pytest.mark.parametrize(
    ("succeeds", "expected"),
    [(True, "The task was enqueued and completed."), (False, "The task was enqueued and failed")],
)
def test_the_result_is_waited_for(
    operator: Client, single_broker: Broker, monkeypatch, succeeds: bool, expected: str
) -> None:
    monkeypatch.setattr("tasks.admin.enqueue_forms.WAIT_S", 2 * PATIENCE_S)

    def work() -> None:
        taken: list = []
        wait_until(lambda: taken.extend(take(single_broker, 1, "simple")) or bool(taken))
        if succeeds:
            succeed(single_broker, taken[0], b'{"answer":42}')
        else:
            fail_for_good(single_broker, taken[0], "boom")

    worker = threading.Thread(target=work)
    worker.start()
    response = operator.post(ADD, {"queue": "simple", "payload": "{}"}, follow=True)
    worker.join()

    assert expected in text(response)
    assert ("&quot;answer&quot;: 42" if succeeds else "boom") in text(response)


@pytest.mark.parametrize(
    ("queue", "payload", "expected"),
    [
        ("simple", '{"a": 1', "Must be JSON"),
        ("image", "[1]", "data: Must be an object, because the queue has a payload schema"),
        ("simple", "", "This field is required"),
        ("image", '{"width": "wide"}', "prompt: This field is required."),
        ("image", '{"width": "wide"}', "width: Must be int, is string"),
        ("off", "{}", "is not one of the available choices"),
        ("nope", "{}", "is not one of the available choices"),
    ],
)
def test_an_invalid_form_shows_its_errors_and_keeps_the_payload(
    operator: Client, single_broker: Broker, queue: str, payload: str, expected: str
) -> None:
    response = operator.post(ADD, {"queue": queue, "payload": payload})

    assert response.status_code == 200
    assert expected in text(response)
    assert response.context["form"]["payload"].value() == payload
    assert listed(single_broker, queue) == {}
    assert not audit_records().filter(action="task.created").exists()
