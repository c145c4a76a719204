"""Keys of users who are deactivated, demoted or deleted: listed, and revoked on request."""

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from runqy.accounts.models import ApiKey
from runqy.accounts.queries import find_keys_of_inactive_users
from tests.api.client import ApiClient
from tests.support.staff import client_of, staff_user

pytestmark = pytest.mark.usefixtures("configuration")
KEYS, USERS = "/admin/accounts/apikey/", "/admin/auth/user/"
OFFER = "/admin/accounts/apikey/of/carol/revoke/"
FORM = {"name": "hers", "role": "admin", "lifetime": "never"}


@pytest.fixture
def carol(configuration: None) -> User:
    """Return an admin who created a key in the admin, and another key with it."""
    user = staff_user("admin", "carol")
    client = client_of(user)
    page = client.post(f"{KEYS}add/", FORM)
    plain = page.context["plain"]
    assert ApiClient(plain).post("/api/keys", {"name": "grandchild", "role": "admin"}).status_code == 201
    return user


def accepted() -> set[str]:
    return set(ApiKey.objects.filter(revoked_at=None).values_list("name", flat=True))


@pytest.mark.parametrize("change", ["deactivated", "demoted", "deleted"])
def test_keys_of_a_user_who_is_no_admin_any_more_are_listed_and_revoked(
    carol: User, admin_client: Client, change: str
) -> None:
    ApiClient().post("/api/keys", {"name": "unrelated"})
    forms = {
        "deactivated": ("change/", {"username": "carol", "role": "admin"}),
        "demoted": ("change/", {"username": "carol", "role": "viewer", "is_active": "on"}),
        "deleted": ("delete/", {"post": "yes"}),
    }
    path, form = forms[change]

    after = admin_client.post(f"{USERS}{carol.pk}/{path}", form, follow=True).content.decode()
    offer = admin_client.get(OFFER).content.decode()

    assert all(name in find_keys_of_inactive_users() for name in ("hers", "grandchild"))
    assert ("that carol created" in after, "hers" in after, "grandchild" in after, OFFER in after) == (True,) * 4
    assert ("hers" in offer, "grandchild" in offer, "unrelated" in offer) == (True, True, False)
    assert admin_client.post(OFFER, {"confirmed": "yes"}).status_code == 302
    assert (accepted(), find_keys_of_inactive_users()) == ({"unrelated"}, "")


def test_a_user_who_stays_an_admin_keeps_keys_without_a_word(carol: User, admin_client: Client) -> None:
    form = {"username": "carola", "role": "admin", "is_active": "on"}

    page = admin_client.post(f"{USERS}{carol.pk}/change/", form, follow=True).content.decode()

    assert "still accepted" not in page + find_keys_of_inactive_users()
    assert "user carola" in admin_client.get(f"{KEYS}?creator=carola").content.decode()


def test_keys_are_filtered_by_their_creator(carol: User, admin_client: Client) -> None:
    ApiClient().post("/api/keys", {"name": "unrelated"})
    active = admin_client.get(f"{KEYS}?creator=(inactive)").content.decode()
    User.objects.filter(pk=carol.pk).update(is_active=False)

    hers, inactive = (
        admin_client.get(f"{KEYS}?creator={creator}").content.decode() for creator in ("carol", "(inactive)")
    )

    assert ("hers" in active, "hers" in hers, "hers" in inactive) == (False, True, True)
    assert "unrelated" not in hers + inactive
    assert "user carol, inactive" in inactive


def test_who_may_not_revoke_keys_is_refused(carol: User) -> None:
    carol.groups.set([Group.objects.get(name="viewer")])
    client = client_of(carol)

    assert client.get(OFFER).status_code == 403
    assert client.post(OFFER, {"confirmed": "yes"}).status_code == 403
    assert accepted() == {"grandchild", "hers"}
