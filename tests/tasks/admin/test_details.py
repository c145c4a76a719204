"""The page of one task: payload, result, error, times and details."""

import json
import re

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from runqy.broker.duties.pending_timeouts import archive_timed_out, list_pending
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.cancel import cancel
from runqy.broker.tasks.finish import archive
from tasks.actions import TaskAction, apply_action
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure
from tests.support.tasks import new_task, put, take_one
from tests.tasks.admin.pages import LIST, change, text
from tests.tasks.task_helpers import fail_for_good, put_in, succeed

EXACT = '{"big":9007199254740993,"a":1.50,"a":1e400,"é":"世界\\u00e9","html":"<script>alert(1)</script>"}'.encode()


def test_a_payload_is_rendered_and_downloaded_unchanged(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple", payload=EXACT)

    content = text(viewer.get(change("t1")))
    download = viewer.get(f"{LIST}t1/payload/?queue=simple")

    assert "&quot;big&quot;: 9007199254740993,\n  &quot;a&quot;: 1.50,\n  &quot;a&quot;: 1e400," in content
    assert "&quot;é&quot;: &quot;世界\\u00e9&quot;" in content
    assert "<script>alert(1)" not in content
    assert download.content == EXACT
    assert download["Content-Disposition"] == 'attachment; filename="t1-payload.json"'
    assert (download["Content-Type"], download["X-Content-Type-Options"]) == ("application/octet-stream", "nosniff")
    assert "no-store" in download["Cache-Control"]


@pytest.mark.parametrize(
    ("result", "content"),
    [
        (b'{"ok":[1,2]}', "{\n  &quot;ok&quot;: [\n    1,\n    2\n  ]\n}"),
        (b"plain <b>text</b>", "plain &lt;b&gt;text&lt;/b&gt;"),
        (b"\xff\xfe", "not valid UTF-8"),
        (b"", "0\xa0bytes"),
    ],
)
def test_any_result_is_rendered_and_downloaded(
    viewer: Client, single_broker: Broker, result: bytes, content: str
) -> None:
    put(single_broker, "t1", queue="simple")
    succeed(single_broker, take_one(single_broker, "simple"), result)

    assert content in text(viewer.get(change("t1")))
    assert viewer.get(f"{LIST}t1/result/").content == result


@pytest.mark.parametrize("payload", [json.dumps({"n": [1] * 60_000}).encode(), b'{"n":' + b"[" * 900 + b"1," * 30_000])
def test_a_large_payload_is_not_rendered_whole(viewer: Client, single_broker: Broker, payload: bytes) -> None:
    put(single_broker, "t1", queue="simple", payload=payload)

    response = viewer.get(change("t1"))

    assert len(response.content) < 1_200_000
    assert viewer.get(f"{LIST}t1/payload/").content == payload


def test_a_large_payload_is_truncated(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple", payload=json.dumps({"n": "é" * 70_000}, ensure_ascii=False).encode())

    content = text(viewer.get(change("t1")))

    assert "Truncated. Download it to see all of it." in content
    assert 30_000 < content.count("é") < 33_000


@pytest.mark.parametrize(("state", "label"), [("retry", "Next run"), ("active", "Lease expires, unless extended")])
@pytest.mark.usefixtures("stopped_clock")
def test_a_time_that_has_passed_is_overdue(viewer: Client, single_broker: Broker, state: str, label: str) -> None:
    put_in(single_broker, state, "t1")
    keys = QueueKeys("simple")
    index = keys.lease if state == "active" else keys.retry

    def shown(seconds: int) -> str:
        redis_of(single_broker).zadd(index, {"t1": single_broker.now_s() + seconds})
        found = re.search(rf"{label}</dt><dd><time[^>]*>([^<]*)", text(viewer.get(change("t1"))))
        return found[1] if found else ""

    assert shown(3600) in ("in 1 h", "in 59 min")
    assert shown(-1) == "due now"
    assert shown(-125) == "2 min overdue"


def test_a_run_that_is_overdue_is_listed_so(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "retry", "t1")
    redis_of(single_broker).zadd(QueueKeys("simple").retry, {"t1": single_broker.now_s() - 3600})

    for query in ("queue=simple&state=retry", "state=retry"):
        assert re.search(r'class="page-overdue">1 h overdue<', text(viewer.get(f"{LIST}?{query}")))


def test_an_error_is_shown_with_its_traceback(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    taken = take_one(single_broker, "simple")
    error = 'Traceback:\n  File "main.py"\nValueError: <i>'
    single_broker.run(archive(taken.lease, taken.message, error=error, now_ns=single_broker.now_ns()))

    assert "Traceback:\n  File &quot;main.py&quot;\nValueError: &lt;i&gt;" in text(viewer.get(change("t1")))
    assert "ValueError: &lt;i&gt;</span>" in text(viewer.get(f"{LIST}?queue=simple&state=archived"))


def test_the_details_of_an_active_task_are_rendered(viewer: Client, single_broker: Broker) -> None:
    headers = {"x-request-id": "req-7", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    put_in(single_broker, "active", "t1", timeout_s=90, max_retry=2, headers=headers, unique_key="k")

    content = text(viewer.get(change("t1")))

    assert '<a class="page-link" href="/admin/workers/worker/w1/change/">w1</a>' in content
    assert "1 of 3" in content
    assert "1 min per run" in content
    assert "req-7" in content
    assert headers["traceparent"] in content
    assert new_task("t1", "simple", unique_key="k").lock in content
    for label in ("Enqueued", "Last run started", "Lease expires, unless extended"):
        assert f"<dt>{label}</dt>" in content


def test_the_times_of_a_task_are_in_order(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", ttl_archived_s=60)

    labels = [name for name, _ in viewer.get(change("t1")).context["timeline"]]

    assert labels[0] == "Enqueued"
    assert labels[-1] == "Expires"
    assert {"Last run failed", "Archived"} <= set(labels)


def test_archived_tasks_are_labelled_with_the_reason(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "failed", "cancelled", "expired", "archived", queue="simple")
    fail_for_good(single_broker, take_one(single_broker, "simple"), "ValueError: x")
    taken = take_one(single_broker, "simple")
    single_broker.run(cancel("simple", "cancelled", now_ns=single_broker.now_ns()))
    fail_for_good(single_broker, taken, "cancelled")
    apply_action(single_broker, action=TaskAction.ARCHIVE, queue="simple", task_id="archived")
    (expired,) = single_broker.run(list_pending("simple"))
    single_broker.run(archive_timed_out("simple", [expired], timeout_s=1, now_ns=single_broker.now_ns()))
    expected = {"failed": "Failed", "cancelled": "Cancelled", "expired": "Expired", "archived": ""}

    states = {id: viewer.get(change(id)).context["state"] for id in expected}
    rows = viewer.get(f"{LIST}?queue=simple&state=archived").context["rows"]

    assert states == {id: f"Archived: {reason}" if reason else "Archived" for id, reason in expected.items()}
    assert {row.record.id: row.reason for row in rows} == expected


def test_the_reason_is_that_of_the_history_once_it_has_the_end(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1")
    now_ns, attempt = single_broker.now_ns(), {"task_id": "t1", "run_id": "first"}
    insert_runs(make_failure(**attempt, outcome=RunOutcome.EXPIRED, ended_ns=now_ns - 60 * 10**9), queue="simple")
    before = viewer.get(change("t1")).context["state"]

    insert_runs(make_failure(task_id="t1", outcome=RunOutcome.LOST, ended_ns=now_ns), queue="simple")

    (row,) = viewer.get(f"{LIST}?queue=simple&state=archived").context["rows"]
    assert (before, row.state) == ("Archived: Failed", "Archived: Worker lost")
    assert viewer.get(change("t1")).context["state"] == row.state


@pytest.mark.parametrize("path", [change("nope"), f"{LIST}nope/change/", f"{LIST}nope/payload/", change("t1", "nope")])
def test_an_unknown_task_has_an_error_page_of_the_admin(viewer: Client, path: str) -> None:
    response = viewer.get(path)

    assert response.status_code == 404
    assert "/admin/" in text(response)


def test_a_missing_result_is_not_found(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")

    assert viewer.get(f"{LIST}t1/result/").status_code == 404
    assert viewer.get(f"{LIST}t1/secret/").status_code == 404


def test_tasks_with_the_same_id_in_two_queues_are_distinguished(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple", payload=b'{"in":"simple"}')
    put(single_broker, "t1", queue="image", payload=b'{"in":"image"}')

    assert viewer.get(f"{LIST}t1/payload/?queue=simple").content == b'{"in":"simple"}'
    assert viewer.get(f"{LIST}t1/payload/?queue=image").content == b'{"in":"image"}'
