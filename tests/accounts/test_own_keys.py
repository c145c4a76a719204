"""Keys that users make for themselves: with at most their rights, under their name, and no longer than these rights."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.duties import PersonalKeyEnder
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import MAX_PERSONAL_KEYS
from runqy.accounts.queries import find_keys_of_inactive_users
from runqy.redis_connection import get_broker
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.staff import client_of, staff_user

pytestmark = pytest.mark.usefixtures("configuration")

PAGE, USERS = "/admin/api-keys/", "/admin/auth/user/"
ALL_ROLES = {"viewer", "metrics", "client", "operator", "configurator", "worker", "admin"}


def make_key(user: User, role: str, name: str = "laptop") -> str:
    """Make a key on the page as a user, and return it."""
    page = client_of(user).post(PAGE, {"name": name, "role": role, "lifetime": "never"})
    plain: str = page.context["plain"]
    return plain


def status(key: str) -> int:
    return ApiClient(key).get("/api/keys/self").status_code


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("viewer", {"viewer", "metrics"}),
        ("operator", {"viewer", "metrics", "client", "operator"}),
        ("configurator", {"viewer", "metrics", "configurator"}),
        ("admin", ALL_ROLES),
        (None, set()),
    ],
)
def test_a_user_gets_keys_with_at_most_the_rights_of_the_role(role: str | None, expected: set[str]) -> None:
    user = staff_user(role, "carol")
    client = client_of(user)

    offered = {value for value, _ in client.get(PAGE).context["form"].fields["role"].choices}
    for each in ALL_ROLES:
        client.post(PAGE, {"name": each, "role": each, "lifetime": "90"})

    assert offered == expected
    assert set(ApiKey.objects.values_list("role", flat=True)) == expected


def test_what_a_key_of_a_user_does_is_recorded_under_the_name_of_the_user(admin_client: Client) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    user = staff_user("operator", "carol")
    key = make_key(user, "operator")

    assert ApiClient(key).post("/api/cli/queues/mail/pause").status_code == 200
    assert ApiClient(key).delete("/api/cli/configs/mail").status_code == 403
    form = {"username": "carola", "role": "operator", "is_active": "on"}
    assert admin_client.post(f"{USERS}{user.pk}/change/", form).status_code == 302
    assert ApiClient(key).post("/api/cli/queues/mail/unpause").status_code == 200

    records = {row.action: (row.actor_kind, row.actor_name) for row in audit_records()}
    assert records["api_key.created"] == ("user", "carol")
    assert records["queue.paused"] == ("key", "carol: laptop")
    assert records["queue.unpaused"] == ("key", "carola: laptop")


def deactivate(admin: Client, user: User) -> None:
    admin.post(f"{USERS}{user.pk}/change/", {"username": "carol", "role": "operator"})


def demote(admin: Client, user: User) -> None:
    admin.post(f"{USERS}{user.pk}/change/", {"username": "carol", "role": "viewer", "is_active": "on"})


def delete(admin: Client, user: User) -> None:
    admin.post(f"{USERS}{user.pk}/delete/", {"post": "yes"})


def delete_from_list(admin: Client, user: User) -> None:
    admin.post(USERS, {"action": "delete_selected", "_selected_action": [user.pk], "post": "yes"})


def narrow_group(admin: Client, user: User) -> None:
    group = Group.objects.get(name="operator")
    kept = Permission.objects.filter(group=group).exclude(codename="run_task").values_list("pk", flat=True)
    admin.post(f"/admin/auth/group/{group.pk}/change/", {"permissions": [*kept]})


def change_by_script(admin: Client, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)
    PersonalKeyEnder().run_tick(get_broker())


@pytest.mark.parametrize("change", [deactivate, demote, delete, delete_from_list, narrow_group, change_by_script])
def test_keys_end_with_the_rights_of_their_user(admin_client: Client, change: Callable[[Client, User], Any]) -> None:
    carol, dave = staff_user("operator", "carol"), staff_user("viewer", "dave")
    hers, his = make_key(carol, "operator"), make_key(dave, "viewer")
    assert (status(hers), status(his)) == (200, 200)

    change(admin_client, carol)

    assert (status(hers), status(his)) == (401, 200)
    revoked = audit_records().filter(action="api_key.revoked")
    assert [row.object_name.split(" ", 1)[1] for row in revoked] == ["carol: laptop"]
    assert find_keys_of_inactive_users() == ""


def test_keys_that_a_lower_role_has_too_stay(admin_client: Client) -> None:
    carol = staff_user("operator", "carol")
    reading = make_key(carol, "viewer")

    demote(admin_client, carol)

    assert status(reading) == 200


def test_keys_created_with_a_personal_key_are_reported_when_it_ends(admin_client: Client) -> None:
    carol = staff_user("admin", "carol")
    ApiClient(make_key(carol, "admin")).post("/api/keys", {"name": "deployment", "role": "admin"})

    form = {"username": "carol", "role": "admin"}
    page = admin_client.post(f"{USERS}{carol.pk}/change/", form, follow=True).content.decode()

    assert "that carol created" in page
    assert "deployment" in page
    assert "deployment" in find_keys_of_inactive_users()


def test_users_revoke_their_own_keys_and_no_others(admin_client: Client) -> None:
    carol = staff_user("viewer", "carol")
    key = make_key(carol, "viewer")
    make_key(staff_user("viewer", "dave"), "viewer", "phone")
    hers, his = ApiKey.objects.order_by("pk")
    client = client_of(carol)

    page = client.get(PAGE).content.decode()
    refused = client.post(f"{PAGE}{his.pk}/revoke/")
    asked = client.get(f"{PAGE}{hers.pk}/revoke/")
    assert status(key) == 200
    done = client.post(f"{PAGE}{hers.pk}/revoke/")

    assert ("laptop" in page, "phone" in page) == (True, False)
    assert (refused.status_code, asked.status_code, done.status_code, done["Location"]) == (404, 200, 302, PAGE)
    assert status(key) == 401
    assert "You have none." in client.get(PAGE).content.decode()


def test_a_user_has_a_limited_number_of_keys() -> None:
    carol = staff_user("viewer", "carol")
    client = client_of(carol)

    for number in range(MAX_PERSONAL_KEYS + 1):
        page = client.post(PAGE, {"name": f"laptop {number}", "role": "viewer", "lifetime": "never"})

    assert ApiKey.objects.count() == MAX_PERSONAL_KEYS
    assert f"You have {MAX_PERSONAL_KEYS} keys already" in page.content.decode()
