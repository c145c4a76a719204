"""Webhook endpoints in the admin."""

import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from queues.models import QueueSource
from queues.operations import change_queue, save_queue
from tests.queues.samples import spec
from tests.support.staff import staff_client
from tests.webhooks.receiver import Receiver, send_due
from webhooks.models import UNDELIVERED, Delivery, Endpoint
from webhooks.operations import create_endpoint, disable_failing_endpoint, schedule_test

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("configuration")]

PAGES = "/admin/webhooks/endpoint/"
FORM = {
    "kind": "webhook",
    "url": "https://hooks.example.com/x",
    "queues": ["mail"],
    "events": ["task.completed"],
    "is_enabled": "on",
    "in_flight": "16",
}


@pytest.fixture
def client(configuration: None) -> Client:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    return staff_client("configurator")


def form_of(client: Client, row: Endpoint) -> dict[str, Any]:
    """Return what a user posts who has opened the page of an endpoint."""
    version = re.search(r'name="version" value="([^"]+)"', client.get(f"{PAGES}{row.pk}/change/").content.decode())
    assert version is not None
    return FORM | {"version": version[1]}


def test_an_endpoint_is_added_and_its_secret_shown_once(client: Client) -> None:
    response = client.post(f"{PAGES}add/", FORM | {"headers_text": "Authorization: Bearer abc\n"})

    assert response.status_code == 200
    (secret,) = set(re.findall(r"whsec_[A-Za-z0-9+/=]+", response.content.decode()))
    row = Endpoint.objects.get()
    assert (row.secret.unseal(), row.queues, row.header_names) == (secret, ["mail"], ["Authorization"])
    page = client.get(f"{PAGES}{row.pk}/change/").content.decode()
    assert secret not in page
    assert "Bearer abc" not in page


def test_a_change_keeps_headers_that_are_not_entered_again(client: Client) -> None:
    row = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"], headers={"X-A": "1"}).row

    assert client.post(f"{PAGES}{row.pk}/change/", form_of(client, row)).status_code == 302
    row.refresh_from_db()
    assert (row.header_names, row.queues) == (["X-A"], ["mail"])
    client.post(f"{PAGES}{row.pk}/change/", form_of(client, row) | {"remove_headers": "on"})
    row.refresh_from_db()
    assert row.header_names == []


def test_a_form_overwrites_no_change_made_since_it_was_opened(client: Client) -> None:
    row = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"]).row
    before = form_of(client, row)
    disable_failing_endpoint(row.pk, "It has failed for 5 days.")

    page = client.post(f"{PAGES}{row.pk}/change/", before).content.decode()

    assert "disabled by the server, while you edited it" in page
    row.refresh_from_db()
    assert (row.is_enabled, row.queues) == (False, [])


def test_a_change_of_what_the_server_disabled_does_not_make_it_the_users(client: Client) -> None:
    row = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"]).row
    disable_failing_endpoint(row.pk, "It has failed for 5 days.")
    form = form_of(client, row)
    del form["is_enabled"]

    assert client.post(f"{PAGES}{row.pk}/change/", form).status_code == 302

    row.refresh_from_db()
    assert (row.queues, row.is_enabled, row.disabled_reason) == (["mail"], False, "It has failed for 5 days.")


@pytest.mark.parametrize(("kept", "pending"), [("send", 2), ("drop", 0)])
def test_enabling_asks_whether_to_send_what_waits(client: Client, kept: str, pending: int) -> None:
    row = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"]).row
    for _ in range(2):
        schedule_test(row.pk)
    assert "Messages that wait" not in client.get(f"{PAGES}{row.pk}/change/").content.decode()
    disable_failing_endpoint(row.pk, "It has failed for 5 days.")
    assert "2 wait." in client.get(f"{PAGES}{row.pk}/change/").content.decode()

    client.post(f"{PAGES}{row.pk}/change/", form_of(client, row) | {"kept": kept})

    assert (Endpoint.objects.get().is_enabled, row.deliveries.filter(UNDELIVERED).count()) == (True, pending)


def test_errors_of_the_rules_are_shown_in_the_form(client: Client) -> None:
    page = client.post(f"{PAGES}add/", FORM | {"url": "http://hooks.example.com"}).content.decode()

    assert "RUNQY_WEBHOOK_NETWORKS opens networks to http" in page
    assert not Endpoint.objects.exists()


def test_messages_are_tested_sent_again_and_shown_with_the_answer(client: Client, receiver: Receiver) -> None:
    receiver.status = 503
    row = create_endpoint(url=receiver.url, events=["task.completed"]).row
    act = f"{PAGES}{row.pk}/act/"

    client.post(act, {"verb": "test"})
    send_due()
    page = client.get(f"{PAGES}{row.pk}/change/").content.decode()
    sent = Delivery.objects.get()
    for text in ("Last error: The endpoint responded with status 503.", "Response, status 503", sent.message_id):
        assert text in page
    assert page.index('id="deliveries"') < page.index('name="url"')
    assert "&quot;type&quot;: &quot;webhook.test&quot;" in page
    Delivery.objects.update(abandoned_at=row.created_at)
    client.post(act, {"verb": "resend"})
    receiver.status = 200
    assert send_due() == 1
    client.post(act, {"verb": "resend", "delivery": Delivery.objects.get().pk})
    assert send_due() == 1
    assert client.post(act, {"verb": "explode"}).status_code == 404


def test_deliveries_are_filtered_and_reached_page_by_page(client: Client) -> None:
    row = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"]).row
    ids = [schedule_test(row.pk).pk for _ in range(45)]
    Delivery.objects.filter(pk__in=ids[:3]).update(abandoned_at=timezone.now())
    url, found = "?state=pending", list[str]()

    while url:
        page = client.get(f"{PAGES}{row.pk}/change/{url}").content.decode()
        found += re.findall(r"Delivery (\d+)<", page)
        older = re.search(r'href="([^"]+)#deliveries">Older', page)
        url = older[1].replace("&amp;", "&") if older else ""
    failed = client.get(f"{PAGES}{row.pk}/change/?state=failed").content.decode()

    assert found == [str(pk) for pk in reversed(ids[3:])]
    assert re.findall(r"Delivery (\d+)<", failed) == [str(pk) for pk in reversed(ids[:3])]


def test_who_may_not_view_payloads_sees_no_messages(client: Client) -> None:
    row = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"]).row
    schedule_test(row.pk)

    pages = [staff_client(role).get(f"{PAGES}{row.pk}/change/").content.decode() for role in ("viewer", "operator")]

    assert ["webhook.test&quot;" in page for page in pages] == [False, True]
    assert not any("Rotate" in page for page in pages)


def test_a_rotation_asks_first_and_says_which_secret_ends(client: Client) -> None:
    created = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"])
    act = f"{PAGES}{created.row.pk}/act/"

    first = client.post(act, {"verb": "rotate"}).content.decode()
    rotated = client.post(act, {"verb": "rotate", "confirmed": "yes"}).content.decode()
    second = client.post(act, {"verb": "rotate"}).content.decode()

    secret = Endpoint.objects.get().secret
    assert secret is not None
    assert (secret.unseal() in rotated, created.secret in secret.unseal_valid(timezone.now())) == (True, True)
    assert not any("whsec_" in page for page in (first, second))
    assert ["ends at once" in page for page in (first, second)] == [False, True]


def test_an_endpoint_is_deleted_with_its_deliveries_which_are_counted(client: Client) -> None:
    row = create_endpoint(url="https://hooks.example.com/x", events=["task.completed"]).row
    for _ in range(3):
        schedule_test(row.pk)

    page = client.get(f"{PAGES}{row.pk}/delete/").content.decode()
    client.post(f"{PAGES}{row.pk}/delete/", {"post": "yes"})

    assert ("Deliveries: 3" in page, "webhook.test" in page) == (True, False)
    assert not Endpoint.objects.exists()


def test_the_page_of_a_queue_shows_the_secret_of_its_tasks_webhooks_once(client: Client) -> None:
    queue = change_queue(spec=spec("mail", webhook_hosts=("hooks.example.com",)))
    page, secret = f"/admin/queues/queue/{queue.pk}/change/", f"/admin/queues/queue/{queue.pk}/webhook-secret/"
    assert "Not shown yet" in client.get(page).content.decode()

    shown = client.post(secret, {"verb": "show"})
    again = client.post(secret, {"verb": "show"})
    rotated = client.post(secret, {"verb": "rotate", "confirmed": "yes"})

    assert queue.webhook_secret is not None
    old = queue.webhook_secret.unseal()
    queue.webhook_secret.refresh_from_db()
    new = queue.webhook_secret.unseal()
    assert old in shown.content.decode()
    assert ("no-store" in shown["Cache-Control"], again.status_code) == (True, 409)
    assert new in rotated.content.decode()
    assert queue.webhook_secret.unseal_valid(timezone.now()) == [new, old]
    pages = [client.get(page).content.decode(), staff_client("viewer").get(page).content.decode()]
    assert [("Show it once" in each, "Rotate" in each) for each in pages] == [(False, True), (False, False)]
    assert not any(secret in each for each in pages for secret in (old, new))
