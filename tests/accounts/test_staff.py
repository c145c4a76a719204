"""What staff do in the admin is recorded under their names, also what Django does itself."""

import json
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.test import Client

from queues.models import Source
from queues.operations import save_queue
from runqy.audit.models import AuditRecord
from runqy.staff.roles import grant_roles
from tests.queues.samples import spec

pytestmark = pytest.mark.usefixtures("configuration")

USERS = "/admin/auth/user/"
PASSWORD = "a-Password-1-for-carol"
NEW = {"username": "carol", "role": "viewer", "password1": PASSWORD, "password2": PASSWORD}


def told() -> list[tuple[str, str, dict[str, Any]]]:
    """Return what was recorded of users and groups, in order, having looked at who did it."""
    rows = AuditRecord.objects.filter(object_kind__in=["user", "group"]).order_by("number")
    assert {(row.actor_kind, row.actor_name) for row in rows} == {("user", "admin")}
    return [(row.action, row.object_name, json.loads(row.changes)) for row in rows]


@pytest.fixture(autouse=True)
def _roles(configuration: None) -> None:
    grant_roles(apps)


@pytest.fixture
def carol(admin_client: Client) -> User:
    """Add a user as staff do."""
    answer = admin_client.post(f"{USERS}add/", NEW)
    assert answer.status_code == 302, answer.content
    return User.objects.get(username="carol")


def test_a_user_is_recorded_from_beginning_to_end(admin_client: Client, carol: User) -> None:
    changed = admin_client.post(f"{USERS}{carol.pk}/change/", {"username": "carol", "role": "operator"})
    assert changed.status_code == 302, changed.content
    secret = {"usable_password": "true", "password1": PASSWORD + "2", "password2": PASSWORD + "2"}
    assert admin_client.post(f"{USERS}{carol.pk}/password/", secret).status_code == 302
    assert admin_client.post(f"{USERS}{carol.pk}/delete/", {"post": "yes"}).status_code == 302

    created, updated, password, deleted = told()
    assert created[:2] == ("user.created", "carol")
    assert created[2]["password1"] == "changed"
    assert created[2]["role"] == {"old": None, "new": "viewer"}
    assert updated[2] == {
        "is_active": {"old": True, "new": False},
        "role": {"old": "viewer", "new": "operator"},
    }
    assert password == ("user.updated", "carol", {"password": "changed"})
    assert deleted[:2] == ("user.deleted", "carol")
    assert PASSWORD not in str(told())


def test_users_deleted_from_the_list_are_recorded_one_by_one(admin_client: Client, carol: User) -> None:
    other = User.objects.create_user("dave")

    action = {"action": "delete_selected", "_selected_action": [carol.pk, other.pk], "post": "yes"}
    admin_client.post(USERS, action)

    assert {name for verb, name, _ in told() if verb == "user.deleted"} == {"carol", "dave"}
    assert not User.objects.filter(username__in=["carol", "dave"]).exists()


def test_what_a_group_may_do_is_recorded(admin_client: Client) -> None:
    permission = Permission.objects.get(codename="add_apikey")

    admin_client.post("/admin/auth/group/add/", {"name": "operators", "permissions": [permission.pk]})

    ((action, name, changes),) = told()
    assert (action, name) == ("group.created", "operators")
    assert changes["permissions"]["new"] == [str(permission)]


def test_a_password_that_is_refused_is_not_recorded(admin_client: Client, carol: User) -> None:
    wrong = {"usable_password": "true", "password1": "x", "password2": "y"}

    assert admin_client.post(f"{USERS}{carol.pk}/password/", wrong).status_code == 200

    assert [action for action, _, _ in told()] == ["user.created"]


def test_ones_own_password_is_recorded(admin_client: Client) -> None:
    form = {"old_password": "password", "new_password1": PASSWORD, "new_password2": PASSWORD}

    assert admin_client.post("/admin/password_change/", form).status_code == 302

    assert told() == [("user.updated", "admin", {"password": "changed"})]
    assert Client().get("/admin/password_change/").status_code == 302


def test_queues_are_changed_under_the_name_of_the_user(admin_client: Client) -> None:
    queue = save_queue(spec=spec("mail"), source=Source.API)

    page = f"/admin/queues/queue/{queue.pk}/switch/"
    admin_client.post(page, {"verb": "disable"}, headers={"X-Request-ID": "from-a-browser"})

    row = AuditRecord.objects.get(object_name="mail", actor_kind="user")
    assert (row.actor_kind, row.actor_name, row.address) == ("user", "admin", "127.0.0.1")
    assert row.request_id == "from-a-browser"
