"""The form of a schedule: all its errors at once, the next times beside cron and zone, and its page after Save."""

from playwright.sync_api import Page, expect

from queues.definitions import FieldType, PayloadField
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.users import remember_browser_zone
from tests.browser.conftest import Login
from tests.browser.pages import find_wide_elements
from tests.queues.samples import spec

ADD = "/admin/schedules/schedule/add/"


def test_a_schedule_is_added_after_its_errors_are_mended(anonymous: Page, login: Login) -> None:
    page, field = anonymous, anonymous.locator
    to = PayloadField(name="to", type=(FieldType.STRING,), required=True)
    save_queue(spec=spec("mail", input=(to,)), source=QueueSource.API)
    remember_browser_zone(login(page, "admin"), "Europe/Berlin")
    page.set_viewport_size({"width": 390, "height": 900})

    page.goto(ADD)
    expect(page.get_by_role("heading", name="Add schedule")).to_be_visible()
    expect(field("[name=time_zone]")).to_have_value("Europe/Berlin")
    field("[name=name]").fill("nightly")
    field("[name=queue]").select_option("mail")  # the server may know queues of earlier tests
    field("[name=cron]").fill("61 2 * * *")
    field("[name=time_zone]").fill("Berlin")
    page.get_by_role("button", name="Save", exact=True).click()
    for error in ("must be 0 to 59", "did you mean", "payload.to: This field is required."):
        expect(page.get_by_role("listitem").filter(has_text=error)).to_be_visible()
    field("[name=cron]").fill("30 2 * * *")
    field("[name=time_zone]").fill("Europe/Berlin")
    expect(page.get_by_text("At 02:30 every day")).to_be_visible()
    field("[name=payload]").fill('{"to": "a"}')
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/change/")
    expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    expect(page.get_by_label("Status of the schedule").locator("[data-label='Europe/Berlin']")).to_have_count(5)
    assert find_wide_elements(page, 390, 1440) == []
