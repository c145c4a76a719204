"""Reads the pages of tasks in tests."""

from html.parser import HTMLParser
from typing import Any

LIST = "/admin/tasks/task/"
BULK = f"{LIST}bulk/"


class _Page(HTMLParser):
    """Collects what can be pressed and ticked."""

    def __init__(self) -> None:
        super().__init__()
        self.buttons: list[str] = []
        self.ticks: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "button" and given.get("name") == "deed":
            self.buttons.append(str(given["value"]))
        if tag == "input" and given.get("type") == "checkbox" and given.get("name") == "id":
            self.ticks.append(str(given["value"]))


def read(answer: Any) -> _Page:
    """Return the buttons and ticks of a page."""
    assert answer.status_code == 200, answer.content
    page = _Page()
    page.feed(answer.content.decode())
    return page


def text(answer: Any) -> str:
    """Return a page's source."""
    return str(answer.content.decode())


def change(task_id: str, queue: str = "simple") -> str:
    """Return where a task's page is."""
    return f"{LIST}{task_id}/change/?queue={queue}"


def handle(task_id: str, queue: str = "simple") -> str:
    """Return where something is done to a task."""
    return f"{LIST}{task_id}/handle/?queue={queue}"
