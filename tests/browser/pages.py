"""Moves through the pages of the admin: to all of them by their links, or to what a list has."""

import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

from playwright.sync_api import Error, Page

_WIDE = """() => {
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth <= clientWidth) return [];
  const wide = [...document.querySelectorAll("body *")].filter(
    (element) => element.getBoundingClientRect().right > clientWidth + 0.5);
  return [`${scrollWidth} px`, ...wide.map((element) => element.outerHTML.slice(0, 120))];
}"""

_LEAVES = ("/admin/logout/", "/admin/jsi18n/")
_FILTERS = re.compile(r"[?&]_changelist_filters=[^&]*$")
_ID = re.compile(r"[0-9A-Z]")
"""What ids of rows, tasks, workers and entries have, and no other part of a path."""


def crawl(page: Page) -> Iterator[str]:
    """Go to every page that links lead to, files excepted; of those that differ only in ids or queries, the first.

    A form that knows the filters of the list before it is the same page.
    """
    waiting, kinds = ["/admin/"], {"/admin/"}
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
            found = urlsplit(_FILTERS.sub("", urljoin(page.url, link)))
            target = found.path + (f"?{found.query}" if found.query else "")
            kind = "/".join("*" if _ID.search(part) else part for part in found.path.split("/"))
            kind += "?" * bool(found.query)
            if kind not in kinds and found.path.startswith("/admin/") and found.path not in _LEAVES:
                kinds.add(kind)
                waiting.append(target)


def find_wide_elements(page: Page, *widths: int) -> list[str]:
    """Return the width of a page and the elements that make it wider than its window; empty if it fits.

    Its window gets one width after another; without any it keeps its own.
    """
    found: list[str] = page.evaluate(_WIDE) if not widths else []
    for width in widths:
        page.set_viewport_size({"width": width, "height": 844})
        found += page.evaluate(_WIDE)
    return found


def open_from_list(page: Page, address: str, name: str) -> None:
    """Go to a list, and from there to what has a name."""
    page.goto(address)
    page.locator("#result_list").get_by_role("link", name=name, exact=True).click()
