"""Read lists page by page, and print how to see the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs, urlsplit

import typer

from runqy.cli.output import echo

if TYPE_CHECKING:
    from runqy.cli.client import Client

Limit = Annotated[int, typer.Option("--limit", "-l", min=1, help="Maximum number of lines.")]
Cursor = Annotated[str, typer.Option("--cursor", help="Start of the page: the cursor that the previous page printed.")]

_PAGE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Rows:
    """The beginning of a list, or what follows a cursor."""

    items: list[dict[str, Any]]
    next_cursor: str
    """The cursor of the next rows; empty at the end of the list."""


def read_pages(api: "Client", path: str, name: str, *, limit: int, cursor: str = "", **query: Any) -> Rows:
    """Read pages until there are `limit` items of the member `name`, or the list ends."""
    items: list[dict[str, Any]] = []
    while True:
        position: dict[str, Any] = {"cursor": cursor} if cursor else {}
        page = api.get(path, **query, limit=min(limit - len(items), _PAGE_MAX), **position)
        items += page[name]
        cursor = _cursor_of(page["next"])
        if not cursor or len(items) >= limit:
            return Rows(items, cursor)


def print_rest(rows: Rows, find_total: Callable[[], int] | None = None) -> None:
    """Print on standard error how much of the list is shown and how to see more, unless the list ends here."""
    if rows.next_cursor:
        shown = f"Showing {len(rows.items)} of {find_total()}" if find_total else f"Showing {len(rows.items)}"
        echo(f"runqy: {shown}. Use --limit, or --cursor {rows.next_cursor} for the next ones.", err=True)


def _cursor_of(next_path: str | None) -> str:
    return "".join(parse_qs(urlsplit(next_path or "").query).get("cursor", []))
