"""`make screenshots`: the pictures of the README, or the pages of the admin in every state, for a review."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Browser, Page, sync_playwright

from tools.demo.stack import ROOT, DemoServer, running_server

if TYPE_CHECKING:
    from tools.demo.page_states import PageState, Stage

CHROMIUM = "/usr/bin/chromium"
WIDTHS = {1440: 900, 390: 844}
THEMES = ("light", "dark")
HEIGHTS = {"overview": 1510}  # of pictures that show more than the others
PICTURES = ROOT / "docs" / "images"


def main() -> int:
    """Write the README's screenshots; or into a folder the pages of all stages, or of those that are named."""
    with running_server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        if len(sys.argv) > 1:
            _write_stages(browser, server, Path(sys.argv[1]), {*sys.argv[2:]})
        else:
            _write_readme(browser, server.url)
        browser.close()
    return 0


def _write_readme(browser: Browser, url: str) -> None:
    """Write the screenshots of the README. Models are imported here, after Django was set up."""
    from queues.models import Queue  # noqa: PLC0415
    from runqy.redis_connection import get_broker  # noqa: PLC0415
    from tools.demo.data import fill  # noqa: PLC0415
    from vaults.models import Vault  # noqa: PLC0415

    keep_alive = fill(get_broker())
    queue, vault = Queue.objects.get(name="transcription").pk, Vault.objects.get(name="object-storage").pk
    PICTURES.mkdir(exist_ok=True)
    page = _log_in(browser, url, "admin", viewport={"width": 1280, "height": 800}, color_scheme="light")
    for name, path in {
        "overview": "/admin/",
        "queue": f"/admin/queues/queue/{queue}/change/",
        "vault": f"/admin/vaults/vault/{vault}/change/",
        "tasks": "/admin/tasks/task/?queue=invoices&state=archived",
    }.items():
        keep_alive()
        page.set_viewport_size({"width": 1280, "height": HEIGHTS.get(name, 800)})
        page.goto(path, wait_until="networkidle")
        page.screenshot(path=PICTURES / f"{name}.png")


def _write_stages(browser: Browser, server: DemoServer, folder: Path, wanted: set[str]) -> None:
    """Write every page of each stage, in both widths and both themes."""
    from runqy.redis_connection import get_broker  # noqa: PLC0415
    from tools.demo.page_states import stages  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    pages = _Pages(browser, server)
    for stage in stages(server, get_broker(), wanted):
        for state in stage.pages:
            _write_state(stage, state, folder, pages.get)


def _write_state(stage: "Stage", state: "PageState", folder: Path, get_page: Callable[..., Page]) -> None:
    for width in WIDTHS:
        for theme in THEMES:
            stage.keep_alive()
            page = get_page(width, theme, state)
            page.goto(state.path, wait_until="load")
            state.prepare(page)
            _write(page, folder / f"{stage.name}.{state.name}.{width}.{theme}.png")


class _Pages:
    """Browser pages by size, theme and user. Each is opened when it is first needed."""

    def __init__(self, browser: Browser, server: DemoServer) -> None:
        self._browser, self._server = browser, server
        self._opened: dict[tuple[object, ...], Page] = {}

    def get(self, width: int, theme: str, state: "PageState") -> Page:
        key = (width, theme, state.role, state.is_hiding)
        if key not in self._opened:
            url = self._server.hiding_url if state.is_hiding else self._server.url
            viewport = {"width": width, "height": WIDTHS[width]}
            self._opened[key] = _log_in(self._browser, url, state.role, viewport=viewport, color_scheme=theme)
        return self._opened[key]


def _write(page: Page, target: Path) -> None:
    """Write the whole page. Report if it is wider than its window or has no title."""
    page.wait_for_load_state("networkidle")
    wide = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    if wide > 0:
        sys.stderr.write(f"{target.name} is {wide} pixels too wide\n")
    if not page.title():
        sys.stderr.write(f"{target.name} has no title\n")
    page.screenshot(path=target, full_page=True)


def _log_in(browser: Browser, url: str, role: str | None, **options: Any) -> Page:
    """Return a page of a user with a role, of a user without one (empty), or without a login (None)."""
    from django.contrib.auth.models import Group, User  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    context = browser.new_context(base_url=url, reduced_motion="reduce", **options)
    if role is None:
        return context.new_page()
    user, is_new = User.objects.get_or_create(username=f"mary-{role or 'nobody'}", is_staff=True)
    if is_new and role:
        user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    cookies = [{"name": name, "value": morsel.value, "url": url} for name, morsel in client.cookies.items()]
    context.add_cookies(cookies)
    return context.new_page()


if __name__ == "__main__":
    sys.exit(main())
