"""Moves through the pages of the admin: to all of them by their links, or to what a list has."""

from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

from playwright.sync_api import Error, Page

_LEAVES = ("/admin/logout/", "/admin/jsi18n/")


def crawl(page: Page, most_of_a_kind: int = 2) -> Iterator[str]:
    """Go to every page that links lead to, files excepted; of those that differ only in numbers, the first few."""
    waiting, seen, kinds = ["/admin/"], {"/admin/"}, {}
    while waiting:
        path = waiting.pop(0)
        try:
            page.goto(path, wait_until="load")
        except Error as error:
            if "Download is starting" not in error.message:
                raise
            continue
        yield path
        for link in page.eval_on_selector_all(
            "a[href]:not([download])", "links => links.map(link => link.getAttribute('href'))"
        ):
            found = urlsplit(urljoin(page.url, link))
            target = found.path + (f"?{found.query}" if found.query else "")
            kind = "/".join("*" if part.isdigit() else part for part in found.path.split("/")) + "?" * bool(found.query)
            if target in seen or not found.path.startswith("/admin/") or found.path in _LEAVES:
                continue
            seen.add(target)
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] <= most_of_a_kind:
                waiting.append(target)


def open_from_list(page: Page, address: str, name: str) -> None:
    """Go to a list, and from there to what has a name."""
    page.goto(address)
    page.locator("#result_list").get_by_role("link", name=name, exact=True).click()
