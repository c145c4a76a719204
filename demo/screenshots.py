"""`make screenshots`: the README's pictures, or for a review every page of the admin in every state."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from demo.stack import ROOT, running_server

CHROMIUM = "/usr/bin/chromium"
WIDTHS = {1440: 900, 390: 844}
THEMES = ("light", "dark")
PICTURES = ROOT / "docs" / "images"


def main() -> int:
    """Write the README's pictures, or with a folder named all pages."""
    with running_server() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        if len(sys.argv) > 1:
            _show_everything(browser, url, Path(sys.argv[1]))
        else:
            _fill()
            _show_readme(browser, url)
        browser.close()
    return 0


def _fill() -> Callable[[], None]:
    """Fill the instance, and return what keeps its workers alive; it can be imported only when Django is set up."""
    from demo.data import fill  # noqa: PLC0415
    from runqy.connection import get_broker  # noqa: PLC0415

    return fill(get_broker())


def _show_readme(browser: Browser, url: str) -> None:
    """Write the four pictures of the README."""
    from queues.models import Queue  # noqa: PLC0415
    from vaults.models import Vault  # noqa: PLC0415

    queue, vault = Queue.objects.get(name="transcription").pk, Vault.objects.get(name="object-storage").pk
    PICTURES.mkdir(exist_ok=True)
    page = _enter(browser, url, 1280, 800, "light")
    for name, path in {
        "overview": "/admin/",
        "queue": f"/admin/queues/queue/{queue}/change/",
        "vault": f"/admin/vaults/vault/{vault}/change/",
        "tasks": "/admin/tasks/task/?queue=invoices&state=archived",
    }.items():
        page.goto(path, wait_until="networkidle")
        page.screenshot(path=PICTURES / f"{name}.png")


def _show_everything(browser: Browser, url: str, folder: Path) -> None:
    """Write all pages of an empty and of a full instance, and forms with errors."""
    folder.mkdir(parents=True, exist_ok=True)
    for state in sys.argv[2:] or ("empty", "full"):
        beating = _fill() if state == "full" else None
        paths = list(_crawled(_enter(browser, url, 1440, 900, "light")))
        for width, height in WIDTHS.items():
            for theme in THEMES:
                page = _enter(browser, url, width, height, theme)
                for path in ["/admin/", *paths]:
                    if beating:
                        beating()
                    _shoot(page, path, folder / f"{_spelled(path)}.{state}.{width}.{theme}.png")
                page.context.close()
                if state == "full":
                    page = _enter(browser, url, width, height, theme)  # the page of the login has logged out
                    _show_errors(page, paths, folder, f"{width}.{theme}")
                    page.context.close()


def _show_errors(page: Page, paths: list[str], folder: Path, variant: str) -> None:
    """Write the forms as they look when they are sent empty, and the pages of errors."""
    for path in (path for path in paths if path.endswith("/add/")):
        page.goto(path)
        if (save := page.locator("[name=_save]")).count():
            page.evaluate("() => document.querySelectorAll('form').forEach(form => { form.noValidate = true })")
            save.first.click()
            _write(page, folder / f"{_spelled(path)}.error.{variant}.png")
    _shoot(page, "/admin/nothing/", folder / f"nothing.error.{variant}.png")


def _crawled(page: Page) -> Iterator[str]:
    """Give the pages, one of each kind."""
    from tests.browser.pages import crawl  # noqa: PLC0415

    for path in crawl(page, most_of_a_kind=1):
        if path != "/admin/" and ("?" not in path or path.startswith("/admin/tasks/")):
            yield path
    page.context.clear_cookies()
    yield "/admin/login/"


def _shoot(page: Page, path: str, target: Path) -> None:
    """Write what a page looks like, and tell when it is wider than its window."""
    if path == "/admin/login/":
        page.context.clear_cookies()
    page.goto(path, wait_until="load")
    _write(page, target)


def _write(page: Page, target: Path) -> None:
    """Write the whole page."""
    page.wait_for_load_state("networkidle")
    wide = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    if wide > 0:
        sys.stderr.write(f"{target.name} is {wide} pixels too wide\n")
    page.screenshot(path=target, full_page=True)


def _enter(browser: Browser, url: str, width: int, height: int, theme: str) -> Page:
    """Return a page of an administrator."""
    from django.contrib.auth.models import User  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    user, _ = User.objects.get_or_create(username="mary", is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(user)
    scheme = "dark" if theme == "dark" else "light"
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    cookies = [{"name": name, "value": morsel.value, "url": url} for name, morsel in client.cookies.items()]
    context.add_cookies(cookies)
    return context.new_page()


def _spelled(path: str) -> str:
    """Return a path as the name of a file."""
    return path.strip("/").removeprefix("admin").strip("/").replace("/", "_").replace("?", "+")[:90] or "index"


if __name__ == "__main__":
    sys.exit(main())
