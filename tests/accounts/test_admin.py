"""API keys in the admin."""

import re

import pytest
from django.test import Client

from runqy.accounts.models import ApiKey
from runqy.accounts.queries import authenticate

pytestmark = pytest.mark.usefixtures("configuration")

FORM = {"name": "shop", "role": "client", "queues": '["mail"]', "expires_at_0": "", "expires_at_1": ""}


def create(staff: Client) -> str:
    """Create a key and return it as the page shows it."""
    answer = staff.post("/admin/accounts/apikey/add/", FORM)
    match = re.search(r'id="api-key">(rq_\w+)<', answer.content.decode())
    assert match, answer.content
    assert "no-store" in answer["Cache-Control"]
    return match[1]


def test_a_key_is_shown_once_and_works(admin_client: Client) -> None:
    plain = create(admin_client)

    identity = authenticate(plain)
    assert identity is not None
    assert identity.queues == frozenset({"mail"})
    key = ApiKey.objects.get()
    pages = ["/admin/accounts/apikey/", f"/admin/accounts/apikey/{key.pk}/change/", "/admin/"]
    assert not any(plain in admin_client.get(path).content.decode() for path in pages)


def test_keys_are_revoked_and_neither_changed_nor_deleted(admin_client: Client) -> None:
    plain = create(admin_client)
    key = ApiKey.objects.get()
    page = f"/admin/accounts/apikey/{key.pk}/"
    assert admin_client.post(page + "change/", FORM).status_code == 403
    assert admin_client.post(page + "delete/", {"post": "yes"}).status_code == 403

    action = {"action": "revoke", "_selected_action": [key.pk]}
    admin_client.post("/admin/accounts/apikey/", action)

    assert authenticate(plain) is None
    assert "was revoked before" in admin_client.post("/admin/accounts/apikey/", action, follow=True).content.decode()


def test_queues_must_be_a_list_of_names(admin_client: Client) -> None:
    answer = admin_client.post("/admin/accounts/apikey/add/", FORM | {"queues": '{"a": 1}'})

    assert "It is a list of names" in answer.content.decode()
    assert not ApiKey.objects.exists()
