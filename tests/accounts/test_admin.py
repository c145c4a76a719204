"""API keys in the admin."""

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from tests.accounts.authenticating import authenticate
from tests.queues.samples import spec
from tests.support.staff import client_of

pytestmark = pytest.mark.usefixtures("configuration")

PAGE = "/admin/accounts/apikey/"
FORM = {"name": "shop", "role": "client", "queues": ["mail"], "lifetime": "90", "last_day": ""}


@pytest.fixture(autouse=True)
def _queue(configuration: None) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)


def create(staff: Client, **changes: Any) -> str:
    """Create a key and return it as the page shows it."""
    response = staff.post(f"{PAGE}add/", FORM | changes)
    match = re.search(r'id="api-key"[^>]*>(rq_\w+)<', response.content.decode())
    assert match, response.content
    assert "no-store" in response["Cache-Control"]
    assert response["Referrer-Policy"] == "no-referrer"
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


def test_the_example_of_a_new_key_names_a_queue_that_the_key_may_use(admin_client: Client) -> None:
    save_queue(spec=spec("audio", is_enabled=False), source=QueueSource.API)
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)

    def example(**changes: Any) -> str:
        page = admin_client.post(f"{PAGE}add/", FORM | changes).content.decode()
        found = re.search(r'<pre id="example"[^>]*><code>(.*?)</code>', page, re.DOTALL)
        return html.unescape(found[1]) if found else page

    assert '-d \'{"queue": "mail", "data": {"' in example(queues=["mail"])
    assert '"queue": "inference.high"' in example(queues=[])
    assert "curl -X POST http://testserver/queue/add" in example()
    assert '"Authorization: Bearer $RUNQY_API_KEY"' in example()
    assert "RUNQY_QUEUES=mail " in example(role="worker")
    assert "There is no enabled queue yet that this key may use." in example(queues=["audio"])


@pytest.mark.parametrize(
    ("chosen", "days"), [({"lifetime": "30"}, 30), ({"lifetime": "365"}, 365), ({"lifetime": "never"}, None)]
)
def test_a_key_expires_as_chosen(admin_client: Client, chosen: dict[str, str], days: int | None) -> None:
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
        ({"name": "a\nb"}, "name", "Must be one line of at most 100 characters, and not blank."),
        ({"role": "root"}, "role", "root is not one of the available choices"),
        ({"queues": ["other"]}, "queues", "other is not one of the available choices"),
        ({"lifetime": "day"}, "last_day", "Choose the last day."),
        (
            {"lifetime": "day", "last_day": "2020-01-01"},
            "last_day",
            "Must be in the future",
        ),
        (
            {"lifetime": "day", "last_day": "9999-12-31"},
            "last_day",
            "Must be in the future",
        ),
    ],
)
def test_errors_are_shown_at_their_fields(
    admin_client: Client, wrong: dict[str, Any], field: str, sentence: str
) -> None:
    response = admin_client.post(f"{PAGE}add/", FORM | wrong)

    errors = response.context["adminform"].form.errors
    assert list(errors) == [field]
    assert sentence in errors[field][0]
    assert not ApiKey.objects.exists()


def test_the_list_shows_the_status_of_keys(admin_client: Client) -> None:
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
    content = admin_client.get(PAGE).content.decode()
    assert all(word in content for word in ("never used", "active", "expired", "revoked", "5\xa0minutes ago"))
    assert "RUNQY_API_KEY" in content


@pytest.mark.parametrize(
    ("role", "queues", "acl", "expected"),
    [
        ("worker", ["inference"], "auto", "all, for some workers"),
        ("admin", ["inference"], "off", "all, for some workers"),
        ("worker", ["inference"], "required", "the same"),
        ("worker", [], "auto", "the same"),
        ("client", ["inference"], "auto", "none"),
    ],
)
def test_a_keys_page_shows_limits_that_do_not_hold_in_redis(
    *, admin_client: Client, settings: Any, role: str, queues: list[str], acl: str, expected: str
) -> None:
    settings.RUNQY_WORKER_ACL = acl
    key = create_api_key(name="shop", role=role, queues=queues, allow_shared_redis=True).row
    safe = create_api_key(name="safe", role=role, queues=queues).row

    page, of_safe = (admin_client.get(f"{PAGE}{pk}/change/").content.decode() for pk in (key.pk, safe.pk))

    assert expected in page
    assert "all, for some workers" not in of_safe
    assert ("RUNQY_WORKER_ACL=required" in page) == (expected not in ("the same", "none"))


def test_keys_are_neither_changed_nor_deleted(admin_client: Client) -> None:
    create(admin_client)
    page = f"{PAGE}{ApiKey.objects.get().pk}/"

    assert admin_client.post(page + "change/", FORM).status_code == 403
    assert admin_client.post(page + "delete/", {"post": "yes"}).status_code == 403


def test_a_key_is_revoked_on_its_page_after_confirmation(admin_client: Client) -> None:
    plain = create(admin_client)
    page = f"{PAGE}{ApiKey.objects.get().pk}/"
    assert f'href="{page}revoke/"' in admin_client.get(page + "change/").content.decode()

    assert "Revoke this key?" in admin_client.get(page + "revoke/").content.decode()
    assert authenticate(plain) is not None
    response = admin_client.post(page + "revoke/", {"confirmed": "yes"}, follow=True).content.decode()

    assert authenticate(plain) is None
    assert "revoked." in response
    assert f'href="{page}revoke/"' not in response
    again = admin_client.post(page + "revoke/", {"confirmed": "yes"}, follow=True)
    assert "was already revoked" in again.content.decode()


def test_selected_keys_are_revoked_after_confirmation(admin_client: Client) -> None:
    plain = [create(admin_client), create(admin_client)]
    action = {"action": "revoke", "_selected_action": list(ApiKey.objects.values_list("pk", flat=True))}

    assert "Revoke these 2 keys?" in admin_client.post(PAGE, action).content.decode()
    assert all(authenticate(key) for key in plain)
    admin_client.post(PAGE, action | {"confirmed": "yes"})

    assert not any(authenticate(key) for key in plain)


def test_viewers_neither_create_nor_revoke_keys() -> None:
    key = create_api_key(name="shop", role="client")
    carol = User.objects.create_user("carol", is_staff=True)
    carol.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client = client_of(carol)
    page = f"{PAGE}{key.row.pk}/"

    content = client.get(page + "change/")

    assert content.status_code == 200
    assert "revoke/" not in content.content.decode()
    assert client.get(f"{PAGE}add/").status_code == 403
    assert client.post(f"{PAGE}add/", FORM).status_code == 403
    assert client.post(page + "revoke/", {"confirmed": "yes"}).status_code == 403
    client.post(PAGE, {"action": "revoke", "_selected_action": [key.row.pk], "confirmed": "yes"})
    assert authenticate(key.plain) is not None
