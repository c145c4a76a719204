"""Staff keep secrets in a real browser, and no page ever has one."""

import pytest
from playwright.sync_api import Page, expect

from tests.vaults.test_vaults import SECRET
from vaults import worker_secrets
from vaults.models import Vault
from vaults.operations import create_vault, set_entry

PEM = "-----BEGIN KEY-----\nMIIEvg==\n-----END KEY-----"


def values(vault: str = "api-keys") -> dict[str, str]:
    """Return what workers get, as published."""
    return dict(worker_secrets.get_worker_secrets([vault], max_age_s=0).values)


@pytest.fixture
def vault() -> Vault:
    """Return a vault with a secret."""
    made = create_vault(name="api-keys")
    set_entry(vault="api-keys", key="TOKEN", value=SECRET)
    return made


def test_a_secret_is_saved_masked_kept_and_replaced_and_never_in_a_page(page: Page) -> None:
    page.goto("/admin/vaults/vault/add/")
    page.get_by_label("Name").fill("api-keys")
    page.get_by_role("link", name="Add another Entry").click()
    page.locator("#id_entries-0-key").fill("TOKEN")
    page.locator("#id_entries-0-value").fill(PEM)
    masked = page.locator("#id_entries-0-value").evaluate("e => getComputedStyle(e).webkitTextSecurity")
    page.get_by_role("button", name="Save and continue").click()

    expect(page.get_by_text("--****--")).to_be_visible()
    assert masked == "disc"
    assert values() == {"TOKEN": PEM}
    assert "MIIEvg" not in page.content()

    page.get_by_label("Description").fill("Of the shop.")
    with page.expect_navigation():
        page.get_by_role("button", name="Save and continue").click()
    expect(page.get_by_label("Description")).to_have_value("Of the shop.")
    assert values() == {"TOKEN": PEM}

    page.locator("#id_entries-0-value").fill(SECRET)
    page.get_by_role("button", name="Save and continue").click()
    expect(page.get_by_text("version 2")).to_be_visible()
    assert values() == {"TOKEN": SECRET}
    assert SECRET not in page.content()


def test_errors_are_shown_at_their_fields_and_other_input_is_kept(page: Page) -> None:
    page.goto("/admin/vaults/vault/add/")
    page.get_by_label("Name").fill("api-keys")
    page.get_by_role("link", name="Add another Entry").click()
    page.locator("#id_entries-0-key").fill("9A")
    page.locator("#id_entries-0-value").fill(SECRET)
    page.get_by_role("button", name="Save", exact=True).click()

    expect(page.locator("td.field-key.errors")).to_contain_text("not beginning with a digit")
    expect(page.get_by_text("enter them once more")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("api-keys")
    expect(page.locator("#id_entries-0-value")).to_have_value("")
    assert SECRET not in page.content()
    assert not Vault.objects.exists()


def test_lines_are_pasted_looked_at_corrected_and_set(page: Page, vault: Vault) -> None:
    page.goto(f"/admin/vaults/vault/{vault.pk}/bulk-edit/")
    lines = page.get_by_label("Lines")
    lines.fill(f"# of the shop\nTOKEN=new-value-of-it\nKEY='{PEM}'\nPATH=/bin")
    page.get_by_role("button", name="Show what changes").click()

    preview = page.locator("#preview")
    expect(preview).to_contain_text("Line 6: PATH is reserved for the worker.")
    assert "new-value-of-it" in lines.input_value()
    expect(preview.get_by_role("button")).to_have_count(0)

    lines.fill(f"# of the shop\nTOKEN=new-value-of-it\nKEY='{PEM}'\n")
    expect(preview).to_be_empty()
    page.get_by_role("button", name="Show what changes").click()
    expect(preview).to_contain_text("changed")
    assert "new-value-of-it" not in preview.inner_html()
    preview.get_by_role("button", name="Set 2 entries").click()

    expect(page.get_by_text("2 entries were set in api-keys.")).to_be_visible()
    assert values() == {"TOKEN": "new-value-of-it", "KEY": PEM}
    assert "new-value-of-it" not in page.content()


def test_a_vault_is_deleted_by_entering_its_name(page: Page, vault: Vault) -> None:
    page.goto(f"/admin/vaults/vault/{vault.pk}/change/")
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete the vault").click()
    expect(page.get_by_text("Enter api-keys to delete the vault.").last).to_be_visible()

    page.locator("#id_name").fill("api-keys")
    page.get_by_role("button", name="Delete the vault").click()

    expect(page.get_by_text("The vault api-keys was deleted.")).to_be_visible()
    assert not Vault.objects.exists()


def test_entries_fit_a_laptop_with_the_button_that_removes_them(page: Page, vault: Vault) -> None:
    set_entry(vault="api-keys", key="S3_SECRET_ACCESS_KEY", value=SECRET)
    page.set_viewport_size({"width": 1280, "height": 900})

    page.goto(f"/admin/vaults/vault/{vault.pk}/change/")

    table = page.locator("table", has=page.get_by_text("S3_SECRET_ACCESS_KEY")).first
    expect(table).to_contain_text("version 1")
    assert table.evaluate("table => table.getBoundingClientRect().right") <= 1280 - 16  # the frame ends there


def test_a_new_value_is_hidden_while_it_is_a_secret(page: Page) -> None:
    page.goto("/admin/vaults/vault/add/")
    if not page.locator("#id_entries-0-value").is_visible():
        page.get_by_role("link", name="Add another Entry").click()
    value = page.locator("#id_entries-0-value")
    value.fill("fast")
    shown = "element => getComputedStyle(element).webkitTextSecurity"
    hidden = value.evaluate(shown)

    page.locator("#id_entries-0-is_secret").uncheck(force=True)

    assert (hidden, value.evaluate(shown)) == ("disc", "none")


def test_the_heading_of_a_vault_is_not_cut_by_the_buttons_beside_it(page: Page) -> None:
    vault = create_vault(name="object-storage")

    page.goto(f"/admin/vaults/vault/{vault.pk}/change/")

    heading = page.locator("#header-inner h1 .truncate").last
    expect(heading).to_have_text("object-storage")
    search = page.get_by_role("searchbox", name="Find a task").or_(page.get_by_role("link", name="Find a task"))
    for width in (1100, 1280, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert heading.evaluate("heading => heading.scrollWidth - heading.clientWidth") <= 0
        expect(search).to_have_count(1)
