"""Staff find out who changed what, in a real browser."""

import csv
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from queues.definitions import LimitOverrides
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.audit.operations import record
from tests.queues.samples import spec
from vaults.operations import create_vault, set_entry

RECORDS = "/admin/audit/auditrecord/"


def test_a_change_is_found_read_and_exported(page: Page, tmp_path: Path) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    save_queue(spec=spec("mail", limits=LimitOverrides(max_retry=7)), source=QueueSource.API)
    for _ in range(60):
        record(action="queue.paused", object_kind="queue", object_name="other", changes={"paused": (False, True)})
    page.goto(RECORDS)
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".field-object_label").last).to_have_text("queue mail")

    page.locator("#searchbar").fill("mail")
    page.locator("#searchbar").press("Enter")
    page.wait_for_url("**q=mail**")
    expect(page.locator("tr.data-row")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    download.value.save_as(tmp_path / "audit.csv")
    page.locator(".field-time a").first.click()

    expect(page.locator("#changes tbody tr")).to_have_text(re.compile(r"limits max retry\s+none\s+7"))
    with (tmp_path / "audit.csv").open() as file:
        assert [row["action"] for row in csv.DictReader(file)] == ["queue.updated", "queue.created"]


def test_filters_are_combined(page: Page) -> None:
    create_vault(name="api-keys")
    set_entry(vault="api-keys", key="TOKEN", value="a-value")
    record(action="queue.paused", object_kind="queue", object_name="api-keys")
    page.goto(RECORDS)
    page.locator("a", has_text="Filters").click()
    page.get_by_label("Kind of object").select_option("vault")
    page.get_by_label("From (UTC)").fill("2020-01-01")
    page.get_by_role("button", name="Apply Filters").click()

    expect(page.locator(".field-object_label")).to_have_text(["vault entry api-keys/TOKEN", "vault api-keys"])


def test_the_history_of_a_vault_is_its_records(page: Page) -> None:
    vault = create_vault(name="api-keys")
    create_vault(name="other")
    page.goto(f"/admin/vaults/vault/{vault.pk}/change/")
    page.locator("a[href$='/history/']").click()

    expect(page.locator(".field-object_label")).to_have_text(["vault api-keys"])
    page.locator(".field-time a").click()
    page.get_by_role("link", name="Open").click()
    expect(page).to_have_url(f"/admin/vaults/vault/{vault.pk}/change/")
