"""Bulk actions and groups of errors in the admin: preview, request, progress, cancelling."""

import re
import time
from dataclasses import replace

import pytest
from django.contrib.auth.models import Group, Permission
from django.test import Client

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tasks.bulk_runner import run_bulk_actions
from tasks.models import BulkAction
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.tasks import listed, put
from tests.tasks.admin.pages import BULK_ACTIONS, ERRORS, LIST, REQUEST, read, text
from tests.tasks.task_helpers import put_in


def test_a_filter_is_previewed_requested_and_applied(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2")
    put(single_broker, "t3", queue="inference_high")
    fields = {"action": "run", "state": "archived", "queue": "simple"}

    preview = operator.get(REQUEST, fields)
    assert "Run again: 2 tasks?" in text(preview)
    assert not BulkAction.objects.exists()
    response = operator.post(REQUEST, fields | {"expected": "2"})
    bulk = BulkAction.objects.get()
    assert response["Location"] == f"{BULK_ACTIONS}{bulk.pk}/change/"
    assert "every 2s" in text(operator.get(response["Location"]))
    run_bulk_actions(single_broker)

    page = text(operator.get(response["Location"]))
    assert "2 tasks done" in page
    assert "every 2s" not in page
    assert listed(single_broker, "simple") == {"pending": ["t1", "t2"]}
    record = audit_records().get(action="bulk_action.created")
    assert (record.actor_name, '"queue":"simple"' in record.changes) == ("the-operator", True)


def test_a_bulk_action_is_cancelled_on_its_page(operator: Client, viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    operator.post(REQUEST, {"action": "delete", "state": "pending", "expected": "1"})
    url = f"{BULK_ACTIONS}{BulkAction.objects.get().pk}/"

    assert viewer.post(f"{url}cancel/").status_code == 403
    assert "Cancel" not in text(viewer.get(f"{url}change/"))
    response = operator.post(f"{url}cancel/", follow=True)
    run_bulk_actions(single_broker)

    assert "The bulk action was cancelled." in text(response)
    assert "Canceled" not in text(response) + text(viewer.get(BULK_ACTIONS))
    assert listed(single_broker, "simple") == {"pending": ["t1"]}
    assert "had already ended" in text(operator.post(f"{url}cancel/", follow=True))
    assert url in text(viewer.get(f"{BULK_ACTIONS}?state=canceled"))
    assert url not in text(viewer.get(f"{BULK_ACTIONS}?state=finished"))


def test_the_filter_keeps_the_time_of_its_preview(operator: Client) -> None:
    insert_runs(make_failure(task_id="t1"), queue="simple")
    page = operator.get(f"{LIST}?outcome=failed&period=hour")

    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text(page)))

    assert (fields["outcome"], fields["state"]) == ("failed", "ended")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", fields["since"])
    assert "1 task?" in text(operator.get(REQUEST, fields))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"action": "explode", "state": "pending"}, 400),
        ({"action": "cancel", "state": "ended"}, 400),
        ({"action": "archive", "state": "archived"}, 400),
        ({"action": "delete", "state": "odd"}, 400),
        ({"action": "delete", "state": "pending", "queue": "nope"}, 404),
        ({"action": "delete", "state": "ended", "since": "yesterday"}, 400),
        ({"action": "delete", "state": "ended", "text": "---"}, 400),
    ],
)
def test_an_invalid_request_is_refused(operator: Client, fields: dict[str, str], status: int) -> None:
    assert operator.get(REQUEST, fields).status_code == status
    if status == 400:
        assert operator.post(REQUEST, fields).status_code in (400, 302)
    assert not BulkAction.objects.exclude(query__contains="---").exists()


def test_nothing_that_matches_is_said_before_it_is_requested(operator: Client) -> None:
    assert "No task matches now." in text(operator.get(REQUEST, {"action": "delete", "state": "pending"}))


def test_a_filter_by_text_needs_the_permission_to_see_payloads(settings, operator: Client) -> None:
    settings.RUNQY_HIDE_PAYLOADS = True
    Group.objects.get(name="operator").permissions.remove(Permission.objects.get(codename="view_payload"))

    assert operator.get(REQUEST, {"action": "delete", "state": "ended", "text": "x1"}).status_code == 403
    assert operator.post(REQUEST, {"action": "delete", "state": "ended", "text": "x1"}).status_code == 403


@pytest.mark.parametrize("hidden_by", ["setting", "queue", ""])
def test_the_text_of_a_search_is_hidden_where_payloads_are(
    settings, operator: Client, viewer: Client, single_broker: Broker, hidden_by: str
) -> None:
    settings.RUNQY_HIDE_PAYLOADS = hidden_by == "setting"
    deployment = replace(spec().deployment, hide_payloads=hidden_by == "queue")
    save_queue(spec=spec("simple", deployment=deployment), source=QueueSource.API)
    put(single_broker, "t1", queue="simple", payload=b'{"name":"ORD-1742"}')
    fields = {"action": "delete", "state": "pending", "queue": "simple", "text": "ord-1742"}

    assert "ord-1742" in text(operator.get(REQUEST, fields))
    operator.post(REQUEST, fields | {"expected": "1"})
    run_bulk_actions(single_broker)

    url = f"{BULK_ACTIONS}{BulkAction.objects.get().pk}/"
    pages = [text(viewer.get(path)) for path in (f"{url}change/", f"{url}progress/", BULK_ACTIONS)]
    audit = "".join(record.changes for record in audit_records())
    assert ["ord-1742" in page for page in (*pages[:2], audit)] == [not hidden_by] * 3
    assert ("hidden from your role" in pages[0], '"text":"hidden"' in audit) == (bool(hidden_by), bool(hidden_by))
    assert "ord-1742" not in pages[2]
    assert "ord-1742" in text(operator.get(f"{url}change/"))
    assert listed(single_broker, "simple") == {}


def test_a_bulk_action_that_waits_for_room_names_the_queue(operator: Client, single_broker: Broker) -> None:
    save_queue(spec=spec("full", limits=LimitOverrides(max_waiting_tasks=1)), source=QueueSource.API)
    insert_runs(*(make_failure(task_id=f"t{n}", payload=b"{}") for n in range(3)), queue="full")
    operator.post(REQUEST, {"action": "run", "state": "ended", "queue": "full", "expected": "3"})
    run_bulk_actions(single_broker)

    page = text(operator.get(f"{BULK_ACTIONS}{BulkAction.objects.get().pk}/change/"))

    assert "1 of about 3 tasks" in page
    assert "cannot be enqueued yet: the queue full has reached <code>max_waiting_tasks</code>." in page


@pytest.mark.parametrize("path", ["nope/change/", "999/change/", "999/progress/", "1e3/change/"])
def test_an_unknown_bulk_action_is_not_found(operator: Client, path: str) -> None:
    assert operator.get(f"{BULK_ACTIONS}{path}").status_code == 404


def test_bulk_actions_are_listed_with_their_counts(viewer: Client, operator: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    operator.post(REQUEST, {"action": "delete", "state": "pending", "queue": "simple", "expected": "1"})
    run_bulk_actions(single_broker)

    page = text(viewer.get(BULK_ACTIONS))

    assert "Delete: pending tasks of simple" in page
    assert "1 of 1" in page


def test_errors_are_grouped_with_their_newest_sample(viewer: Client, operator: Client) -> None:
    traceback = "Traceback (most recent call last):\n  File \"a.py\", line 3, in f\nKeyError: 'width'"
    ended_ns = time.time_ns()  # in one bar
    errors = (f"TimeoutError: no response within {n} s" for n in range(3))
    insert_runs(*(make_failure(error, ended_ns=ended_ns) for error in errors), queue="simple")
    insert_runs(make_failure(traceback, task_id="t1", commit="abc123"), queue="image")

    response = viewer.get(ERRORS)

    rows = response.context["rows"]
    assert [(row.group.queue, row.group.count) for row in rows] == [("simple", 3), ("image", 1)]
    assert "in f" in text(response)
    assert sum(bar.height > 1 for bar in rows[0].bars) == 1
    assert read(response).bulk_actions == []
    assert read(operator.get(ERRORS)).bulk_actions == ["run", "delete", "run", "delete"]


def test_errors_are_counted_by_queue(viewer: Client) -> None:
    insert_runs(*(make_failure(f"ValueError: {word}") for word in ("one", "two", "three")), queue="simple")
    insert_runs(make_failure(), queue="image")

    page = text(viewer.get(f"{ERRORS}?period=hour"))

    assert "<b>4</b> failed attempts in 2 queues:" in page
    assert [*re.findall(r'class="page-chip" href="([^"]*)">(\w+) <b>(\d+)</b>', page)] == [
        (f"{ERRORS}?queue=simple&amp;period=hour", "simple", "3"),
        (f"{ERRORS}?queue=image&amp;period=hour", "image", "1"),
    ]
    assert "<b>1</b> failed attempt in 1 queue<" in text(viewer.get(f"{ERRORS}?queue=image"))


def test_bulk_actions_are_filtered_by_user_and_queue(operator: Client, viewer: Client) -> None:
    for queue in ("simple", "image", ""):
        fields = {"action": "delete", "state": "pending", "queue": queue, "expected": "1"}
        assert operator.post(REQUEST, fields).status_code == 302
    first, second, third = BulkAction.objects.order_by("pk")

    def found(query: str) -> list[int]:
        page = text(viewer.get(f"{BULK_ACTIONS}?{query}"))
        return [bulk.pk for bulk in (first, second, third) if f"{BULK_ACTIONS}{bulk.pk}/change/" in page]

    assert found("queue=image") == [second.pk]
    assert found("by=the-operator&queue=simple") == [first.pk]
    assert found("by=the-operator") == [first.pk, second.pk, third.pk]
    assert found("by=nobody") == []
    offered = re.findall(r"[?&;](queue|by)=([\w-]+)", text(viewer.get(BULK_ACTIONS)))
    assert set(offered) >= {("queue", "image"), ("queue", "simple"), ("by", "the-operator")}


def test_errors_of_a_queue_and_a_period_are_shown(viewer: Client) -> None:
    now_ns = time.time_ns()
    insert_runs(make_failure("ValueError: old", ended_ns=now_ns - 30 * 3600 * 10**9), queue="simple")
    insert_runs(make_failure("ValueError: other"), queue="image")

    assert "No errors in simple" in text(viewer.get(f"{ERRORS}?queue=simple"))
    assert [row.group.count for row in viewer.get(f"{ERRORS}?queue=simple&period=week").context["rows"]] == [1]
    assert viewer.get(f"{ERRORS}?period=nope").status_code == 400


def test_errors_since_a_commit_are_marked_as_new_or_known(viewer: Client) -> None:
    now_ns, minute = time.time_ns(), 60 * 10**9
    insert_runs(
        make_failure("ValueError: known", ended_ns=now_ns - 9 * minute, commit="old"),
        make_failure("KeyError: gone", ended_ns=now_ns - 8 * minute, commit="old"),
        make_run(ended_ns=now_ns - 5 * minute, commit="new"),
        make_failure("ValueError: known", ended_ns=now_ns - 4 * minute, commit="new"),
        make_failure("TypeError: fresh", ended_ns=now_ns - 3 * minute, commit="new"),
        queue="simple",
    )

    rows = viewer.get(f"{ERRORS}?since_commit=new").context["rows"]

    assert {(row.sample.error_class, row.new_since) for row in rows} == {
        ("ValueError", ""),
        ("TypeError", "the commit"),
    }
    assert "no run of the commit nope" in text(viewer.get(f"{ERRORS}?since_commit=nope"))


def test_all_of_an_error_group_run_again(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2", "t3")
    insert_runs(*(make_failure(f"TimeoutError: within {n} s", task_id=f"t{n}") for n in (1, 2)), queue="simple")
    insert_runs(make_failure("KeyError: 'x'", task_id="t3"), queue="simple")
    (_, _, fields), _ = operator.get(ERRORS).context["rows"][0].bulk_actions

    assert "Run again: 2 tasks?" in text(operator.get(REQUEST, fields))
    operator.post(REQUEST, fields | {"expected": "2"})
    run_bulk_actions(single_broker)

    assert listed(single_broker, "simple") == {"pending": ["t1", "t2"], "archived": ["t3"]}
