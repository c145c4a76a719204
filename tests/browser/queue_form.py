"""Fills the form of a queue, as people do."""

from playwright.sync_api import Page

LIST = "/admin/queues/queue/"
ADD = f"{LIST}add/"


def add_row(page: Page, rows: str, **cells: str) -> None:
    """Add a row by its button, and fill it."""
    block = page.locator(f"[data-rows={rows}]")
    block.get_by_role("button", name="Add").click()
    row = block.locator("[data-row]").last
    for name, value in cells.items():
        cell = row.locator(f"[name$='-{name}']")
        if name == "type":
            row.get_by_label(value, exact=True).check()
        elif cell.evaluate("cell => cell.tagName") == "SELECT":
            cell.select_option(value)
        else:
            cell.fill(value)


def fill_basics(page: Page, name: str = "inference", repository: str = "https://github.com/example/repo.git") -> None:
    """Fill what every queue needs."""
    page.get_by_label("Name", exact=False).first.fill(name)
    page.get_by_label("Repository", exact=False).first.fill(repository)
    page.get_by_label("Start command").fill("python main.py")


def save(page: Page) -> None:
    """Press the button."""
    page.get_by_role("button", name="Save", exact=True).click()
