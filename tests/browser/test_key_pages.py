"""Staff hand out and end API keys in a real browser, and programs notice."""

from playwright.sync_api import Page, expect

from queues.models import Source
from queues.operations import save_queue
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key
from tests.queues.samples import spec
from tests.support.waiting import wait_until
from tests.support.web import WebProcess


def status(site: WebProcess, key: str) -> int:
    """Return how the server answers who creates a task with a key."""
    return site.send("/queue/add", b'{"queue":"mail","data":{}}', key=key)[0]


def test_a_key_is_made_copied_used_and_ended(page: Page, site: WebProcess) -> None:
    save_queue(spec=spec("mail"), source=Source.API)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/admin/accounts/apikey/add/")
    page.get_by_label("Name").fill("shop backend")
    page.locator(".select2-selection").first.click()
    page.get_by_role("option", name="mail").click()
    page.get_by_role("button", name="Save").click()
    page.locator("[data-copy=api-key]").click()
    expect(page.locator("[data-copy=api-key]")).to_have_text("Copied")
    key = page.evaluate("navigator.clipboard.readText()")

    assert ApiKey.objects.get().queues == ["mail"]
    assert f"Authorization: Bearer {key}" in page.locator("#example").inner_text()
    assert status(site, key) == 200
    page.reload()
    expect(page.get_by_text("shop backend").first).to_be_visible()
    assert key not in page.content()
    assert ApiKey.objects.count() == 1

    page.get_by_role("link", name="Revoke").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("servers refuse it within two seconds")).to_be_visible()
    wait_until(lambda: status(site, key) == 401, timeout_s=10)
    expect(page.get_by_role("link", name="Revoke")).to_have_count(0)


def test_keys_that_a_key_created_are_revoked_with_it_when_ticked(page: Page, site: WebProcess) -> None:
    root = create_api_key(name="deployment", role="admin")
    _, created = site.send("/api/keys", b'{"name":"shop backend","role":"client"}', key=root.plain)

    page.goto(f"/admin/accounts/apikey/{root.row.pk}/revoke/")
    expect(page.get_by_text("shop backend")).to_be_visible()
    page.get_by_label("Also revoke the 1 key created with it").check()
    page.get_by_role("button", name="Revoke").click()

    expect(page.get_by_text("shop backend").first).to_be_visible()
    wait_until(lambda: status(site, created["key"]) == 401)
    assert ApiKey.objects.filter(revoked_at=None).count() == 0


def test_the_last_day_is_asked_for_where_it_counts_and_checked_at_its_field(page: Page) -> None:
    page.goto("/admin/accounts/apikey/add/")
    page.get_by_label("Name").fill("shop")
    expect(page.get_by_label("Last day")).to_be_hidden()
    page.get_by_label("Expires").select_option("after a day")
    page.get_by_label("Last day").fill("2020-01-01")
    page.get_by_role("button", name="Save").click()

    expect(page.locator(".field-last_day")).to_contain_text("It is in the past")
    expect(page.get_by_label("Last day")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("shop")
    assert not ApiKey.objects.exists()
