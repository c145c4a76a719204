"""Pages on a phone, 390 px wide."""

from dataclasses import replace

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.workers.records import WorkerState
from tests.queues.samples import spec
from tests.support.tasks import put
from tests.support.workers import RECORD, heartbeats
from tools.demo.data import fill

REASON = "git fetch failed: unable to access https://git.example.com/ml/" + "a_long_name_of_a_repository_" * 4


@pytest.fixture
def phone(page: Page) -> Page:
    """Return a page of a phone's size."""
    page.set_viewport_size({"width": 390, "height": 844})
    return page


def overflow(page: Page) -> int:
    """Return by how many pixels a page is wider than the screen."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


def test_a_long_reason_of_a_worker_stays_on_the_screen(phone: Page, single_broker: Broker) -> None:
    failed = replace(RECORD, state=WorkerState.START_FAILED, reason=REASON)
    with heartbeats(single_broker, failed):
        phone.goto("/admin/workers/worker/")

    expect(phone.get_by_text("unable to access")).to_be_visible()
    assert overflow(phone) == 0


def test_the_changes_of_an_audit_record_are_not_cut(phone: Page) -> None:
    save_queue(spec=spec("mail", "high:10", "low:3"), source=QueueSource.API)

    phone.goto("/admin/audit/auditrecord/")

    cell = phone.locator("td.field-changes_line").first
    assert cell.evaluate("cell => cell.scrollHeight - cell.clientHeight") <= 1
    assert cell.evaluate("cell => cell.clientHeight") > 50
    assert overflow(phone) == 0


def test_the_card_of_a_queue_is_short(phone: Page) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)

    phone.goto("/admin/queues/queue/")

    card = phone.locator("#result_list .data-row").first.bounding_box()
    assert card is not None
    assert card["height"] < 220
    assert overflow(phone) == 0


def test_the_first_cell_of_an_alert_names_its_column(phone: Page) -> None:
    finding = Finding(kind=AlertKind.FAILURE_RATE, subject="mail", queue="mail", message="Half of mail failed.")
    store_findings([finding], now=timezone.now())

    phone.goto("/admin/alerts/alert/")

    first = phone.locator("#result_list .data-row").first.locator(":scope > td, :scope > th").first
    expect(first).to_contain_text("Half of mail failed.")
    assert first.get_attribute("data-label") == "message"
    assert overflow(phone) == 0


def test_a_long_heading_has_two_lines_without_the_list_it_is_from(phone: Page) -> None:
    name = "customer-invoices-overnight-europe"
    save_queue(spec=spec(name), source=QueueSource.API)

    phone.goto(f"/admin/queues/queue/{Queue.objects.get(name=name).pk}/change/")

    heading = phone.locator("#header-inner h1")
    assert heading.inner_text().split() == [name]
    assert heading.locator(".truncate").last.evaluate("part => part.scrollHeight - part.clientHeight") <= 1


def test_the_filter_of_tasks_leaves_room_for_them(phone: Page) -> None:
    phone.goto("/admin/tasks/task/?state=ended")
    expect(phone.get_by_label("Order")).to_be_hidden()

    phone.get_by_role("button", name="More conditions").click()
    phone.get_by_label("Order").select_option("Slowest first")
    phone.get_by_role("button", name="Search").click()

    expect(phone.get_by_label("Order")).to_have_value("slowest")
    expect(phone.get_by_role("button", name="More conditions")).to_have_count(0)
    assert overflow(phone) == 0


def test_queues_without_tasks_are_left_out_of_the_overview(phone: Page, single_broker: Broker) -> None:
    for name in ("aa-idle", "mail"):  # the first by name, since few are listed
        save_queue(spec=spec(name), source=QueueSource.API)
    phone.goto("/admin/")
    busiest = phone.locator(".overview-busiest tbody th")
    expect(busiest.get_by_text("aa-idle", exact=True)).to_be_visible()

    put(single_broker, "t1", queue="mail")

    expect(busiest.get_by_text("mail", exact=True)).to_be_visible()
    expect(busiest.get_by_text("aa-idle", exact=True)).to_be_hidden()


def test_a_task_in_a_list_is_at_most_90_pixels_high(phone: Page, single_broker: Broker) -> None:
    fill(single_broker)
    heights = {}

    for query in (
        "state=ended",
        "state=archived",
        "state=pending",
        "state=archived&queue=invoices",
        "state=ended&order=slowest",
    ):
        phone.goto(f"/admin/tasks/task/?{query}")
        rows = phone.locator("table.is-tasks tbody tr")
        heights[query] = rows.evaluate_all("rows => Math.max(...rows.map(row => row.getBoundingClientRect().height))")
        assert overflow(phone) == 0

    phone.goto("/admin/tasks/task/?state=archived&queue=invoices")
    box = phone.locator("table.is-tasks input[type=checkbox]").first.bounding_box()
    assert box is not None
    assert box["width"] >= 24
    assert {query: height for query, height in heights.items() if not 40 < height <= 90} == {}
