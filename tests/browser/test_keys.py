"""Keys of all pages: / goes to the search, ? lists the keys."""

import re

import pytest
from playwright.sync_api import Page, expect


@pytest.mark.parametrize("path", ["/admin/", "/admin/queues/queue/", "/admin/queues/queue/add/"])
def test_a_slash_goes_to_the_search(page: Page, path: str) -> None:
    page.goto(path)
    page.locator("body").evaluate("body => document.activeElement.blur()")

    page.keyboard.press("/")

    expect(page.get_by_role("searchbox", name="Find a task")).to_be_focused()


def test_a_slash_is_text_in_a_field(page: Page) -> None:
    page.goto("/admin/tasks/task/search/")
    search = page.get_by_role("searchbox")
    search.fill("")

    search.press_sequentially("a/b?")

    expect(search).to_have_value("a/b?")


def test_a_question_mark_lists_the_keys_until_escape(page: Page) -> None:
    page.goto("/admin/queues/queue/")
    link = page.get_by_role("link", name="Workers").first
    link.focus()
    dialog = page.get_by_role("dialog", name="Keys")

    page.keyboard.press("?")
    expect(dialog).to_contain_text("Go to the search")
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Escape")

    expect(dialog).to_be_hidden()
    expect(link).to_be_focused()


def test_on_a_phone_the_key_leads_to_the_page_of_the_search(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/admin/workers/worker/")
    page.keyboard.press("/")

    expect(page).to_have_url(re.compile("/admin/tasks/task/search/"))
    expect(page.locator("input[type=search][autofocus]")).to_be_visible()
