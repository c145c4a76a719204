"""A real server and a real browser; unexpected console messages and responses fail a test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.browser.watch import Watch
from tests.support.database import database_variables
from tests.support.staff import client_of, create_roles, staff_user
from tests.support.web import ASGI, WebProcess

CHROMIUM = Path(os.environ.get("RUNQY_TEST_CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PASSWORD = "a-Password-1-for-staff"
PATIENT = ("tests.browser.patient_site:application", *ASGI[1:])
"""Gunicorn's arguments for a server that waits for as long as the tests do."""
WINDOW = ViewportSize(width=1280, height=720)
PATIENCE_MS = 60_000
"""How long a busy machine may take for what a page has to show."""

expect.set_options(timeout=PATIENCE_MS)

Login = Callable[..., User]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a browser, and skip them without one."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("browser")
            if not CHROMIUM.exists():
                item.add_marker(pytest.mark.skip(reason=f"needs Chromium at {CHROMIUM}"))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Start Chromium; Playwright's own event loop runs meanwhile in this thread, which Django has to put up with."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def shared_site(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Start the server on the tests' Valkey and database; what a test saves here is what the server sees."""
    started = WebProcess(tmp_path_factory.mktemp("site"), PATIENT, **database_variables())
    yield started
    started.kill()


@pytest.fixture
def site(configuration: None, shared_site: WebProcess) -> WebProcess:
    """Return the server, whose stores are empty; a module may have one of its own."""
    create_roles()
    return shared_site


@pytest.fixture(scope="package")
def shared_page(browser: Browser, shared_site: WebProcess) -> Page:
    """Open a page for all tests: the first visit of a new one, with a process of its own, takes four times as long."""
    return open_context(browser, shared_site).new_page()


@pytest.fixture
def context(browser: Browser, site: WebProcess) -> Iterator[BrowserContext]:
    """Return a browser of the test's own: for listeners, scripts and clocks that would stay with the shared page."""
    opened = open_context(browser, site)
    yield opened
    opened.close()


def open_context(browser: Browser, site: WebProcess) -> BrowserContext:
    """Return a browser without cookies."""
    opened = browser.new_context(base_url=site.url)
    opened.set_default_timeout(PATIENCE_MS)
    return opened


def leave(page: Page, site: WebProcess) -> None:
    """Take from the shared page what a test has changed, and leave it where it sends no requests."""
    page.goto(f"{site.url}/livez")
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.context.clear_cookies()
    page.context.clear_permissions()
    page.set_viewport_size(WINDOW)


@pytest.fixture
def watch(site: WebProcess) -> Iterator[Watch]:
    """Return the watch, to which a test adds what it provokes; anything else fails the test."""
    watched = Watch(origin=site.url)
    yield watched
    if unexpected := watched.unexpected():
        pytest.fail("\n".join(unexpected))


@pytest.fixture
def anonymous(request: pytest.FixtureRequest, site: WebProcess, watch: Watch) -> Iterator[Page]:
    """Return a page without a login: the shared one, or one of the test's own if it uses `context`."""
    is_shared = "context" not in request.fixturenames
    page: Page = request.getfixturevalue("shared_page") if is_shared else request.getfixturevalue("context").new_page()
    watch.follow(page)
    yield page
    watch.leave(page)
    if is_shared:
        leave(page, site)


@pytest.fixture
def login(site: WebProcess) -> Login:
    """Return what logs a page in as a user of a role: `login(page, "viewer")`, without the form."""

    def log_in(page: Page, role: str = "admin") -> User:
        user = staff_user(role)
        client = client_of(user)
        cookies = [{"name": name, "value": morsel.value, "url": site.url} for name, morsel in client.cookies.items()]
        page.context.add_cookies(cookies)  # type: ignore[arg-type]
        return user

    return log_in


@pytest.fixture
def page(anonymous: Page, login: Login) -> Page:
    """Return a page that is logged in as an administrator."""
    login(anonymous, "admin")
    return anonymous
