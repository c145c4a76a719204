"""A task's past on its page, and running it again as a new task."""

import re
from dataclasses import replace

import pytest
from django.test import Client
from django.utils.html import escape

from queues.models import QueueSource
from queues.operations import save_queue
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.finish import archive
from tasks.actions import TaskAction, apply_action
from tasks.duties import Forwarder
from tasks.history.record import RunRecorder
from tasks.models import TaskCopy
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.staff import staff_client
from tests.support.tasks import listed, message, put, take_one
from tests.tasks.admin.pages import BULK, LIST, change, text
from tests.tasks.task_helpers import put_in, succeed


def again(task_id: str, queue: str = "simple") -> str:
    return f"{LIST}{task_id}/run-again/?queue={queue}"


def test_a_page_shows_the_attempts_and_how_each_ended(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "completed", "t1")
    insert_runs(
        make_failure("ValueError: first", task_id="t1", run_id="r1", outcome=RunOutcome.RETRIED, is_final=False),
        make_run(task_id="t1", run_id="r2", attempt=2, worker_id="w9", commit="abc123"),
        queue="simple",
    )

    content = text(viewer.get(change("t1")))

    assert re.findall(r"Attempt \d", content) == ["Attempt 1", "Attempt 2"]
    assert "Failed, retried" in content
    assert "ValueError: first" in content
    assert "w9" in content
    assert "in 1.00 s" in content


def test_a_completed_task_shows_no_error_as_if_it_had_failed(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "retry", "t1")
    redis_of(single_broker).zadd("asynq:{simple}:retry", {"t1": 1})
    Forwarder().run_tick(single_broker)
    succeed(single_broker, take_one(single_broker, "simple"), b"1")

    response = viewer.get(change("t1"))

    assert response.context["task"].state == "completed"
    assert "boom" not in text(response)


def test_a_task_that_redis_has_no_more_keeps_its_page(viewer: Client, operator: Client) -> None:
    insert_runs(make_failure("ValueError: it broke", task_id="t1", payload=b'{"order":{"id":17}}'), queue="simple")

    content = text(viewer.get(change("t1")))

    assert "Redis no longer has this task" in content
    assert "ValueError: it broke" in content
    assert "curl -X POST" in content
    assert "Run again" not in content
    assert "Run again" in text(operator.get(change("t1")))
    assert viewer.get(f"{LIST}t1/change/").status_code == 200
    assert viewer.get(change("t1", "image")).status_code == 404


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (
            f"Traceback (most recent call last):\n{'  x' * 900}\nValueError: no",
            "An excerpt: the history keeps only the end of a long traceback",
        ),
        (f"ValueError: {'x' * 900}", "An excerpt: the history keeps the first 700 bytes of a long message."),
        ("Traceback (most recent call last):\n  x\nValueError: no", ""),
    ],
)
def test_an_error_of_which_the_history_has_a_part_is_marked(
    viewer: Client, single_broker: Broker, error: str, note: str
) -> None:
    for task_id in ("gone", "kept"):
        put(single_broker, task_id, queue="simple")
        taken = take_one(single_broker, "simple")
        single_broker.run(archive(taken.lease, taken.message, error=error, now_ns=single_broker.now_ns()))
    RunRecorder().record_all(single_broker, ("simple",), get_fresh_catalog())
    apply_action(single_broker, action=TaskAction.DELETE, queue="simple", task_id="gone")

    pages = [text(viewer.get(change(task_id))) for task_id in ("gone", "kept")]

    assert [page.count("An excerpt") for page in pages] == ([2, 1] if note else [0, 0])
    assert all(note in page for page in pages)
    assert escape(error) in pages[1]


def test_a_payload_that_the_history_does_not_have_is_explained(operator: Client) -> None:
    save_queue(
        spec=spec("secretive", deployment=replace(spec().deployment, hide_payloads=True)), source=QueueSource.API
    )
    insert_runs(make_run(task_id="t1", payload=None), queue="secretive")
    insert_runs(
        make_run(task_id="t2", payload=b'{"text":"an exce'), make_run(task_id="t3", payload=None), queue="simple"
    )

    assert "Hidden: the history keeps no payloads" in text(operator.get(change("t1", "secretive")))
    assert "An excerpt" in text(operator.get(change("t2")))
    assert "The history has no payload of this task." in text(operator.get(change("t3")))


def test_values_are_shown_as_they_were_sent(viewer: Client, single_broker: Broker) -> None:
    payload = (
        b'{"big":9007199254740993,"float":1.0,"same":1,"same":2,"list":[],"html":"<b>","deep":{"a":[1,{"b":null}]}}'
    )
    put(single_broker, "t1", queue="simple", payload=payload)

    tree = text(viewer.get(change("t1"))).partition('id="payload-tree"')[2].partition("<pre")[0]

    values = re.findall(r'page-tree-value is-(\w+)">([^<]*)<', tree)
    assert values == [
        ("number", "9007199254740993"),
        ("number", "1.0"),
        ("number", "1"),
        ("number", "2"),
        ("string", "&lt;b&gt;"),
        ("number", "1"),
        ("literal", "null"),
    ]


@pytest.mark.parametrize("is_in_redis", [True, False])
def test_a_task_runs_again_with_an_edited_payload(operator: Client, single_broker: Broker, is_in_redis: bool) -> None:
    if is_in_redis:
        put_in(single_broker, "archived", "t1", payload=b'{"n":1}', max_retry=7)
    else:
        insert_runs(make_failure(task_id="t1", payload=b'{"n":1}'), queue="simple")

    form = text(operator.get(again("t1")))
    response = operator.post(again("t1"), {"payload": '{"n": 2}'}, follow=True)

    copy = TaskCopy.objects.get()
    assert "&quot;n&quot;: 1" in form
    assert response.redirect_chain == [(change(copy.copy_id), 302)]
    assert message(single_broker, copy.copy_id, "simple").payload == b'{"n": 2}'
    assert listed(single_broker, "simple")["pending"] == [copy.copy_id]
    assert ("archived" in listed(single_broker, "simple")) == is_in_redis
    assert copy.is_edited
    assert 'Copy of</dt><dd><a class="page-link page-mono" href="/admin/tasks/task/t1/' in text(response)
    assert copy.copy_id in text(operator.get(change("t1")))
    record = audit_records().get(action="task.copied")
    assert (record.object_name, copy.copy_id in record.changes) == ("t1", True)
    assert '"payload":"changed"' in record.changes
    assert '"n"' not in record.changes


def test_a_copy_that_is_gone_has_no_link(operator: Client, single_broker: Broker) -> None:
    insert_runs(make_failure(task_id="t1", payload=b'{"n":1}'), queue="simple")
    operator.post(again("t1"))
    copy_id = TaskCopy.objects.get().copy_id
    link = f'href="{change(copy_id)}"'
    assert link in text(operator.get(change("t1")))

    apply_action(single_broker, action=TaskAction.DELETE, queue="simple", task_id=copy_id)

    page = text(operator.get(change("t1")))
    assert (copy_id in page, link in page) == (True, False)
    assert "neither Redis nor the history has it" in page
    insert_runs(make_run(task_id=copy_id), queue="simple")
    assert link in text(operator.get(change("t1")))


def test_a_task_runs_again_unchanged_at_one_click(operator: Client, single_broker: Broker) -> None:
    insert_runs(make_failure(task_id="t1", payload=b'{"n":1}'), queue="simple")

    operator.post(again("t1"))

    copy = TaskCopy.objects.get()
    assert message(single_broker, copy.copy_id, "simple").payload == b'{"n":1}'
    assert not copy.is_edited


@pytest.mark.parametrize(
    ("queue", "payload", "error"),
    [
        ("simple", '{"n": ', "Must be JSON"),
        ("image", '{"width": 3}', "prompt: This field is required."),
        ("off", "{}", "is disabled"),
        ("gone", "{}", "No queue"),
    ],
)
def test_a_payload_that_the_queue_does_not_accept_is_refused(
    operator: Client, single_broker: Broker, queue: str, payload: str, error: str
) -> None:
    insert_runs(make_failure(task_id="t1", payload=b'{"n":1}'), queue=queue)

    response = operator.post(again("t1", queue), {"payload": payload})

    assert response.status_code == 200
    assert error in text(response)
    assert listed(single_broker, queue) == {}
    assert not TaskCopy.objects.exists()


def test_a_payload_that_was_not_kept_in_full_has_to_be_entered(operator: Client) -> None:
    insert_runs(make_failure(task_id="t1", payload=b'{"text":"an exce'), queue="simple")

    assert "not kept in full" in text(operator.get(again("t1")))
    assert operator.post(again("t1")).status_code == 409


@pytest.mark.parametrize("role", ["viewer", "configurator"])
def test_only_operators_run_a_task_again(role: str) -> None:
    insert_runs(make_failure(task_id="t1", payload=b"{}"), queue="simple")
    staff = staff_client(role)

    assert (staff.get(again("t1")).status_code, staff.post(again("t1")).status_code) == (403, 403)


def test_the_page_of_a_task_has_the_audit_records_that_name_it(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")
    operator.post(BULK, {"action": "run", "queue": "simple", "state": "archived", "id": ["t1", "t3"]})
    audit_records()

    assert "tasks.run" in text(operator.get(change("t1")))
    assert "tasks.run" not in text(operator.get(change("t2")))
