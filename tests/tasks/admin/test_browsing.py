"""The list of tasks of all queues in the admin: filters, order, pages, hidden payloads."""

import re
from datetime import timedelta
from unittest.mock import Mock

import pytest
from django.test import Client
from django.utils import timezone

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.keys import QueueKeys
from runqy.broker.states import RunOutcome
from runqy.errors import SearchTooSlow
from tasks.admin import lists
from tasks.models import BulkAction, TaskRun
from tests.configuration.support import away
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.tasks import put
from tests.tasks.admin.pages import LIST, REQUEST, change, read, text
from tests.tasks.task_helpers import put_in

HOUR_NS = 3600 * 10**9


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=ended", "No task has ended yet"),
        ("state=pending", "No pending tasks"),
        ("state=ended&outcome=failed", "No tasks match"),
        ("state=pending&text=ORD-17", "search/?q=ORD-17"),
    ],
)
def test_an_empty_list_shows_what_it_would_hold_or_how_to_find_more(viewer: Client, query: str, expected: str) -> None:
    assert expected in text(viewer.get(f"{LIST}?{query}"))


def ids(response) -> list[str]:
    """Return the ids of the tasks on a page."""
    found = re.findall(r'href="/admin/tasks/task/([^/"]+)/change/[^"]*">[^<]*</a>', text(response))
    return [task_id for task_id in found if task_id]


@pytest.fixture
def runs(queues: None) -> None:
    """Store runs of two queues."""
    now_ns = clock.now_ns()
    insert_runs(
        make_run(task_id="ok", commit="abc123", payload=b'{"order":"ORD-17"}', ended_ns=now_ns - 3),
        make_failure(task_id="bad", worker_id="w2", payload=b'{"order":"ORD-18"}', ended_ns=now_ns - 2),
        make_run(task_id="old", ended_ns=now_ns - 30 * HOUR_NS, started_ns=now_ns - 31 * HOUR_NS),
        queue="simple",
    )
    insert_runs(
        make_run(task_id="stopped", outcome=RunOutcome.CANCELED, ended_ns=now_ns - 1),
        queue="inference",
        sub_queue="high",
        redis_queue="inference_high",
    )
    insert_runs(
        make_run(task_id="late", outcome=RunOutcome.EXPIRED, attempt=0, started_ns=None),
        queue="inference",
        sub_queue="low",
        redis_queue="inference_low",
    )


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state=ended", ["late", "stopped", "bad", "ok", "old"]),
        ("state=ended&queue=simple", ["bad", "ok", "old"]),
        ("state=ended&queue=inference", ["late", "stopped"]),
        ("state=ended&queue=inference_high", ["stopped"]),
        ("state=ended&queue=inference.high", ["stopped"]),
        ("outcome=failed", ["bad"]),
        ("outcome=canceled", ["stopped"]),
        ("outcome=expired", ["late"]),
        ("outcome=failure", ["late", "bad"]),
        ("period=hour&queue=simple", ["bad", "ok"]),
        ("worker=w2", ["bad"]),
        ("commit=abc123", ["ok"]),
        ("text=ord-17", ["ok"]),
        ("text=no such user", ["bad"]),
        ("sort=oldest&queue=simple", ["old", "ok", "bad"]),
        ("sort=slowest&queue=simple", ["old", "bad", "ok"]),
        ("outcome=lost", []),
    ],
)
def test_ended_tasks_are_found_by_what_the_url_says(viewer: Client, query: str, found: list[str]) -> None:
    response = viewer.get(f"{LIST}?{query}")

    assert response.status_code == 200
    assert ids(response) == found or (sorted(ids(response)) == sorted(found) and "slowest" in query)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=ended", "5"),
        ("outcome=failure", "2"),
        ("text=ord-17", "1"),
        ("outcome=retried", "0"),
        ("state=pending", "60"),
        ("state=pending&text=n", "50+"),
        ("state=pending&queue=simple", "60"),
    ],
)
def test_the_number_of_tasks_that_match_is_beside_the_actions_on_them(
    operator: Client, single_broker: Broker, query: str, expected: str
) -> None:
    put(single_broker, *(f"t{number}" for number in range(60)), queue="simple", payload=b'{"n":1}')
    insert_runs(make_run(task_id="again", outcome=RunOutcome.RETRIED, is_final=False), queue="simple")

    response = operator.get(f"{LIST}?{query}")

    assert f'<b id="matches">{expected}</b>' in text(response)
    assert bool(read(response).bulk_actions) == (expected != "0")


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(("target", "is_counted"), [("rows", False), ("list", True)])
def test_an_update_counts_ended_tasks_only_for_a_list_that_was_empty(
    viewer: Client, target: str, is_counted: bool
) -> None:
    response = viewer.get(f"{LIST}?state=ended", headers={"HX-Request": "true", "HX-Target": target})

    assert ('id="matches"' in text(response)) == is_counted


def test_the_slowest_tasks_include_those_that_run(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "active", "new", "long", queue="simple")
    put_in(single_broker, "active", "longest", queue="inference_high")
    for queue, task_id, hours in (("simple", "long", 1), ("inference_high", "longest", 2)):
        started_ns = single_broker.now_ns() - hours * HOUR_NS
        redis_of(single_broker).hset(QueueKeys(queue).task(task_id), "started", started_ns)
    insert_runs(make_run(task_id="ended"), queue="simple")

    everything = viewer.get(f"{LIST}?state=ended&sort=slowest&period=today")

    assert ids(everything) == ["longest", "long", "new", "ended"]
    assert ">2 h</time>" in text(everything)
    assert ids(viewer.get(f"{LIST}?sort=slowest&queue=simple")) == ["long", "new", "ended"]
    assert ids(viewer.get(f"{LIST}?sort=slowest&outcome=completed")) == ["ended"]
    assert ids(viewer.get(f"{LIST}?sort=oldest")) == ["ended"]


@pytest.mark.usefixtures("runs")
def test_the_slowest_tasks_of_the_history_are_listed_without_redis(viewer: Client, settings) -> None:
    viewer.get(LIST)
    settings.REDIS_TARGET = away()

    response = viewer.get(f"{LIST}?sort=slowest&queue=simple")

    assert sorted(ids(response)) == ["bad", "ok", "old"]
    assert "Tasks that are running now are not shown" in text(response)


@pytest.mark.usefixtures("runs")
def test_an_error_group_and_a_period_narrow_the_list(viewer: Client) -> None:
    fingerprint = TaskRun.objects.get(task_id="bad").fingerprint
    since = f"{timezone.now() - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"

    assert ids(viewer.get(LIST, {"error": fingerprint, "since": since})) == ["bad"]
    assert ids(viewer.get(LIST, {"error": fingerprint, "until": since})) == []


@pytest.mark.usefixtures("runs")
def test_the_form_shows_the_filter_that_is_applied(viewer: Client) -> None:
    content = text(viewer.get(f"{LIST}?outcome=failed&worker=w2&queue=simple&sort=oldest"))

    assert '<option value="failed" selected>' in content
    assert '<option value="oldest" selected>' in content
    assert 'value="simple"' in content
    assert "Worker w2" in content


def test_pages_hold_each_run_once_with_their_filter(viewer: Client) -> None:
    insert_runs(*(make_failure(task_id=f"t{number}") for number in range(120)), queue="simple")
    insert_runs(*(make_run() for _ in range(60)), queue="image")

    found, path = [], f"{LIST}?outcome=failed&queue=simple"
    while path:
        response = viewer.get(path)
        found += ids(response)
        link = re.search(r'href="([^"]*)">Next</a>', text(response))
        path = link[1].replace("&amp;", "&") if link else ""

    assert sorted(found) == sorted(f"t{number}" for number in range(120))


def test_a_slow_search_shows_beside_its_form_how_to_narrow_it(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "list_runs", Mock(side_effect=SearchTooSlow))

    response = viewer.get(f"{LIST}?outcome=completed")

    assert response.status_code == 400
    assert "The search takes too long. Narrow the period" in text(response)
    assert 'name="since"' in text(response)
    assert "No tasks match" not in text(response)


def test_a_list_is_shown_though_its_tasks_take_too_long_to_count(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "count_ended_tasks", Mock(side_effect=SearchTooSlow))
    insert_runs(make_run(task_id="it"))

    response = viewer.get(f"{LIST}?outcome=completed")

    assert ids(response) == ["it"]
    assert "not counted" in text(response)


@pytest.mark.parametrize(
    "query",
    ["outcome=nope", "state=nope&text=x", "sort=nope", "since=nope", "period=nope", "text=---", "cursor=x&state=ended"],
)
def test_an_invalid_filter_is_reported_on_the_page(viewer: Client, query: str) -> None:
    response = viewer.get(f"{LIST}?{query}&outcome=failed" if "outcome" not in query else f"{LIST}?{query}")

    assert response.status_code == 400
    assert "runqy" in text(response)


def test_tasks_in_redis_are_listed_over_all_queues(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "s1", "s2", queue="simple")
    put(single_broker, "h1", queue="inference_high")
    put(single_broker, "e1", queue="from-elsewhere")
    put_in(single_broker, "archived", "gone", queue="image")

    assert ids(viewer.get(f"{LIST}?state=pending")) == ["e1", "h1", "s1", "s2"]
    assert ids(viewer.get(f"{LIST}?state=pending&queue=inference")) == ["h1"]
    assert ids(viewer.get(f"{LIST}?state=archived")) == ["gone"]


def test_conditions_of_ended_tasks_are_not_applied_to_others_unseen(operator: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    fields = {"state": "pending", "worker": "nobody", "since": "2030-01-01T00:00:00Z"}

    response = operator.get(LIST, fields)

    assert ids(response) == ["t1"]
    assert "Not applied, as only ended tasks have it: Worker, Ended from (UTC)." in text(response)
    assert "Remove: " not in text(response)
    assert read(response).bulk_actions == []
    assert f'href="{LIST}?state=pending">Remove</a>' in text(response)
    assert read(operator.get(LIST, {"state": "pending"})).bulk_actions
    refused = operator.get(REQUEST, fields | {"action": "delete"})
    assert (refused.status_code, "worker: applies to ended tasks only" in text(refused)) == (400, True)
    assert operator.post(REQUEST, fields | {"action": "delete"}).status_code == 400
    assert not BulkAction.objects.exists()


def test_tasks_in_redis_are_listed_page_by_page(viewer: Client, single_broker: Broker) -> None:
    for queue in ("simple", "inference_high", "inference_low"):
        put(single_broker, *(f"{queue}-{number}" for number in range(40)), queue=queue)

    found, path = [], f"{LIST}?state=pending"
    while path:
        response = viewer.get(path)
        found.append(ids(response))
        link = re.search(r'href="([^"]*)">Next</a>', text(response))
        path = link[1].replace("&amp;", "&") if link else ""

    assert [len(page) for page in found] == [50, 50, 20]
    assert len({task_id for page in found for task_id in page}) == 120


def test_tasks_in_redis_are_searched_by_text(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, *(f"t{number}" for number in range(5)), queue="simple")
    put(single_broker, "it", queue="simple", payload=b'{"order":"ORD-17"}')

    assert ids(viewer.get(f"{LIST}?state=pending&text=ord-17")) == ["it"]
    assert "No tasks match" in text(viewer.get(f"{LIST}?state=pending&text=nothing"))


def test_an_id_that_only_the_history_has_leads_to_its_page(viewer: Client) -> None:
    insert_runs(make_failure(task_id="t1"), queue="simple")

    response = viewer.get(f"{LIST}?id=t1")

    assert (response.status_code, response["Location"]) == (302, change("t1"))


def test_hidden_payloads_are_neither_shown_nor_searched(viewer: Client, operator: Client, settings) -> None:
    settings.RUNQY_HIDE_PAYLOADS = True
    insert_runs(
        make_failure("ValueError: in-the-error", task_id="t1", payload=b'{"x":"in-the-payload"}'), queue="simple"
    )

    assert "in-the" not in text(viewer.get(f"{LIST}?state=ended"))
    assert "in-the" not in text(viewer.get(f"{LIST}errors/"))
    assert "in-the" not in text(viewer.get(change("t1")))
    for state in ("ended", "pending"):
        page = text(viewer.get(f"{LIST}?state={state}&text=in-the-payload"))
        assert "is not applied, because payloads" in page
    assert ids(operator.get(f"{LIST}?text=in-the-payload")) == ["t1"]


def test_the_lists_take_few_queries(viewer: Client, single_broker: Broker, django_assert_max_num_queries) -> None:
    insert_runs(*(make_failure(f"ValueError: {name}") for name in "abcdefghij" * 6), queue="simple")
    put(single_broker, *(f"t{number}" for number in range(60)), queue="simple")

    for query in ("state=ended", "outcome=failure&sort=slowest&queue=simple", "text=ValueError", "state=pending"):
        with django_assert_max_num_queries(14):
            assert viewer.get(f"{LIST}?{query}").status_code == 200
    with django_assert_max_num_queries(14):
        assert viewer.get(f"{LIST}errors/").status_code == 200
