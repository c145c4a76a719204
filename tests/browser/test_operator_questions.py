"""What an operator asks is found from the overview in one to three clicks, by labels alone."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from runqy import clock
from runqy.broker.broker import Broker
from tasks.models import QueueMinute
from tests.browser.conftest import Login
from tests.browser.pages import find_wide_elements
from tests.queues.samples import spec
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.tasks import put
from tests.support.workers import RECORD, heartbeats

NS = 10**9
ORDER = b'{"order":"ORD-2026-0017"}'


@pytest.fixture
def overview(anonymous: Page, login: Login, single_broker: Broker) -> Iterator[Page]:
    """Return the overview of an instance with a history, as a viewer sees it."""
    for name in ("invoices", "mail"):
        save_queue(spec=spec(name), source=QueueSource.API)
    now_ns = clock.now_ns()
    insert_runs(
        *(make_failure("KeyError: 'vat_id'", task_id=f"bad-{number}") for number in range(6)),
        make_failure("OSError: no space left"),
        queue="invoices",
    )
    insert_runs(
        make_failure("TimeoutError: 30 s"),
        make_run(task_id="slow", worker_id=RECORD.worker_id, started_ns=now_ns - 500 * NS, ended_ns=now_ns),
        make_run(task_id="ended-order", payload=ORDER),
        *(make_run() for _ in range(5)),
        queue="mail",
    )
    # recent also when the page is opened minutes later
    start = datetime.fromtimestamp(now_ns / NS, UTC).replace(second=0, microsecond=0) - timedelta(minutes=3)
    QueueMinute.objects.update_or_create(queue="mail", redis_queue="mail", start=start, defaults={"backlog": 600})
    put(single_broker, "waiting-order", queue="mail", payload=ORDER)
    login(anonymous, "viewer")
    with heartbeats(single_broker, RECORD):
        anonymous.goto("/admin/")
        yield anonymous


def test_which_queue_fails_most_and_why(overview: Page) -> None:
    row = overview.locator("#overview-failing tbody tr").first
    expect(row).to_contain_text("invoices")
    expect(row).to_contain_text("KeyError: 'vat_id'")

    row.get_by_role("link", name="invoices").click()

    expect(overview).to_have_url(re.compile(r"errors/\?period=hour&queue=invoices"))
    expect(overview.get_by_role("article").first).to_have_accessible_name("6 errors in invoices")


def test_the_tasks_with_the_most_frequent_error(overview: Page) -> None:
    overview.locator("#overview-failing").get_by_role("link", name="KeyError: 'vat_id'").click()

    expect(overview.locator("tbody tr")).to_have_count(6)


def test_the_slowest_task_of_today(overview: Page) -> None:
    overview.get_by_role("link", name="Slowest tasks of today").click()

    expect(overview.locator("tbody tr").first.get_by_role("link").first).to_have_text("slow")


def test_what_a_worker_did_in_the_last_hour(overview: Page) -> None:
    overview.locator("#nav-sidebar").get_by_role("link", name="Workers").click()
    overview.get_by_role("link", name=RECORD.worker_id).click()

    runs = overview.locator("#runs")
    expect(runs.get_by_role("heading")).to_have_text("Runs of the last hour")
    expect(runs.locator("tbody tr")).to_have_count(1)
    runs.get_by_role("link", name="Show all").click()
    expect(overview.get_by_label("Worker", exact=True)).to_have_value(RECORD.worker_id)


def test_all_tasks_with_an_order_id_in_the_payload(overview: Page) -> None:
    overview.get_by_role("searchbox", name="Find a task").fill("ORD-2026-0017")
    overview.keyboard.press("Enter")

    expect(overview.get_by_role("link", name="waiting-order")).to_be_visible()
    expect(overview.get_by_role("link", name="ended-order")).to_be_visible()


def test_whether_the_backlog_shrinks(overview: Page) -> None:
    tile = overview.locator(".overview-stats div", has=overview.get_by_text("Pending", exact=True))
    expect(tile).to_contain_text("shrinks")
    expect(overview.locator("tr", has_text="mail").first).to_contain_text("/min")


def test_new_pages_fit_their_screen(anonymous: Page, login: Login, single_broker: Broker, configuration: None) -> None:
    long, name = "x" * 200, "a-queue-whose-name-is-" + "very-" * 12 + "long"
    save_queue(spec=spec(name), source=QueueSource.API)
    insert_runs(
        make_failure(f"{long}: {long}", task_id=long, worker_id=long, payload=b"wide " + long.encode()), queue=name
    )
    put(single_broker, "waiting", queue=name)
    login(anonymous, "viewer")

    pages = {
        "/admin/": "#overview-failing td >> text=xxxxx",
        f"/admin/?queue={name}": "h2 >> text=very-long",
        "/admin/tasks/task/search/?q=wide": "main, #content",
        f"/admin/tasks/task/search/?q={long}": "main, #content",
        f"/admin/workers/worker/{long}/change/": "main, #content",
        "/admin/workers/worker/worker_2F1/change/": "main, #content",
    }

    with heartbeats(single_broker, RECORD):
        for path, shown in pages.items():
            anonymous.goto(path, wait_until="load")
            anonymous.locator(shown).first.wait_for()
            expect(anonymous.locator(".htmx-request")).to_have_count(0)
            assert (path, find_wide_elements(anonymous, 1440, 390)) == (path, [])
