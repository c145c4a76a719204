"""Helpers that read the admin pages of tasks."""

from html.parser import HTMLParser
from typing import Any

LIST = "/admin/tasks/task/"
BULK = f"{LIST}bulk/"
ERRORS = f"{LIST}errors/"
BULK_ACTIONS = "/admin/tasks/bulkaction/"
REQUEST = f"{BULK_ACTIONS}add/"


class _Page(HTMLParser):
    """Collects action buttons, checkboxes of tasks, and actions on all tasks that match."""

    def __init__(self) -> None:
        super().__init__()
        self.buttons: list[str] = []
        self.checkboxes: list[str] = []
        self.bulk_actions: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "button" and given.get("name") == "action":
            self.buttons.append(str(given["value"]))
        if tag == "input" and given.get("type") == "hidden" and given.get("name") == "action":
            self.bulk_actions.append(str(given["value"]))
        if tag == "input" and given.get("type") == "checkbox" and given.get("name") == "id":
            self.checkboxes.append(str(given["value"]))


def read(response: Any) -> _Page:
    """Return the action buttons and checkboxes of a page."""
    assert response.status_code == 200, response.content
    page = _Page()
    page.feed(response.content.decode())
    return page


def text(response: Any) -> str:
    """Return a page's source, without the places where names may break."""
    return str(response.content.decode()).replace("<wbr>", "")


def change(task_id: str, queue: str = "simple") -> str:
    """Return the URL of a task."""
    return f"{LIST}{task_id}/change/?queue={queue}"


def action_url(task_id: str, queue: str = "simple") -> str:
    """Return the URL of actions on a task."""
    return f"{LIST}{task_id}/action/?queue={queue}"
