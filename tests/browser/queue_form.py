"""Fills in the form of a queue in a browser."""

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


def add_sub_queue(page: Page, name: str, priority: str) -> None:
    """Fill the empty row of the sub-queues, or add one."""
    last = int(page.locator("[name=sub_queues-TOTAL_FORMS]").input_value()) - 1
    if page.locator(f"[name=sub_queues-{last}-name]").input_value():
        page.get_by_role("link", name="Add another Sub-queue").click()
        last += 1
    for cell, value in (("name", name), ("priority", priority)):
        page.locator(f"[name=sub_queues-{last}-{cell}]").fill(value)


def fill_basics(page: Page, name: str = "inference", repository: str = "https://github.com/example/repo.git") -> None:
    """Fill in the required fields."""
    page.get_by_label("Name", exact=False).first.fill(name)
    page.get_by_label("Repository", exact=False).first.fill(repository)
    page.get_by_label("Start command").fill("python main.py")


def save(page: Page) -> None:
    """Click Save."""
    page.get_by_role("button", name="Save", exact=True).click()


def open_section(page: Page, title: str) -> None:
    """Unfold a section of the form."""
    page.locator("summary").filter(has_text=title).click()
