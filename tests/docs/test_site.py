"""The documentation site as `make docs` builds it, looked at in a browser."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, PATIENCE_MS

ROOT = Path(__file__).parents[2]
VERSION = "1.0"
PAGE = """# A page

[a file](gone.md), [an anchor](index.md#gone)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
]


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site of this version, beside one of an older version."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "0.9").mkdir()
    (folder / "0.9/index.html").write_text("older")
    built = build(ROOT, "--site-dir", str(folder))
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """Serve the site by HTTP."""
    handler = partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(color_scheme="dark")
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


def test_a_broken_link_a_missing_anchor_and_a_page_outside_the_nav_fail_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Home\n")
    (tmp_path / "docs/page.md").write_text(PAGE)
    settings, _, _ = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")
    without_hooks = settings.replace("hooks: [tools/documentation/hooks.py]\n", "")
    (tmp_path / "mkdocs.yml").write_text(f"{without_hooks}\nnav: [index.md]\n")

    built = build(tmp_path)

    assert built.returncode == 1
    assert "'gone.md'" in built.stderr
    assert "'index.md#gone'" in built.stderr
    assert 'not included in the "nav" configuration:\n  - page.md' in built.stderr


@pytest.mark.parametrize("source", ["http", "disk"])
def test_pages_are_searched_and_request_nothing_from_elsewhere(
    site: Path, served: str, page: Page, source: str
) -> None:
    origin = served if source == "http" else f"file://{site}"
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))

    page.goto(f"{origin}/{VERSION}/reference/settings.html")
    page.keyboard.press("/")
    page.keyboard.type("RUNQY_DRAIN_S", delay=1)
    expect(page.locator(".md-search-result__list")).to_contain_text("Settings of the server")

    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    assert [url for url in requested if not url.startswith((origin, "data:", "blob:"))] == []


def test_the_root_leads_to_the_newest_version_and_the_selector_to_the_others(served: str, page: Page) -> None:
    page.goto(served)
    page.wait_for_url(f"{served}/{VERSION}/index.html")

    expect(page.locator(".md-version__current")).to_have_text(VERSION)
    expect(page.locator(".md-version__link")).to_have_text([VERSION, "0.9"])
