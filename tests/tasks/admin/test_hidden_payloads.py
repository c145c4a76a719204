"""Payloads, results and errors hidden from viewers, by the setting or by their queue."""

from dataclasses import replace

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from queues.models import QueueSource
from queues.operations import delete_definition, save_queue
from runqy.broker.broker import Broker
from runqy.configuration.operations import configuration_change
from tests.queues.samples import spec
from tests.support.runs import insert_runs, make_failure
from tests.support.staff import client_of, staff_client
from tests.support.tasks import new_task, put, take_one
from tests.tasks.admin.pages import ERRORS, LIST, change, text
from tests.tasks.task_helpers import fail_for_good, succeed

HIDDEN = "hidden from your role"
SECRETS = ("in-the-payload", "in-the-result", "in-the-error", new_task("t1", "simple", unique_key="k").lock)


@pytest.fixture(autouse=True, params=["setting", "queue"])
def hidden_by(request: pytest.FixtureRequest, queues: None, settings) -> str:
    """Hide the payloads of a queue; return by what."""
    if request.param == "setting":
        settings.RUNQY_HIDE_PAYLOADS = True
    else:
        deployment = replace(spec().deployment, hide_payloads=True)
        save_queue(spec=spec("simple", deployment=deployment), source=QueueSource.API)
    return str(request.param)


@pytest.fixture(autouse=True)
def tasks(hidden_by: str, single_broker: Broker) -> None:
    """Put a completed and a failed task on the queue."""
    put(single_broker, "t1", queue="simple", payload=b'{"x":"in-the-payload"}', unique_key="k")
    succeed(single_broker, take_one(single_broker, "simple"), b'"in-the-result"')
    put(single_broker, "t2", queue="simple", payload=b'{"x":"in-the-payload"}')
    fail_for_good(single_broker, take_one(single_broker, "simple"), "ValueError: in-the-error")


def test_a_queue_that_hides_payloads_hides_them_in_lists_of_all_queues(
    viewer: Client, single_broker: Broker, hidden_by: str
) -> None:
    put(single_broker, "t3", queue="image", payload=b'{"x":"of-another-queue"}')
    put(single_broker, "t5", "t6", queue="simple", payload=b'{"x":"in-the-payload"}')
    take_one(single_broker, "simple")
    insert_runs(make_failure("ValueError: in-the-error", task_id="t2"), queue="simple")
    insert_runs(make_failure("ValueError: of-another-queue", task_id="t4"), queue="image")

    paths = (
        *(f"{LIST}?state=ended", f"{LIST}?state=pending&sort=oldest", ERRORS),
        *(f"{LIST}?state=ended&sort=slowest", f"{LIST}failing/", f"{LIST}worker-runs/?worker=w1"),
    )
    pages = [text(viewer.get(path)) for path in paths]

    assert [page.count("in-the") for page in pages] == [0] * len(paths)
    assert ["of-another-queue" in page for page in pages] == [hidden_by == "queue"] * len(paths)


def test_the_search_of_all_queues_shows_hidden_tasks_by_their_ids_only(viewer: Client, single_broker: Broker) -> None:
    insert_runs(make_failure("ValueError: in-the-error", task_id="ended"), queue="simple")

    pages = [text(viewer.get(f"{LIST}search/?q={words}")) for words in ("t2", "ended", "in-the-payload")]

    assert [page.count("in-the") - page.count("q=in-the") for page in pages[:2]] == [0, 0]
    assert ["/t2/change/" in pages[0], "/ended/change/" in pages[1], "/change/" in pages[2]] == [True, True, False]


def test_viewers_search_by_text_only_where_nothing_is_hidden(viewer: Client, hidden_by: str) -> None:
    for queue in ("simple", "image"):
        insert_runs(make_failure("ValueError: in-the-error", task_id=f"ended-{queue}"), queue=queue)
    paths = [f"{LIST}?state=ended&text=nowhere{queue}" for queue in ("", "&queue=simple", "&queue=image")]

    pages = [text(viewer.get(path)) for path in (*paths, f"{LIST}?state=archived&text=nowhere")]

    is_applied = [False, False, hidden_by == "queue", False]
    assert ["is not applied, because payloads" in page for page in pages] == [not applied for applied in is_applied]
    assert ["/change/" in page for page in pages] == [not applied for applied in is_applied]
    assert not any("Delete all" in page for page in pages)


def test_a_text_that_is_not_applied_offers_no_action_on_what_is_listed(hidden_by: str) -> None:
    insert_runs(make_failure("ValueError: in-the-error", task_id="ended"), queue="simple")
    user = User.objects.create(username="may-delete", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=("view_task", "delete_task")))
    staff = client_of(user)

    listed = text(staff.get(f"{LIST}?state=ended&queue=simple&text=nowhere"))
    request = staff.get("/admin/tasks/bulkaction/add/?action=delete&state=ended&queue=simple&text=nowhere")

    assert "Delete all" in text(staff.get(f"{LIST}?state=ended&queue=simple"))
    assert ("/ended/change/" in listed, "Delete all" in listed) == (True, False)
    assert request.status_code == 403


def test_a_definition_that_is_deleted_shows_nothing_that_it_hid(viewer: Client, hidden_by: str) -> None:
    with configuration_change() as changed:
        delete_definition(changed, "simple")

    for path in (change("t1"), change("t2"), f"{LIST}?queue=simple&state=archived"):
        content = text(viewer.get(path))
        assert [secret for secret in SECRETS if secret in content] == []


PAGES = (change("t1"), change("t2"), f"{LIST}?queue=simple&state=completed", f"{LIST}?queue=simple&state=archived")


@pytest.mark.parametrize("path", PAGES)
def test_viewers_see_a_placeholder_for_hidden_content(viewer: Client, path: str) -> None:
    content = text(viewer.get(path))

    assert [secret for secret in SECRETS if secret in content] == []
    assert (HIDDEN in content) == ("completed" not in path)


@pytest.mark.parametrize("path", [f"{LIST}t1/payload/", f"{LIST}t1/result/", f"{LIST}t2/payload/"])
def test_viewers_download_nothing_hidden(viewer: Client, path: str) -> None:
    response = viewer.get(path)

    assert response.status_code == 403
    assert b"in-the" not in response.content


@pytest.mark.parametrize("role", ["operator", "configurator", "admin"])
def test_roles_with_the_permission_see_everything(role: str) -> None:
    staff = staff_client(role)

    content = "".join(text(staff.get(path)) for path in PAGES)

    assert [secret for secret in SECRETS if secret not in content] == []
    assert HIDDEN not in content
    assert staff.get(f"{LIST}t1/payload/").content == b'{"x":"in-the-payload"}'


def test_viewers_see_everything_when_nothing_hides_it(viewer: Client, settings) -> None:
    settings.RUNQY_HIDE_PAYLOADS = False
    save_queue(spec=spec("simple"), source=QueueSource.API)

    content = "".join(text(viewer.get(path)) for path in PAGES)

    assert [secret for secret in SECRETS if secret not in content] == []
