"""The list of queues in a browser: nothing covers its rows, and the chosen columns stay."""

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from tests.browser.conftest import Login
from tests.queues.samples import spec


def test_the_footer_covers_no_row_and_chosen_columns_stay(anonymous: Page, login: Login) -> None:
    for number in range(30):
        save_queue(spec=spec(f"queue-{number:02}"), source=QueueSource.API)
    login(anonymous, "viewer")
    anonymous.goto("/admin/queues/queue/?q=queue")
    expect(anonymous.get_by_role("columnheader", name="Priority")).to_have_count(0)

    anonymous.get_by_text("Columns").click()
    anonymous.get_by_label("Priority").check()
    anonymous.get_by_role("button", name="Show", exact=True).click()
    anonymous.wait_for_url("**/?q=queue")
    anonymous.goto("/admin/queues/queue/")

    expect(anonymous.get_by_role("columnheader", name="Priority")).to_be_visible()
    footer, table = (anonymous.locator(name).bounding_box() for name in (".list-pagination", "#result_list"))
    assert footer is not None
    assert table is not None
    assert footer["y"] >= table["y"] + table["height"]
