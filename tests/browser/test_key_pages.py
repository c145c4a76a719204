"""Staff create and revoke API keys in a real browser, and the API applies it."""

import json
import os
import subprocess
from typing import Any

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, end_personal_keys
from tests.browser.conftest import Login
from tests.queues.samples import spec
from tests.support.waiting import wait_until
from tests.support.web import WebProcess


def status(site: WebProcess, key: str) -> int:
    """Return the status of the response to a key that creates a task."""
    return site.send("/queue/add", b'{"queue":"mail","data":{}}', key=key)[0]


def run_shell(command: str, **env: str) -> dict[str, Any]:
    """Run a command in a shell, and return the JSON that it prints."""
    done = subprocess.run(["sh", "-c", command], env=os.environ | env, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_key_is_created_copied_used_and_revoked(page: Page, site: WebProcess) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
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
    example = page.locator("#example").inner_text()
    assert '"Authorization: Bearer $RUNQY_API_KEY"' in example
    assert key not in example
    assert run_shell(example, RUNQY_API_KEY=key)["info"]["queue"] == "mail"
    assert status(site, key) == 200
    page.reload()
    expect(page.get_by_text("shop backend").first).to_be_visible()
    assert key not in page.content()
    assert ApiKey.objects.count() == 1

    page.get_by_role("link", name="Revoke").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("All servers refuse it within two seconds")).to_be_visible()
    wait_until(lambda: status(site, key) == 401)
    expect(page.get_by_role("link", name="Revoke")).to_have_count(0)


def test_descendants_of_a_key_are_revoked_when_selected(page: Page, site: WebProcess) -> None:
    root = create_api_key(name="deployment", role="admin")
    _, created = site.send("/api/keys", b'{"name":"shop backend","role":"client"}', key=root.plain)

    page.goto(f"/admin/accounts/apikey/{root.row.pk}/revoke/")
    expect(page.get_by_text("shop backend")).to_be_visible()
    page.get_by_label("Also revoke the 1 key created with it").check()
    page.get_by_role("button", name="Revoke").click()

    expect(page.get_by_text("shop backend").first).to_be_visible()
    wait_until(lambda: status(site, created["key"]) == 401)
    assert ApiKey.objects.filter(revoked_at=None).count() == 0


def test_the_last_day_is_shown_when_chosen_and_validated_at_its_field(page: Page) -> None:
    page.goto("/admin/accounts/apikey/add/")
    page.get_by_label("Name").fill("shop")
    expect(page.get_by_label("Last day")).to_be_hidden()
    page.get_by_label("Expires").select_option("after a chosen day")
    page.get_by_label("Last day").fill("2020-01-01")
    page.get_by_role("button", name="Save").click()

    expect(page.locator(".field-last_day")).to_contain_text("Must be in the future")
    expect(page.get_by_label("Last day")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("shop")
    assert not ApiKey.objects.exists()


def test_a_user_makes_a_key_of_her_own_for_the_command_line(page: Page, site: WebProcess, login: Login) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    carol = login(page, role="operator")
    page.goto("/admin/")
    page.get_by_text("the-operator").click()
    page.get_by_role("link", name="My API keys").click()
    expect(page.get_by_label("operator:")).to_be_checked()
    expect(page.get_by_label("admin:")).to_have_count(0)
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Create key").click()
    key = page.locator("#api-key").inner_text()

    expect(page.locator("#example")).to_have_text(f"runqy login --server {site.url}")
    assert status(site, key) == 200
    page.reload()
    expect(page.get_by_role("row", name="laptop")).to_contain_text("operator")
    assert key not in page.content()

    carol.is_active = False
    carol.save()
    end_personal_keys()
    wait_until(lambda: status(site, key) == 401)
