"""Finding tasks: the queues with their counts, the tasks of one, a task by its id."""

import re

import pytest
from django.test import Client

from queues.models import Source
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.pausing import pause
from tests.queues.samples import spec
from tests.support.tasks import put
from tests.tasks.life import put_in
from tests.tasks_admin.reading import LIST, change, read, text


def pages(staff: Client, path: str, label: str) -> list[list[str]]:
    """Return the ids on each page, following a link."""
    found = []
    while path:
        answer = staff.get(path)
        found.append(read(answer).ticks)
        link = re.search(rf'href="([^"]*)">{label}</a>', text(answer))
        path = link[1].replace("&amp;", "&") if link else ""
    return found


def test_queues_are_listed_with_their_sub_queues_and_counts(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", "t2", queue="inference_high")
    put(single_broker, "t3", queue="from-elsewhere")

    shown = text(viewer.get(LIST))

    assert re.search(r'href="/admin/tasks/task/\?queue=inference_high&amp;state=pending">2</a>', shown)
    assert re.search(r'href="/admin/tasks/task/\?queue=inference_low&amp;state=archived">0</a>', shown)
    assert re.findall(r">\s*(inference|inference_high|simple|only in Redis|disabled)\s*<", shown) == [
        *("inference", "inference_high"),
        *("disabled", "simple", "only in Redis"),
    ]


def test_queues_are_found_by_a_part_of_a_name(viewer: Client) -> None:
    assert "inference_low" in text(viewer.get(f"{LIST}?q=RENCE_L"))
    assert "?queue=simple" not in text(viewer.get(f"{LIST}?q=RENCE_L"))
    assert "No queue has “&lt;b&gt;” in its name" in text(viewer.get(f"{LIST}?q=<b>"))


def test_many_queues_are_listed_page_by_page(viewer: Client) -> None:
    for number in range(60):
        save_queue(spec=spec(f"q{number:02}"), source=Source.API)

    first, second = text(viewer.get(LIST)), text(viewer.get(f"{LIST}?page=2"))

    assert ("?queue=q10&" in first, "?queue=q59&" in first) == (True, False)
    assert ("?queue=q10&" in second, "?queue=q59&" in second) == (False, True)
    assert "Page 1 of 2, 64 queues" in first


def test_a_task_is_found_by_its_id_alone(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="inference_low")

    answer = viewer.get(f"{LIST}?id=%20t1%20")

    assert (answer.status_code, answer["Location"]) == (302, change("t1", "inference_low"))


def test_an_id_that_is_none_is_said(viewer: Client) -> None:
    assert "There is no task nope." in text(viewer.get(f"{LIST}?id=nope"))


@pytest.mark.parametrize("task_id", ["a/b", "a b?c#d", "ä<i>", "100%", "a_2Fb", "../x"])
def test_any_id_leads_to_its_page(viewer: Client, single_broker: Broker, task_id: str) -> None:
    put(single_broker, task_id, queue="simple")
    link = re.search(r'href="([^"]*/change/[^"]*)"', text(viewer.get(f"{LIST}?queue=simple")))
    assert link

    shown = viewer.get(link[1].replace("&amp;", "&"))

    assert shown.status_code == 200
    assert shown.context["task"].id == task_id


def test_a_list_goes_on_and_back(operator: Client, single_broker: Broker) -> None:
    ids = [f"t{number:03}" for number in range(120)]
    put(single_broker, *ids, queue="simple")

    onward = pages(operator, f"{LIST}?queue=simple&state=pending", "Next")
    assert onward == [ids[:50], ids[50:100], ids[100:]]

    answer = operator.get(f"{LIST}?queue=simple&state=pending")
    for _ in range(2):
        answer = operator.get(re.search(r'href="([^"]*)">Next</a>', text(answer))[1].replace("&amp;", "&"))  # type: ignore[index]
    back = re.search(r'href="([^"]*)">Previous</a>', text(answer))
    assert back
    assert pages(operator, back[1].replace("&amp;", "&"), "Previous") == [ids[50:100], ids[:50]]


def test_what_is_over_is_listed_with_the_newest_first(operator: Client, single_broker: Broker) -> None:
    put_in(single_broker, "archived", "t1", "t2")

    assert read(operator.get(f"{LIST}?queue=simple&state=archived")).ticks == ["t2", "t1"]


def test_without_a_state_the_first_with_tasks_is_shown(viewer: Client, single_broker: Broker) -> None:
    put_in(single_broker, "retry", "t1")

    answer = viewer.get(f"{LIST}?queue=simple")

    assert answer.context["state"] == "retry"
    assert "boom" in text(answer)


def test_an_empty_list_says_how_to_put_a_task_there(viewer: Client, operator: Client) -> None:
    shown = text(viewer.get(f"{LIST}?queue=image"))

    assert "No pending tasks in image" in shown
    assert "curl -X POST http://testserver/queue/add" in shown
    assert "/admin/tasks/task/add/" not in shown
    assert "/admin/tasks/task/add/?queue=image" in text(operator.get(f"{LIST}?queue=image"))
    assert "takes no tasks" in text(viewer.get(f"{LIST}?queue=off"))


def test_a_paused_queue_says_so(viewer: Client, single_broker: Broker) -> None:
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
def test_nonsense_in_an_address_has_a_page_of_ours(viewer: Client, query: str, status: int) -> None:
    answer = viewer.get(f"{LIST}?{query}")

    assert answer.status_code == status
    assert "runqy" in text(answer)


def test_a_cursor_of_another_list_is_refused(operator: Client, single_broker: Broker) -> None:
    put(single_broker, *(f"t{number}" for number in range(60)), queue="simple")
    following = re.search(r'href="([^"]*)">Next</a>', text(operator.get(f"{LIST}?queue=simple")))
    assert following

    answer = operator.get(following[1].replace("&amp;", "&").replace("queue=simple", "queue=image"))

    assert answer.status_code == 400


def test_no_page_takes_many_queries(viewer: Client, single_broker: Broker, django_assert_max_num_queries) -> None:
    put(single_broker, *(f"t{number}" for number in range(60)), queue="simple")

    for path in (LIST, f"{LIST}?queue=simple", change("t1")):
        with django_assert_max_num_queries(12):
            assert viewer.get(path).status_code == 200


def test_an_id_without_a_page_does_not_hide_the_list(viewer: Client, single_broker: Broker) -> None:
    put(single_broker, "t1", queue="simple")
    task = single_broker.client.hgetall("asynq:{simple}:t:t1")
    single_broker.client.hset("asynq:{simple}:t:", mapping=task)
    single_broker.client.rpush("asynq:{simple}:pending", "")

    page = viewer.get(LIST, {"queue": "simple", "state": "pending"})

    assert page.status_code == 200
    assert "t1" in text(page)
