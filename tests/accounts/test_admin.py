"""API keys in the admin."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from queues.models import Source
from queues.operations import save_queue
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.accounts.queries import authenticate
from tests.queues.samples import spec

pytestmark = pytest.mark.usefixtures("configuration")

PAGE = "/admin/accounts/apikey/"
FORM = {"name": "shop", "role": "client", "queues": ["mail"], "lifetime": "90", "last_day": ""}


@pytest.fixture(autouse=True)
def _queue(configuration: None) -> None:
    save_queue(spec=spec("mail"), source=Source.API)


def create(staff: Client, **changes: Any) -> str:
    """Create a key and return it as the page shows it."""
    answer = staff.post(f"{PAGE}add/", FORM | changes)
    match = re.search(r'id="api-key"[^>]*>(rq_\w+)<', answer.content.decode())
    assert match, answer.content
    assert "no-store" in answer["Cache-Control"]
    assert answer["Referrer-Policy"] == "no-referrer"
    return match[1]


def test_a_key_is_shown_once_and_works(admin_client: Client) -> None:
    plain = create(admin_client)

    identity = authenticate(plain)
    assert identity is not None
    assert identity.queues == frozenset({"mail"})
    key = ApiKey.objects.get()
    pages = [PAGE, f"{PAGE}{key.pk}/change/", f"{PAGE}{key.pk}/history/", "/admin/"]
    assert not any(plain in admin_client.get(path, follow=True).content.decode() for path in pages)
    kept = [*LogEntry.objects.values_list("change_message", "object_repr"), *admin_client.cookies.output().split()]
    assert plain not in str(kept) + str([session.get_decoded() for session in Session.objects.all()])


@pytest.mark.parametrize(
    ("chosen", "days"), [({"lifetime": "30"}, 30), ({"lifetime": "365"}, 365), ({"lifetime": "never"}, None)]
)
def test_a_key_lives_as_long_as_was_chosen(admin_client: Client, chosen: dict[str, str], days: int | None) -> None:
    create(admin_client, **chosen)

    expires_at = ApiKey.objects.get().expires_at
    if days is None:
        assert expires_at is None
    else:
        assert abs(expires_at - timezone.now() - timedelta(days=days)) < timedelta(minutes=1)


def test_a_last_day_is_included_and_no_queue_means_all(admin_client: Client) -> None:
    create(admin_client, lifetime="day", last_day="2099-12-31", queues=[])

    key = ApiKey.objects.get()
    assert (key.expires_at, key.queues) == (datetime(2100, 1, 1, tzinfo=UTC), [])


@pytest.mark.parametrize(
    ("wrong", "field", "sentence"),
    [
        ({"name": " "}, "name", "This field is required."),
        ({"name": "a\nb"}, "name", "It says who uses the key, in a line of at most 100 characters."),
        ({"role": "root"}, "role", "root is not one of the available choices"),
        ({"queues": ["other"]}, "queues", "other is not one of the available choices"),
        ({"lifetime": "day"}, "last_day", "Say on which day it is used last."),
        ({"lifetime": "day", "last_day": "2020-01-01"}, "last_day", "It is in the past, or after the year 9998."),
        ({"lifetime": "day", "last_day": "9999-12-31"}, "last_day", "It is in the past, or after the year 9998."),
    ],
)
def test_what_makes_no_sense_is_said_at_its_field(
    admin_client: Client, wrong: dict[str, Any], field: str, sentence: str
) -> None:
    answer = admin_client.post(f"{PAGE}add/", FORM | wrong)

    errors = answer.context["adminform"].form.errors
    assert list(errors) == [field]
    assert sentence in errors[field][0]
    assert not ApiKey.objects.exists()


def test_the_list_says_what_has_become_of_keys(admin_client: Client) -> None:
    soon = timezone.now() + timedelta(hours=1)
    rows = {
        name: create_api_key(name=name, role="client", expires_at=soon).row for name in ("new", "busy", "over", "ended")
    }
    ApiKey.objects.filter(name__in=["busy", "over"]).update(last_used_at=timezone.now() - timedelta(minutes=5))
    ApiKey.objects.filter(name="over").update(expires_at=timezone.now() - timedelta(minutes=1))
    revoke_api_key(key_id=rows["ended"].pk)

    def listed(query: str) -> set[str]:
        return {row.name for row in admin_client.get(PAGE + query).context["cl"].result_list}

    assert listed("?status=active") == {"new", "busy"}
    assert listed("?status=never used") == {"new"}
    assert listed("?status=expired") == {"over"}
    assert listed("?status=revoked") == {"ended"}
    shown = admin_client.get(PAGE).content.decode()
    assert all(word in shown for word in ("never used", "active", "expired", "revoked", "5\xa0minutes ago"))
    assert "RUNQY_API_KEY" in shown


def test_keys_are_neither_changed_nor_deleted(admin_client: Client) -> None:
    create(admin_client)
    page = f"{PAGE}{ApiKey.objects.get().pk}/"

    assert admin_client.post(page + "change/", FORM).status_code == 403
    assert admin_client.post(page + "delete/", {"post": "yes"}).status_code == 403


def test_a_key_is_revoked_on_its_page_after_a_question(admin_client: Client) -> None:
    plain = create(admin_client)
    page = f"{PAGE}{ApiKey.objects.get().pk}/"
    assert f'href="{page}revoke/"' in admin_client.get(page + "change/").content.decode()

    assert "Revoke this key?" in admin_client.get(page + "revoke/").content.decode()
    assert authenticate(plain) is not None
    answer = admin_client.post(page + "revoke/", {"confirmed": "yes"}, follow=True).content.decode()

    assert authenticate(plain) is None
    assert "is revoked" in answer
    assert f'href="{page}revoke/"' not in answer
    again = admin_client.post(page + "revoke/", {"confirmed": "yes"}, follow=True)
    assert "was revoked before" in again.content.decode()


def test_selected_keys_are_revoked_after_a_question(admin_client: Client) -> None:
    plain = [create(admin_client), create(admin_client)]
    action = {"action": "revoke", "_selected_action": list(ApiKey.objects.values_list("pk", flat=True))}

    assert "Revoke these 2 keys?" in admin_client.post(PAGE, action).content.decode()
    assert all(authenticate(key) for key in plain)
    admin_client.post(PAGE, action | {"confirmed": "yes"})

    assert not any(authenticate(key) for key in plain)


def test_who_may_only_look_neither_creates_nor_revokes(client: Client) -> None:
    key = create_api_key(name="shop", role="client")
    carol = User.objects.create_user("carol", is_staff=True)
    carol.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client.force_login(carol)
    page = f"{PAGE}{key.row.pk}/"

    shown = client.get(page + "change/")

    assert shown.status_code == 200
    assert "revoke/" not in shown.content.decode()
    assert client.get(f"{PAGE}add/").status_code == 403
    assert client.post(f"{PAGE}add/", FORM).status_code == 403
    assert client.post(page + "revoke/", {"confirmed": "yes"}).status_code == 403
    client.post(PAGE, {"action": "revoke", "_selected_action": [key.row.pk], "confirmed": "yes"})
    assert authenticate(key.plain) is not None
