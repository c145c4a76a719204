"""The page of one task: every byte of its payload and result, its life, what it was made by."""

import json

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from runqy.broker.finishing import archive
from tests.support.tasks import new_task, put, take_one
from tests.tasks.life import put_in, succeed
from tests.tasks_admin.reading import LIST, change, text

EXACT = '{"big":9007199254740993,"a":1.50,"a":1e400,"é":"世界\\u00e9","html":"<script>alert(1)</script>"}'.encode()


def test_a_payload_is_shown_and_given_out_as_it_was_sent(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple", payload=EXACT)

    shown = text(viewer.get(change("t1")))
    given = viewer.get(f"{LIST}t1/payload/?queue=simple")

    assert "&quot;big&quot;: 9007199254740993,\n  &quot;a&quot;: 1.50,\n  &quot;a&quot;: 1e400," in shown
    assert "&quot;é&quot;: &quot;世界\\u00e9&quot;" in shown
    assert "<script>alert(1)" not in shown
    assert given.content == EXACT
    assert given["Content-Disposition"] == 'attachment; filename="t1-payload.json"'
    assert (given["Content-Type"], given["X-Content-Type-Options"]) == ("application/octet-stream", "nosniff")
    assert "no-store" in given["Cache-Control"]


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (b'{"ok":[1,2]}', "{\n  &quot;ok&quot;: [\n    1,\n    2\n  ]\n}"),
        (b"plain <b>text</b>", "plain &lt;b&gt;text&lt;/b&gt;"),
        (b"\xff\xfe", "not all of it text"),
        (b"", "0\xa0bytes"),
    ],
)
def test_any_result_is_shown_and_given_out(viewer: Client, single_broker: Broker, result: bytes, shown: str) -> None:
    put(single_broker, "t1", queue="simple")
    succeed(single_broker, take_one(single_broker, "simple"), result)

    assert shown in text(viewer.get(change("t1")))
    assert viewer.get(f"{LIST}t1/result/").content == result


@pytest.mark.parametrize("payload", [json.dumps({"n": [1] * 60_000}).encode(), b'{"n":' + b"[" * 900 + b"1," * 30_000])
def test_a_page_stays_small_however_large_a_payload_is(viewer: Client, single_broker: Broker, payload: bytes) -> None:
    put(single_broker, "t1", queue="simple", payload=payload)

    answer = viewer.get(change("t1"))

    assert len(answer.content) < 1_200_000
    assert viewer.get(f"{LIST}t1/payload/").content == payload


def test_only_the_beginning_of_a_large_payload_is_shown(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple", payload=json.dumps({"n": "é" * 70_000}, ensure_ascii=False).encode())

    shown = text(viewer.get(change("t1")))

    assert "This is the beginning. Download it to see all of it." in shown
    assert 30_000 < shown.count("é") < 33_000


def test_an_error_is_shown_with_its_traceback(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    taken = take_one(single_broker, "simple")
    error = 'Traceback:\n  File "main.py"\nValueError: <i>'
    single_broker.run(archive(taken.lease, taken.message, error=error, now_ns=single_broker.now_ns()))

    assert "Traceback:\n  File &quot;main.py&quot;\nValueError: &lt;i&gt;" in text(viewer.get(change("t1")))
    assert "ValueError: &lt;i&gt;</span>" in text(viewer.get(f"{LIST}?queue=simple&state=archived"))


def test_the_facts_of_a_running_task_are_told(viewer: Client, single_broker: Broker) -> None:
    headers = {"x-request-id": "req-7", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    put_in(single_broker, "active", "t1", timeout_s=90, max_retry=2, headers=headers, unique_key="k")

    shown = text(viewer.get(change("t1")))

    assert '<a class="live-link" href="/admin/workers/worker/w1/change/">w1</a>' in shown
    assert "1, of at most 3" in shown
    assert "1 min for one run" in shown
    assert "req-7" in shown
    assert headers["traceparent"] in shown
    assert new_task("t1", "simple", unique_key="k").lock in shown
    for said in ("Queued", "Last run started", "Lease ends, unless renewed"):
        assert f"<dt>{said}</dt>" in shown


def test_the_times_of_a_task_stand_in_their_order(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", ttl_archived_s=60)

    said = [name for name, _ in viewer.get(change("t1")).context["timeline"]]

    assert said[0] == "Queued"
    assert said[-1] == "Forgotten"
    assert {"Last run failed", "Archived"} <= set(said)


@pytest.mark.parametrize("path", [change("nope"), f"{LIST}nope/change/", f"{LIST}nope/payload/", change("t1", "nope")])
def test_what_is_not_there_has_a_page_of_ours(viewer: Client, path: str) -> None:
    answer = viewer.get(path)

    assert answer.status_code == 404
    assert "/admin/" in text(answer)


def test_a_task_without_result_has_none_to_give_out(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")

    assert viewer.get(f"{LIST}t1/result/").status_code == 404
    assert viewer.get(f"{LIST}t1/secret/").status_code == 404


def test_tasks_of_one_id_in_two_queues_are_told_apart(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple", payload=b'{"in":"simple"}')
    put(single_broker, "t1", queue="image", payload=b'{"in":"image"}')

    assert viewer.get(f"{LIST}t1/payload/?queue=simple").content == b'{"in":"simple"}'
    assert viewer.get(f"{LIST}t1/payload/?queue=image").content == b'{"in":"image"}'
