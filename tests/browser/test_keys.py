"""Keys of all pages: / goes to the search, ? lists the keys."""

import re

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from tests.browser.pages import crawl
from tests.queues.samples import spec


def test_a_slash_goes_to_the_search_on_every_page(page: Page) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    without = []

    for path in crawl(page):
        page.locator("body").evaluate("body => document.activeElement.blur()")
        page.keyboard.press("/")
        if page.evaluate("document.activeElement.type") != "search":
            without.append(path)

    assert without == []


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
