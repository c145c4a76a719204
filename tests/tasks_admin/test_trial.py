"""Putting a task on a queue to see what becomes of it."""

import threading

import pytest
from django.test import Client

from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from tests.support.tasks import listed, message, take
from tests.support.waiting import wait_until
from tests.tasks.life import fail_for_good, succeed
from tests.tasks_admin.reading import LIST, text

ADD = f"{LIST}add/"


@pytest.fixture(autouse=True)
def _waits_briefly(monkeypatch) -> None:
    monkeypatch.setattr("tasks.admin.trial.WAIT_S", 0.2)


def test_the_form_begins_with_an_example_of_the_queues_schema(operator: Client) -> None:
    shown = operator.get(f"{ADD}?queue=image")

    assert shown.context["form"]["payload"].value() == '{\n  "prompt": "text",\n  "width": 512\n}'
    assert "What to draw" in text(shown)
    assert "inference_high" in text(shown)
    assert ">off<" not in text(shown)


def test_a_task_is_queued_as_it_was_written_and_recorded(operator: Client, single_broker: Broker) -> None:
    payload = '{\r\n  "n": 9007199254740993, "b": 1.50,\r\n "a": "é"}'

    answer = operator.post(ADD, {"queue": "simple", "payload": payload}, follow=True)

    (task_id,) = listed(single_broker, "simple")["pending"]
    assert message(single_broker, task_id, "simple").payload.decode() == payload.replace("\r\n", "  ")
    assert answer.redirect_chain == [(f"{LIST}{task_id}/change/?queue=simple", 302)]
    assert "The task was queued, but no worker took it within" in text(answer)
    row = AuditRecord.objects.get(action="task.created")
    assert (row.actor_name, row.object_name) == ("the-operator", task_id)
    assert message(single_broker, task_id, "simple").headers["x-request-id"] == row.request_id


@pytest.mark.parametrize(("ends_well", "said"), [(True, "it succeeded"), (False, "it failed for good")])
def test_its_result_is_waited_for(
    operator: Client, single_broker: Broker, monkeypatch, ends_well: bool, said: str
) -> None:
    monkeypatch.setattr("tasks.admin.trial.WAIT_S", 20)

    def work() -> None:
        taken: list = []
        wait_until(lambda: taken.extend(take(single_broker, 1, "simple")) or bool(taken))
        if ends_well:
            succeed(single_broker, taken[0], b'{"answer":42}')
        else:
            fail_for_good(single_broker, taken[0], "boom")

    worker = threading.Thread(target=work)
    worker.start()
    answer = operator.post(ADD, {"queue": "simple", "payload": "{}"}, follow=True)
    worker.join()

    assert said in text(answer)
    assert ("&quot;answer&quot;: 42" if ends_well else "boom") in text(answer)


@pytest.mark.parametrize(
    ("queue", "payload", "said"),
    [
        ("simple", '{"a": 1', "This is no JSON object"),
        ("simple", "[1]", "This is no JSON object"),
        ("simple", "", "This field is required"),
        ("image", '{"width": "wide"}', "prompt: is required"),
        ("image", '{"width": "wide"}', "width: must be int, is string"),
        ("off", "{}", "is not one of the available choices"),
        ("nope", "{}", "is not one of the available choices"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_lost(
    operator: Client, single_broker: Broker, queue: str, payload: str, said: str
) -> None:
    answer = operator.post(ADD, {"queue": queue, "payload": payload})

    assert answer.status_code == 200
    assert said in text(answer)
    assert answer.context["form"]["payload"].value() == payload
    assert listed(single_broker, queue) == {}
    assert not AuditRecord.objects.filter(action="task.created").exists()
