"""The list of tasks, errors and bulk actions in a real browser."""

import json

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tasks.bulk_runner import run_bulk_actions
from tasks.models import BulkAction, TaskRun
from tests.browser.conftest import Login
from tests.browser.pages import find_wide_elements
from tests.queues.samples import spec
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.tasks import listed, put
from tests.tasks.task_helpers import put_in
from tools.demo.data import fill

LIST = "/admin/tasks/task/"
NS = 10**9


def test_an_operator_finds_a_task_by_an_order_id_in_its_payload(anonymous: Page, login: Login) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    insert_runs(
        make_run(task_id="it", payload=b'{"order":"ORD-2026-0017"}'),
        make_run(task_id="other", payload=b'{"order":"ORD-2026-0018"}'),
        queue="simple",
    )
    login(anonymous, "operator")

    anonymous.goto("/admin/")
    anonymous.locator("#nav-sidebar").get_by_role("link", name="Tasks").click()
    expect(anonymous.get_by_label("Tasks").locator("[aria-current]")).to_have_text("Tasks")
    anonymous.get_by_label("Text in payload or error").fill("ORD-2026-0017")
    anonymous.get_by_role("button", name="Search").click()

    expect(anonymous.get_by_role("link", name="it", exact=True)).to_be_visible()
    expect(anonymous.get_by_role("link", name="other", exact=True)).to_have_count(0)
    assert "text=ORD-2026-0017" in anonymous.url


def test_an_operator_finds_the_slowest_task_of_today(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    slow = make_run(task_id="slow")
    insert_runs(*(make_run() for _ in range(60)), queue="simple")
    insert_runs(
        make_run(task_id="slow", ended_ns=slow.ended_ns, started_ns=slow.ended_ns - 500 * NS),
        make_run(task_id="long ago", ended_ns=slow.ended_ns - 48 * 3600 * NS, started_ns=0),
        queue="simple",
    )
    login(anonymous, "viewer")
    anonymous.goto(f"{LIST}?state=ended")

    anonymous.get_by_label("Time", exact=True).select_option("Today")
    anonymous.get_by_label("Order").select_option("Slowest first")
    anonymous.get_by_role("button", name="Search").click()

    expect(anonymous.locator("#rows tr").first.get_by_role("link").first).to_have_text("slow")
    put_in(single_broker, "active", "runs")
    expect(anonymous.locator("#running").get_by_role("link", name="runs")).to_be_visible()


def test_the_page_of_a_bulk_action_follows_it_to_its_end(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put_in(single_broker, "archived", *(f"t{number}" for number in range(12)))
    insert_runs(*(make_failure(task_id=f"t{number}") for number in range(12)), queue="simple")
    login(anonymous, "operator")
    anonymous.goto(f"{LIST}errors/")

    anonymous.get_by_role("button", name="Run again all").click()
    expect(anonymous.get_by_role("heading", name="Run again: 12 tasks?")).to_be_visible()
    anonymous.get_by_role("button", name="Yes, run again").click()
    expect(anonymous.get_by_role("heading", name="0 of about 12 tasks")).to_be_visible()
    run_bulk_actions(single_broker)

    expect(anonymous.get_by_role("heading", name="12 tasks done")).to_be_visible()
    expect(anonymous.get_by_role("button", name="Cancel")).to_have_count(0)
    assert len(listed(single_broker, "simple")["pending"]) == 12


def test_a_payload_is_a_tree_and_a_text_to_copy(page: Page, single_broker: Broker) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put(single_broker, "t1", queue="simple", payload=b'{"order":{"id":9007199254740993,"items":[1,2]}}')
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{LIST}t1/change/?queue=simple")

    payload = page.locator("#payload")
    expect(payload.get_by_text("9007199254740993").first).to_be_visible()
    expect(payload.locator("pre")).to_be_hidden()
    payload.locator("summary", has_text="items").click()
    expect(payload.get_by_text("2", exact=True)).to_be_hidden()
    payload.get_by_role("button", name="Copy").click()
    expect(payload.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == json.dumps(
        {"order": {"id": 9007199254740993, "items": [1, 2]}}, indent=2
    )
    payload.get_by_role("button", name="Text or tree").click()
    expect(payload.locator("pre")).to_be_visible()


def test_a_task_is_edited_and_run_again(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    insert_runs(make_failure(task_id="t1", payload=b'{"n":1}'), queue="simple")
    login(anonymous, "operator")
    anonymous.goto(f"{LIST}t1/change/?queue=simple")

    anonymous.get_by_role("link", name="Edit and run again").click()
    anonymous.get_by_label("Payload").fill('{"n": 2}')
    anonymous.get_by_role("button", name="Run as a new task").click()

    expect(anonymous.get_by_text("The new task was enqueued.")).to_be_visible()
    expect(anonymous.get_by_role("link", name="t1", exact=True)).to_be_visible()
    assert len(listed(single_broker, "simple")["pending"]) == 1


def test_no_page_of_tasks_is_wider_than_the_screen(page: Page, single_broker: Broker) -> None:
    fill(single_broker)
    long = "x" * 200
    save_queue(spec=spec("simple"), source=QueueSource.API)
    insert_runs(
        make_failure(f"{long}: {long}", task_id=long, worker_id=long, commit="c" * 64, payload=long.encode()),
        make_run(task_id="t1", payload=json.dumps({long: {long: [long]}}).encode()),
        queue="simple",
    )
    fingerprint = TaskRun.objects.get(task_id=long).fingerprint

    for path in (
        *(LIST, f"{LIST}?state=ended", f"{LIST}?state=pending", f"{LIST}?error={fingerprint}&worker={long}"),
        *(f"{LIST}?outcome=retried", f"{LIST}?state=ended&sort=slowest", f"{LIST}search/?q=vat_id"),
        *(f"{LIST}errors/?period=week", f"{LIST}{long}/change/", f"{LIST}t1/change/", f"{LIST}t1/run-again/"),
        *("/admin/tasks/bulkaction/", f"/admin/tasks/bulkaction/{BulkAction.objects.latest('pk').pk}/change/"),
        f"/admin/tasks/bulkaction/add/?action=delete&error={fingerprint}&worker={long}&queue=simple",
    ):
        page.goto(path)
        assert (path, find_wide_elements(page, 1280, 1024, 390)) == (path, [])
