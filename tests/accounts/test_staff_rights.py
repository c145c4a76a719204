"""Staff cannot grant more than they have, and the last administrator cannot be removed."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from runqy.admin_site.roles import ROLES
from runqy.audit.models import AuditRecord
from tests.support.staff import client_of, create_roles

pytestmark = pytest.mark.usefixtures("configuration")

USERS, GROUPS = "/admin/auth/user/", "/admin/auth/group/"
PASSWORD = "a-Password-1-for-carol"


@pytest.fixture(autouse=True)
def _roles(configuration: None) -> None:
    create_roles()


def user(name: str, role: str = "", **columns: Any) -> User:
    """Create a user with a role."""
    row = User.objects.create_user(name, is_staff=True, **columns)
    if role:
        row.groups.add(Group.objects.get(name=role))
    return row


def new(name: str, role: str) -> dict[str, str]:
    """Return the form of a new user."""
    return {"username": name, "role": role, "password1": PASSWORD, "password2": PASSWORD}


def change(client: Client, row: User, **fields: str) -> Any:
    """Send the form of a user, with changes; empty fields are switched off."""
    form = {"username": row.username, "role": "viewer", "is_active": "on"} | fields
    return client.post(f"{USERS}{row.pk}/change/", {name: value for name, value in form.items() if value})


def errors(response: Any) -> dict[str, list[str]]:
    """Return what a form refused."""
    return dict(response.context["adminform"].form.errors) if response.context else {}


@pytest.mark.parametrize("role", [role.name for role in ROLES])
def test_an_admin_creates_users_of_every_role(role: str) -> None:
    response = client_of(user("ann", "admin")).post(f"{USERS}add/", new("carol", role))

    assert response.status_code == 302, errors(response)
    carol = User.objects.get(username="carol")
    assert [group.name for group in carol.groups.all()] == [role]
    assert (carol.is_staff, carol.is_superuser) == (True, False)
    assert carol.check_password(PASSWORD)


def test_only_superusers_create_superusers(admin_client: Client) -> None:
    refused = client_of(user("ann", "admin")).post(f"{USERS}add/", new("carol", "superuser"))
    assert "superuser is not one of the available choices" in errors(refused)["role"][0]

    admin_client.post(f"{USERS}add/", new("carol", "superuser"))

    assert User.objects.get(username="carol").is_superuser


def test_an_admin_neither_changes_a_superuser_nor_their_password_nor_deletes_them(admin_user: User) -> None:
    client = client_of(user("ann", "admin"))
    secret = {"password1": PASSWORD, "password2": PASSWORD}

    assert client.get(f"{USERS}{admin_user.pk}/change/").status_code == 200
    assert change(client, admin_user).status_code == 403
    assert client.post(f"{USERS}{admin_user.pk}/password/", secret).status_code == 403
    client.post(f"{USERS}{admin_user.pk}/delete/", {"post": "yes"})
    client.post(USERS, {"action": "delete_selected", "_selected_action": [admin_user.pk], "post": "yes"})

    row = User.objects.get(pk=admin_user.pk)
    assert (row.is_superuser, row.password) == (True, admin_user.password)


@pytest.mark.parametrize("role", ["viewer", "operator", "configurator"])
def test_other_roles_view_users_and_change_none(role: str) -> None:
    client, carol = client_of(user("ann", role)), user("carol", "viewer")

    assert client.get(USERS).status_code == client.get(f"{USERS}{carol.pk}/change/").status_code == 200
    assert change(client, carol, role="operator").status_code == 403
    assert client.post(f"{USERS}add/", new("dave", "viewer")).status_code == 403
    assert client.post(f"{USERS}{carol.pk}/password/", {}).status_code == 403
    assert client.post(f"{USERS}{carol.pk}/delete/", {"post": "yes"}).status_code == 403
    assert User.objects.count() == 2


def test_users_cannot_assign_or_change_more_permissions_than_their_own() -> None:
    clerk = user("clerk")
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="auth", content_type__model="user"))
    client, carol, resting = client_of(clerk), user("carol"), user("dave", "admin", is_active=False)

    assert "not one of the available choices" in errors(change(client, carol, role="admin"))["role"][0]
    assert change(client, resting, role="admin").status_code == 403


def test_users_cannot_deactivate_demote_or_delete_themselves() -> None:
    ann = user("ann", "admin")
    user("bob", "admin")
    client = client_of(ann)

    inactive = errors(change(client, ann, role="admin", is_active=""))
    lower = errors(change(client, ann, role="viewer"))
    kept = client.post(f"{USERS}{ann.pk}/delete/", {"post": "yes"})

    assert inactive == {"is_active": ["You cannot deactivate yourself; ask another admin."]}
    assert lower == {"role": ["You cannot change your own role; ask another admin."]}
    assert "You cannot delete yourself" in kept.content.decode()
    assert change(client, ann, role="admin").status_code == 302
    ann.refresh_from_db()
    assert (ann.is_active, ann.groups.get().name) == (True, "admin")


def test_the_last_active_admin_cannot_be_removed() -> None:
    clerk, ann = user("clerk"), user("ann", "admin")
    clerk.user_permissions.set(Permission.objects.all())
    user("resting", "admin", is_active=False)
    client = client_of(clerk)

    for fields in ({"role": "viewer"}, {"role": "admin", "is_active": ""}):
        (sentence,) = errors(change(client, ann, **fields)).values()
        assert "ann is the last active admin" in sentence[0]
    assert "ann is the last active admin" in client.post(f"{USERS}{ann.pk}/delete/", {"post": "yes"}).content.decode()
    client.post(USERS, {"action": "delete_selected", "_selected_action": [ann.pk], "post": "yes"})
    assert User.objects.filter(pk=ann.pk, is_active=True, groups__name="admin").exists()

    user("bob", "admin")
    assert change(client, ann, role="viewer").status_code == 302


def test_a_role_replaces_another_and_keeps_other_groups() -> None:
    client, carol = client_of(user("ann", "admin")), user("carol", "viewer")
    carol.groups.add(Group.objects.create(name="night shift"))

    change(client, carol, role="operator")

    assert {group.name for group in carol.groups.all()} == {"night shift", "operator"}
    row = AuditRecord.objects.get(action="user.updated")
    assert json.loads(row.changes) == {"role": {"old": "viewer", "new": "operator"}}


def test_permissions_of_their_own_are_kept_until_a_role_is_chosen() -> None:
    client, carol = client_of(user("ann", "admin")), user("carol")
    carol.groups.add(Group.objects.create(name="night shift"))

    assert change(client, carol, role="as-it-is", is_active="").status_code == 302

    carol.refresh_from_db()
    assert (carol.is_active, [group.name for group in carol.groups.all()]) == (False, ["night shift"])


def test_users_cannot_add_permissions_that_they_lack_to_a_group() -> None:
    clerk = user("clerk")
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="auth"))
    client, mine = client_of(clerk), Group.objects.create(name="night shift")
    add_key, add_user = (Permission.objects.get(codename=name) for name in ("add_apikey", "add_user"))

    refused = client.post(f"{GROUPS}{mine.pk}/change/", {"name": "night shift", "permissions": [add_key.pk]})
    assert "You can add and remove only permissions that you have" in errors(refused)["permissions"][0]
    client.post(f"{GROUPS}{mine.pk}/change/", {"name": "night shift", "permissions": [add_user.pk]})

    assert [permission.codename for permission in mine.permissions.all()] == ["add_user"]


def test_the_groups_of_roles_keep_their_names_and_stay(admin_client: Client) -> None:
    viewer = Group.objects.get(name="viewer")
    permissions = list(viewer.permissions.values_list("pk", flat=True))

    admin_client.post(f"{GROUPS}{viewer.pk}/change/", {"name": "other", "permissions": permissions})
    kept = admin_client.post(f"{GROUPS}{viewer.pk}/delete/", {"post": "yes"})

    assert "viewer is a role of runqy." in kept.content.decode()
    assert Group.objects.get(pk=viewer.pk).name == "viewer"


def test_a_users_page_leads_to_the_records_of_the_user(admin_client: Client) -> None:
    carol = user("carol", "viewer")

    response = admin_client.get(f"{USERS}{carol.pk}/history/")

    assert response.headers["Location"] == "/admin/audit/auditrecord/?kind=user&object=carol"


def test_the_last_two_admins_cannot_be_deleted_together() -> None:
    clerk = user("clerk")
    clerk.user_permissions.set(Permission.objects.all())
    admins = [user("ann", "admin"), user("bob", "admin")]

    action = {"action": "delete_selected", "_selected_action": [row.pk for row in admins], "post": "yes"}
    response = client_of(clerk).post(USERS, action)

    assert response.status_code == 403
    assert User.objects.filter(groups__name="admin").count() == 2
