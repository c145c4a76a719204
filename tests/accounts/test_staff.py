"""What staff do in the admin is recorded under their names, also what Django does itself."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.audit.models import AuditRecord
from tests.queues.samples import spec
from tests.support.staff import create_roles

pytestmark = pytest.mark.usefixtures("configuration")

USERS = "/admin/auth/user/"
PASSWORD = "a-Password-1-for-carol"
NEW = {"username": "carol", "role": "viewer", "password1": PASSWORD, "password2": PASSWORD}


def audited() -> list[tuple[str, str, dict[str, Any]]]:
    """Return the audit records of users and groups, in order. Check who did it."""
    rows = AuditRecord.objects.filter(object_kind__in=["user", "group"]).order_by("number")
    assert {(row.actor_kind, row.actor_name) for row in rows} == {("user", "admin")}
    return [(row.action, row.object_name, json.loads(row.changes)) for row in rows]


@pytest.fixture(autouse=True)
def _roles(configuration: None) -> None:
    create_roles()


@pytest.fixture
def carol(admin_client: Client) -> User:
    """Add a user as staff do."""
    response = admin_client.post(f"{USERS}add/", NEW)
    assert response.status_code == 302, response.content
    return User.objects.get(username="carol")


def test_all_changes_of_a_user_are_recorded(admin_client: Client, carol: User) -> None:
    changed = admin_client.post(f"{USERS}{carol.pk}/change/", {"username": "carol", "role": "operator"})
    assert changed.status_code == 302, changed.content
    secret = {"usable_password": "true", "password1": PASSWORD + "2", "password2": PASSWORD + "2"}
    assert admin_client.post(f"{USERS}{carol.pk}/password/", secret).status_code == 302
    assert admin_client.post(f"{USERS}{carol.pk}/delete/", {"post": "yes"}).status_code == 302

    created, updated, password, deleted = audited()
    assert created[:2] == ("user.created", "carol")
    assert created[2]["password1"] == "changed"
    assert created[2]["role"] == {"old": None, "new": "viewer"}
    assert updated[2] == {
        "is_active": {"old": True, "new": False},
        "role": {"old": "viewer", "new": "operator"},
    }
    assert password == ("user.updated", "carol", {"password": "changed"})
    assert deleted[:2] == ("user.deleted", "carol")
    assert PASSWORD not in str(audited())


def test_users_deleted_from_the_list_are_recorded_one_by_one(admin_client: Client, carol: User) -> None:
    other = User.objects.create_user("dave")

    action = {"action": "delete_selected", "_selected_action": [carol.pk, other.pk], "post": "yes"}
    admin_client.post(USERS, action)

    assert {name for verb, name, _ in audited() if verb == "user.deleted"} == {"carol", "dave"}
    assert not User.objects.filter(username__in=["carol", "dave"]).exists()


def test_permissions_of_a_group_are_recorded(admin_client: Client) -> None:
    permission = Permission.objects.get(codename="add_apikey")

    admin_client.post("/admin/auth/group/add/", {"name": "operators", "permissions": [permission.pk]})

    ((action, name, changes),) = audited()
    assert (action, name) == ("group.created", "operators")
    assert changes["permissions"]["new"] == [str(permission)]


def test_a_password_that_is_refused_is_not_recorded(admin_client: Client, carol: User) -> None:
    wrong = {"usable_password": "true", "password1": "x", "password2": "y"}

    assert admin_client.post(f"{USERS}{carol.pk}/password/", wrong).status_code == 200

    assert [action for action, _, _ in audited()] == ["user.created"]


def test_ones_own_password_is_recorded(admin_client: Client) -> None:
    form = {"old_password": "password", "new_password1": PASSWORD, "new_password2": PASSWORD}

    assert admin_client.post("/admin/password_change/", form).status_code == 302

    assert audited() == [("user.updated", "admin", {"password": "changed"})]
    assert Client().get("/admin/password_change/").status_code == 302


def test_queues_are_changed_under_the_name_of_the_user(admin_client: Client) -> None:
    queue = save_queue(spec=spec("mail"), source=QueueSource.API)

    page = f"/admin/queues/queue/{queue.pk}/switch/"
    admin_client.post(page, {"verb": "disable"}, headers={"X-Request-ID": "from-a-browser"})

    row = AuditRecord.objects.get(object_name="mail", actor_kind="user")
    assert (row.actor_kind, row.actor_name, row.address) == ("user", "admin", "127.0.0.1")
    assert row.request_id == "from-a-browser"
