"""A reader sees and types times in their own zone, with UTC when they point at one."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from tests.browser.conftest import PASSWORD, PATIENCE_MS, Login
from tests.browser.watch import Watch
from tests.queues.samples import spec
from tests.support.runs import insert_runs, make_failure
from tests.support.web import WebProcess

LIST = "/admin/tasks/task/?state=ended"
OpenIn = Callable[[str], Page]


@pytest.fixture
def open_in(browser: Browser, site: WebProcess, watch: Watch) -> Iterator[OpenIn]:
    """Return what opens a browser in a time zone."""
    opened = []

    def open_page(zone: str) -> Page:
        context = browser.new_context(base_url=site.url, timezone_id=zone)
        context.set_default_timeout(PATIENCE_MS)
        opened.append(context)
        page = context.new_page()
        watch.follow(page)
        return page

    yield open_page
    for context in opened:
        context.close()


def fail_at(**times: str) -> None:
    """Let tasks with these ids fail at these times."""
    save_queue(spec=spec("simple"), source=QueueSource.API)
    ended_ns = {name: int(datetime.fromisoformat(time).timestamp()) * 10**9 for name, time in times.items()}
    insert_runs(*(make_failure(task_id=name, ended_ns=ended_ns[name]) for name in times), queue="simple")


def search(page: Page, zone: str, since: str, until: str) -> None:
    page.goto(LIST)
    page.get_by_text("Worker, commit, exact times").click()
    page.get_by_label(f"Ended from ({zone})").fill(since)
    page.get_by_label(f"Ended before ({zone})").fill(until)
    page.get_by_role("button", name="Search").click()


def test_a_reader_filters_by_the_zone_of_the_browser_and_points_at_utc(open_in: OpenIn, settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]  # the server's
    User.objects.create_superuser("ada", password=PASSWORD)
    fail_at(evening="2026-11-26T13:29:00Z", night="2026-11-26T15:00:00Z", morning="2026-11-26T21:30:00Z")
    page = open_in("Australia/Adelaide")
    page.goto("/admin/login/")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("[data-time-zone]")).to_contain_text("Australia/Adelaide")

    search(page, "Australia/Adelaide", "2026-11-27T00:00", "2026-11-27T08:00")

    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#rows").get_by_role("link", name="night")).to_be_visible()
    # The URL is the same for those who read it in another zone.
    assert "since=2026-11-26T13%3A30%3A00Z&until=2026-11-26T21%3A30%3A00Z" in page.url
    expect(page.get_by_label("Ended from (Australia/Adelaide)")).to_have_value("2026-11-27T00:00")
    expect(page.get_by_role("link", name="Remove: From 2026-11-27 00:00:00")).to_be_visible()
    time = page.locator("#rows").get_by_title("2026-11-26 15:00:00 UTC")
    time.hover()
    assert time.get_attribute("title") == "2026-11-27 01:30:00 (2026-11-26 15:00:00 UTC)"
    page.locator("#rows").get_by_role("link", name="night").click()
    expect(page.get_by_text("2026-11-27 01:30:00", exact=True)).to_be_visible()


def test_the_repeated_hour_is_found_as_a_whole_and_told_apart_by_utc(open_in: OpenIn, login: Login) -> None:
    # In Berlin it was twice 02:30.
    fail_at(first="2026-10-25T00:30:00Z", second="2026-10-25T01:30:00Z", later="2026-10-25T01:40:00Z")
    page = open_in("Europe/Berlin")
    login(page, "viewer")
    page.goto("/admin/")
    page.get_by_role("link", name="UTC", exact=True).click()
    page.get_by_role("button", name="Use that of this browser: Europe/Berlin").click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Times are in Europe/Berlin.")).to_be_visible()

    search(page, "Europe/Berlin", "2026-10-25T02:30", "2026-10-25T02:31")

    rows = page.locator("#rows tr")
    expect(rows).to_have_count(2)
    titles = [rows.nth(number).locator("time").get_attribute("title") for number in range(2)]
    assert titles == [
        "2026-10-25 02:30:00 (2026-10-25 01:30:00 UTC)",
        "2026-10-25 02:30:00 (2026-10-25 00:30:00 UTC)",
    ]
