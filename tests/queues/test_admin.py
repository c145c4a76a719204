"""Queues in the admin."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from queues.models import Queue, Source
from queues.queries import get_catalog
from tests.publication.support import away

pytestmark = pytest.mark.usefixtures("configuration")

FORM = {
    "name": "mail",
    "is_enabled": "on",
    "priority": "5",
    "mode": "one_shot",
    "order": "strict",
    "git_url": "https://h/r.git",
    "branch": "main",
    "code_path": "",
    "startup_cmd": "python main.py",
    "startup_timeout_s": "60",
    "requirements_file": "requirements.txt",
    "env_vars": '{"A": "1"}',
    "redis_storage": "on",
    "vaults": "[]",
    "git_token": "",
    "max_retry": "4",
    "input": '[{"name": "x", "type": "int", "default": 7}]',
    "output": "[]",
    "sub_queues-TOTAL_FORMS": "0",
    "sub_queues-INITIAL_FORMS": "0",
}


@pytest.fixture
def staff(admin_client: Client) -> Client:
    """Return the browser of somebody who may do everything."""
    return admin_client


def test_a_queue_is_added_changed_and_deleted_through_the_operations(staff: Client) -> None:
    added = staff.post("/admin/queues/queue/add/", FORM)
    assert added.status_code == 302, added.content
    queue = Queue.objects.get()
    assert queue.source == Source.ADMIN
    found = get_catalog().resolve("mail").queue
    assert (found.mode, found.limits.max_retry, found.input[0].default_json) == ("one_shot", 4, "7")

    page = f"/admin/queues/queue/{queue.pk}/"
    subs = {"sub_queues-TOTAL_FORMS": "2", "sub_queues-0-name": "high", "sub_queues-0-priority": "9"}
    subs |= {"sub_queues-1-name": "low", "sub_queues-1-priority": "2"}
    assert staff.post(f"{page}change/", FORM | subs | {"is_enabled": ""}).status_code == 302
    assert get_catalog().redis_queues() == ["mail_high", "mail_low"]
    assert not get_catalog().resolve("mail.high").queue.is_enabled

    assert staff.get(f"{page}change/").status_code == 200
    assert staff.post(f"{page}delete/", {"post": "yes"}).status_code == 302
    assert get_catalog().definitions == ()
    assert LogEntry.objects.count() == 3


def test_a_sub_queue_can_be_taken_away(staff: Client) -> None:
    subs = {"sub_queues-TOTAL_FORMS": "1", "sub_queues-0-name": "high", "sub_queues-0-priority": "9"}
    staff.post("/admin/queues/queue/add/", FORM | subs)
    queue = Queue.objects.get()
    gone = {"sub_queues-INITIAL_FORMS": "1", "sub_queues-0-id": queue.sub_queues.get().pk, "sub_queues-0-DELETE": "on"}

    staff.post(f"/admin/queues/queue/{queue.pk}/change/", FORM | subs | gone | {"sub_queues-0-queue": queue.pk})

    assert get_catalog().redis_queues() == ["mail"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"git_url": "ext::sh"}, "deployment.git_url: it is an https"),
        ({"env_vars": '{"PATH": "/x"}'}, "deployment.env_vars.PATH: PATH is reserved"),
        ({"env_vars": '["a"]'}, "deployment.env_vars: expected"),
        ({"input": '[{"name": "x", "type": "integer"}]'}, "input[0].type: invalid enum value"),
        ({"git_token": "ghp_x"}, "deployment.git_token: it is vault://"),
        ({"name": "a b"}, "name: a name has 1 to 128"),
    ],
)
def test_a_wrong_field_is_told_beside_the_form(staff: Client, wrong: dict, said: str) -> None:
    answer = staff.post("/admin/queues/queue/add/", FORM | wrong)

    assert answer.status_code == 200
    assert said in answer.content.decode()
    assert not Queue.objects.exists()


def test_what_an_operation_refuses_is_shown_and_nothing_is_kept(staff: Client) -> None:
    staff.post("/admin/queues/queue/add/", FORM)

    answer = staff.post("/admin/queues/queue/add/", FORM | {"name": "mail_default"}, follow=True)

    assert "The queue mail answers to &#x27;mail_default&#x27; too." in answer.content.decode()
    assert [queue.name for queue in Queue.objects.all()] == ["mail"]


def test_staff_see_that_what_they_saved_is_not_published_yet(staff: Client, settings) -> None:
    here, settings.REDIS_TARGET = settings.REDIS_TARGET, away()
    assert staff.post("/admin/queues/queue/add/", FORM).status_code == 302
    assert "Redis cannot be reached" in staff.get("/admin/queues/queue/").content.decode()

    settings.REDIS_TARGET = here

    assert "not published yet" in staff.get("/admin/queues/queue/").content.decode()
