"""The search of the page header: tasks of all states by id or text."""

import json
import re

import pytest
from django.test import Client

from runqy.broker.broker import Broker
from runqy.broker.states import TaskState
from runqy.broker.tasks.enqueue_batch import enqueue_many
from tasks import search as task_search
from tasks.search import SearchRequest, TaskQuery, search_tasks
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.tasks import new_task, put, take_one
from tests.tasks.admin.pages import LIST, text
from tests.tasks.task_helpers import put_in

SEARCH = f"{LIST}search/"
ORDER = b'{"order":"ORD-2026-0017"}'


def ids(response) -> list[str]:
    """Return the ids of the tasks on a page."""
    return re.findall(r'page-mono" href="/admin/tasks/task/([^/"]+)/change/', text(response))


def test_tasks_of_every_state_are_found_by_a_text_in_their_payload(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "active", queue="simple", payload=ORDER)
    take_one(single_broker, "simple")
    put(single_broker, "pending", queue="inference_high", payload=ORDER)
    put(single_broker, "later", queue="image", payload=ORDER, process_at_s=single_broker.now_s() + 3600)
    put(single_broker, "other", queue="simple", payload=b'{"order":"ORD-2026-0018"}')
    insert_runs(make_run(task_id="completed", payload=ORDER), make_failure(task_id="failed", payload=ORDER))

    found = ids(viewer.get(SEARCH, {"q": "ord-2026-0017"}))

    assert sorted(found) == ["active", "completed", "failed", "later", "pending"]


def test_a_payload_with_escapes_is_found_by_its_characters(viewer: Client, single_broker: Broker) -> None:
    payload = json.dumps({"text": "Müller"}).encode()
    put(single_broker, "pending", queue="simple", payload=payload)
    insert_runs(make_run(task_id="ended", payload=payload))

    assert ids(viewer.get(SEARCH, {"q": "Müller"})) == ["pending", "ended"]
    assert "/pending/change/" in text(viewer.get(LIST, {"state": "pending", "text": "Müller"}))


def test_an_ended_task_is_found_by_what_only_redis_has(viewer: Client, single_broker: Broker) -> None:
    long = b'{"note":"' + b"x" * 500 + b'","order":"ORD-2026-0017"}'
    for state, task_id in (("archived", "failed"), ("completed", "fine")):
        put_in(single_broker, state, task_id, payload=long, retention_s=60)
        put_in(single_broker, state, f"short-{task_id}", payload=ORDER, retention_s=60)
        insert_runs(
            make_run(task_id=task_id, payload=long[:400]),
            make_run(task_id=f"short-{task_id}", payload=ORDER),
            queue="simple",
        )

    page = viewer.get(SEARCH, {"q": "ORD-2026-0017"})

    assert sorted(ids(page)) == ["failed", "fine", "short-failed", "short-fine"]
    assert [found.record.id for found in page.context["kept"]] == ["failed", "fine"]


def test_a_search_shows_what_was_searched(
    viewer: Client, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_search, "_MAX_BYTES", 1)
    monkeypatch.setattr(task_search, "MAX_PAGE_BYTES", 1)
    put_in(single_broker, "archived", "t1", "t2", payload=ORDER)

    page = text(viewer.get(SEARCH, {"q": "nothing"}))

    assert "Not all archived tasks were searched" in page
    assert "No task has the ID “nothing”, and no payload or error that was searched has this text" in page
    assert "the first 400 bytes of the payload" in page


def test_a_task_is_found_by_its_id_in_redis_and_in_the_history(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "0198-a", queue="simple")
    insert_runs(make_run(task_id="0198-b"))

    assert ids(viewer.get(SEARCH, {"q": " 0198-a "})) == ["0198-a"]
    assert ids(viewer.get(SEARCH, {"q": "0198-b"})) == ["0198-b"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "Enter a task ID"),
        ("nothing", "No task has the ID “nothing”"),
        ("§ !", "enter a letter or a digit"),
        ("<b>", "“&lt;b&gt;”"),
    ],
)
def test_a_search_that_finds_nothing_shows_what_is_searched(viewer: Client, words: str, expected: str) -> None:
    assert expected in text(viewer.get(SEARCH, {"q": words}))


def test_hidden_payloads_are_not_searched(viewer: Client, single_broker: Broker, settings) -> None:
    settings.RUNQY_HIDE_PAYLOADS = True
    put(single_broker, "t1", queue="simple", payload=ORDER)
    insert_runs(make_run(task_id="t2", payload=ORDER))

    assert ids(viewer.get(SEARCH, {"q": "ORD-2026-0017"})) == []
    page = text(viewer.get(SEARCH, {"q": "t1"}))
    assert "ORD-2026" not in page.replace("order id", "")
    assert "/t1/change/" in page


def test_more_matches_than_are_shown_lead_to_the_list(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, *(f"t{number:02}" for number in range(21)), queue="simple", payload=ORDER)
    insert_runs(*(make_run(payload=ORDER) for _ in range(21)))

    page = text(viewer.get(SEARCH, {"q": "ORD-2026-0017"}))

    assert f'href="{LIST}?state=pending&amp;text=ORD-2026-0017">All pending tasks that match' in page
    assert f'href="{LIST}?state=ended&amp;text=ORD-2026-0017">List all their attempts' in page
    assert len(ids(viewer.get(SEARCH, {"q": "ORD-2026-0017"}))) == 40


def test_a_task_is_found_once_whatever_its_attempts(viewer: Client, single_broker: Broker) -> None:
    attempts = [
        make_failure("ValueError: ORD-2026-0017", task_id="t1", attempt=number, is_final=number == 3)
        for number in (1, 2, 3)
    ]
    insert_runs(*attempts, queue="simple")
    put_in(single_broker, "retry", "t2", payload=ORDER)
    insert_runs(make_failure(task_id="t2", is_final=False, payload=ORDER), queue="simple")

    response = viewer.get(SEARCH, {"q": "ORD-2026-0017"})

    assert ids(response) == ["t2", "t1"]
    assert "attempt 3</span>" in text(response)
    assert "and 2 earlier attempts</span>" in text(response)


def test_a_deep_queue_does_not_hide_the_tasks_of_others(viewer: Client, single_broker: Broker) -> None:
    single_broker.run(enqueue_many(single_broker, [new_task(f"n{number}", "image") for number in range(2_100)]))
    put(single_broker, "last", queue="simple", payload=ORDER)
    put(single_broker, "later", queue="simple", payload=ORDER, process_at_s=single_broker.now_s() + 3600)

    page = viewer.get(SEARCH, {"q": "ORD-2026-0017"})

    assert ids(page) == ["last", "later"]
    assert "All pending tasks that match" in text(page)


def test_a_search_reads_at_most_its_limit_of_bytes(
    viewer: Client, single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_search, "_MAX_BYTES", 1_000)
    monkeypatch.setattr(task_search, "MAX_PAGE_BYTES", 1_000)
    put(single_broker, *(f"large{number}" for number in range(5)), queue="simple", payload=b'"' + b"x" * 900 + b'"')
    put(single_broker, "last", queue="simple", payload=ORDER)

    page = viewer.get(SEARCH, {"q": "ORD-2026-0017"})

    assert ids(page) == []
    assert "All pending tasks that match" in text(page)


def test_every_page_has_the_search(viewer: Client) -> None:
    for path in ("/admin/", "/admin/queues/queue/", LIST):
        assert f'action="{SEARCH}"' in text(viewer.get(path))


def test_a_page_of_a_search_reads_a_bounded_number_of_bytes(
    single_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_search, "MAX_SEARCHED_BYTES", 1)
    put(single_broker, "other", queue="image", payload=b'{"order":"ORD-2026-0018"}')
    put(single_broker, "found", queue="simple", payload=ORDER)
    query = TaskQuery(state=TaskState.PENDING, text="ORD-2026-0017")

    first = search_tasks(single_broker, ["image", "simple"], query, SearchRequest(limit=50))
    second = search_tasks(single_broker, ["image", "simple"], query, SearchRequest(limit=50, after=first.end))

    assert (first.tasks, first.searched) == ([], 1)
    assert ([task.id for task in second.tasks], second.end) == (["found"], None)
