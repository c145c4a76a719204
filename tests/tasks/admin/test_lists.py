"""The lists of queues and tasks in the admin, and the search by id."""

import re

import pytest
from django.test import Client

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.duties.forwarder import forward_due
from runqy.broker.keys import QueueKeys
from runqy.broker.queues.pausing import pause
from runqy.broker.states import RunOutcome
from runqy.broker.tasks.finish import Failure, complete, retry
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_run
from tests.support.tasks import put, take_one
from tests.tasks.admin.pages import LIST, change, read, text
from tests.tasks.task_helpers import put_in


def pages(staff: Client, path: str, label: str) -> list[list[str]]:
    """Return the ids on each page, following a link."""
    found = []
    while path:
        response = staff.get(path)
        found.append(read(response).checkboxes)
        link = re.search(rf'href="([^"]*)">{label}</a>', text(response))
        path = link[1].replace("&amp;", "&") if link else ""
    return found


def test_queues_are_listed_with_their_sub_queues_and_counts(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", "t2", queue="inference_high")
    put(single_broker, "t3", queue="from-elsewhere")

    content = text(viewer.get(LIST))

    assert re.search(r'href="/admin/tasks/task/\?queue=inference_high&amp;state=pending">2</a>', content)
    assert re.search(r'href="/admin/tasks/task/\?queue=inference_low&amp;state=archived">0</a>', content)
    assert re.findall(r">\s*(inference|inference_high|simple|only in Redis|disabled)\s*<", content) == [
        *("inference", "inference_high"),
        *("disabled", "simple", "only in Redis"),
    ]


def test_queues_are_filtered_by_part_of_their_name(viewer: Client) -> None:
    assert "inference_low" in text(viewer.get(f"{LIST}?q=RENCE_L"))
    assert "?queue=simple" not in text(viewer.get(f"{LIST}?q=RENCE_L"))
    assert "No queue name contains “&lt;b&gt;”" in text(viewer.get(f"{LIST}?q=<b>"))


def test_a_queue_and_a_state_limit_the_list_to_exactly_these_tasks(viewer: Client, single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("mail2"), source=QueueSource.API)
    put(single_broker, "m1", queue="mail")
    put(single_broker, "m2", "m3", queue="mail2")
    put(single_broker, "i1", queue="inference_high")

    listed = text(viewer.get(f"{LIST}?parent=mail&state=pending"))
    everything = viewer.get(f"{LIST}?state=pending")
    sub_queues = text(viewer.get(f"{LIST}?parent=inference&state=pending"))
    queues = viewer.get(f"{LIST}?parent=inference").context

    assert re.findall(r">([mi]\d)</a>", listed) == ["m1"]
    assert re.findall(r">([mi]\d)</a>", text(everything)) == ["i1", "m1", "m2", "m3"]
    assert everything.context["total"] == 4
    assert re.findall(r">([mi]\d)</a>", sub_queues) == ["i1"]
    assert [row.name for group in queues["groups"] for row in group.rows] == ["inference_high", "inference_low"]


def test_many_queues_are_listed_page_by_page(viewer: Client) -> None:
    for number in range(60):
        save_queue(spec=spec(f"q{number:02}"), source=QueueSource.API)

    first, second = text(viewer.get(LIST)), text(viewer.get(f"{LIST}?page=2"))

    assert ("?queue=q10&" in first, "?queue=q59&" in first) == (True, False)
    assert ("?queue=q10&" in second, "?queue=q59&" in second) == (False, True)
    assert "Page 1 of 2, 64 queues" in first


def test_a_task_is_found_by_its_id_alone(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="inference_low")

    response = viewer.get(f"{LIST}?id=%20t1%20")

    assert (response.status_code, response["Location"]) == (302, change("t1", "inference_low"))


def test_an_unknown_id_is_reported(viewer: Client) -> None:
    assert "Task nope not found." in text(viewer.get(f"{LIST}?id=nope"))


@pytest.mark.parametrize("task_id", ["a/b", "a b?c#d", "ä<i>", "100%", "a_2Fb", "../x"])
def test_any_id_leads_to_its_page(viewer: Client, single_broker: Broker, task_id: str) -> None:
    put(single_broker, task_id, queue="simple")
    link = re.search(r'href="([^"]*/change/[^"]*)"', text(viewer.get(f"{LIST}?queue=simple")))
    assert link

    content = viewer.get(link[1].replace("&amp;", "&"))

    assert content.status_code == 200
    assert content.context["task"].id == task_id


def test_a_list_links_to_the_next_and_the_previous_page(operator: Client, single_broker: Broker) -> None:
    ids = [f"t{number:03}" for number in range(120)]
    put(single_broker, *ids, queue="simple")

    forward = pages(operator, f"{LIST}?queue=simple&state=pending", "Next")
    assert forward == [ids[:50], ids[50:100], ids[100:]]

    response = operator.get(f"{LIST}?queue=simple&state=pending")
    for _ in range(2):
        response = operator.get(re.search(r'href="([^"]*)">Next</a>', text(response))[1].replace("&amp;", "&"))  # type: ignore[index]
    previous = re.search(r'href="([^"]*)">Previous</a>', text(response))
    assert previous
    assert pages(operator, previous[1].replace("&amp;", "&"), "Previous") == [ids[50:100], ids[:50]]


def test_ended_tasks_are_listed_newest_first(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2")

    assert read(operator.get(f"{LIST}?queue=simple&state=archived")).checkboxes == ["t2", "t1"]


def test_the_default_state_is_the_first_that_has_tasks(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "retry", "t1")

    response = viewer.get(f"{LIST}?queue=simple")

    assert response.context["state"] == "retry"
    assert "boom" in text(response)


def test_an_empty_list_explains_how_to_enqueue_a_task(viewer: Client, operator: Client) -> None:
    content = text(viewer.get(f"{LIST}?queue=image"))

    assert "No pending tasks in image" in content
    assert "curl -X POST http://testserver/queue/add" in content
    assert "/admin/tasks/task/add/" not in content
    assert "/admin/tasks/task/add/?queue=image" in text(operator.get(f"{LIST}?queue=image"))
    assert "accepts no tasks" in text(viewer.get(f"{LIST}?queue=off"))


def test_a_paused_queue_is_labelled(viewer: Client, single_broker: Broker) -> None:
    single_broker.run(pause("simple", by="me", now_ns=single_broker.now_ns()))

    assert "paused" in text(viewer.get(f"{LIST}?queue=simple"))
    assert "paused" in text(viewer.get(LIST))


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("queue=nope", 404),
        ("queue=simple&state=nope", 400),
        ("queue=simple&cursor=nope", 400),
    ],
)
def test_an_invalid_query_has_an_error_page_of_the_admin(viewer: Client, query: str, status: int) -> None:
    response = viewer.get(f"{LIST}?{query}")

    assert response.status_code == status
    assert "runqy" in text(response)


def test_a_cursor_of_another_list_is_refused(operator: Client, single_broker: Broker) -> None:
    put(single_broker, *(f"t{number}" for number in range(60)), queue="simple")
    following = re.search(r'href="([^"]*)">Next</a>', text(operator.get(f"{LIST}?queue=simple")))
    assert following

    response = operator.get(following[1].replace("&amp;", "&").replace("queue=simple", "queue=image"))

    assert response.status_code == 400
    assert f'href="{LIST}?queue=image&amp;state=pending">First page of the list</a>' in text(response)


def test_pages_take_few_queries(viewer: Client, single_broker: Broker, django_assert_max_num_queries) -> None:
    put(single_broker, *(f"t{number}" for number in range(60)), queue="simple")

    for path in (LIST, f"{LIST}?queue=simple", change("t1")):
        with django_assert_max_num_queries(12):
            assert viewer.get(path).status_code == 200


def test_a_task_with_an_empty_id_does_not_break_the_list(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    task = redis_of(single_broker).hgetall("asynq:{simple}:t:t1")
    redis_of(single_broker).hset("asynq:{simple}:t:", mapping=task)
    redis_of(single_broker).rpush("asynq:{simple}:pending", "")

    page = viewer.get(LIST, {"queue": "simple", "state": "pending"})

    assert page.status_code == 200
    assert "t1" in text(page)


def test_archived_tasks_are_listed_with_the_time_of_archiving(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", queue="simple")

    content = text(viewer.get(f"{LIST}?queue=simple&state=archived"))

    assert re.search(r"<time[^>]*>\s*\d+ s ago", content), content


@pytest.mark.parametrize(("query", "name"), [("queue=simple&state=completed", "rows"), ("state=completed", "tasks")])
def test_a_completed_task_is_listed_with_its_duration_and_without_the_error_of_an_earlier_attempt(
    viewer: Client, single_broker: Broker, query: str, name: str
) -> None:
    put(single_broker, "t1", queue="simple")
    taken, failure = take_one(single_broker, "simple"), Failure(error="ValueError: no luck", retry_at_s=0)
    single_broker.run(retry(taken.lease, taken.message, failure, now_ns=single_broker.now_ns()))
    single_broker.run(forward_due(single_broker, ["simple"]))
    taken, end_ns = take_one(single_broker, "simple"), single_broker.now_ns()
    redis_of(single_broker).hset(QueueKeys("simple").task("t1"), "started", end_ns - 1250 * 10**6)
    single_broker.run(complete(taken.lease, taken.message, b"1", now_ns=end_ns))
    path = f"{LIST}?{query}"

    (of_redis,) = viewer.get(path).context[name]
    insert_runs(
        make_run(task_id="t1", outcome=RunOutcome.RETRIED, is_final=False, started_ns=end_ns - 60 * 10**9),
        make_run(task_id="t1", started_ns=end_ns - 500 * 10**6, ended_ns=end_ns),
        queue="simple",
    )
    response = viewer.get(path)

    assert (of_redis.error_line, of_redis.run_time) == ("", "1.25 s")
    assert [row.run_time for row in response.context[name]] == ["500 ms"]
    assert '<th scope="col" class="page-number">Ran for</th>' in text(response)
    assert "no luck" not in text(response)
    assert "Last error" not in text(response)
