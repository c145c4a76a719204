"""The admin pages of tasks in a real browser."""

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tasks.bulk_runner import run_bulk_actions
from tests.browser.conftest import Login
from tests.browser.watch import Watch
from tests.queues.samples import spec
from tests.support.tasks import listed, new_task, put, take
from tests.support.waiting import eventually
from tests.support.workers import RECORD, RUNNING, heartbeats
from tests.tasks.task_helpers import put_in, succeed

LIST = "/admin/tasks/task/"
PAYLOAD = b'{"big":9007199254740993,"html":"<img src=x onerror=alert(1)>","text":"\xe4\xb8\x96"}'


def test_an_operator_selects_tasks_and_puts_them_back(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
    put_in(single_broker, "archived", "t1", "t2", "t3", queue="inference_high")
    login(anonymous, "operator")
    anonymous.goto(LIST)

    anonymous.get_by_role("row", name="inference_high").get_by_role("link", name="3").click()
    expect(anonymous.get_by_text("Select tasks")).to_be_visible()
    expect(anonymous.get_by_role("button", name="Run again", exact=True)).to_be_disabled()
    anonymous.get_by_label("Select task t1").check()
    anonymous.get_by_label("Select task t3").check()
    expect(anonymous.get_by_text("2 selected")).to_be_visible()
    anonymous.get_by_role("button", name="Run again", exact=True).click()

    expect(anonymous.get_by_text("2 tasks put back on the queue.")).to_be_visible()
    assert listed(single_broker, "inference_high") == {"pending": ["t3", "t1"], "archived": ["t2"]}


def test_all_tasks_of_a_state_are_deleted_after_confirmation(
    anonymous: Page, login: Login, single_broker: Broker
) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put_in(single_broker, "archived", *(f"t{number}" for number in range(12)))
    login(anonymous, "operator")
    anonymous.goto(f"{LIST}?queue=simple&state=archived")

    anonymous.get_by_label("Select all tasks on this page").check()
    expect(anonymous.get_by_text("12 selected")).to_be_visible()
    anonymous.get_by_role("button", name="Delete all …").click()
    expect(anonymous.get_by_role("heading", name="Delete: 12 tasks?")).to_be_visible()
    anonymous.get_by_role("link", name="No, go back").click()
    anonymous.get_by_role("button", name="Delete all …").click()
    anonymous.get_by_role("button", name="Yes, delete").click()
    run_bulk_actions(single_broker)

    expect(anonymous.get_by_role("heading", name="12 tasks done")).to_be_visible()
    assert listed(single_broker, "simple") == {}


def test_a_task_is_found_viewed_and_cancelled(
    anonymous: Page, login: Login, single_broker: Broker, tmp_path: Path
) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put(single_broker, "t1", queue="simple", payload=PAYLOAD)
    login(anonymous, "operator")
    anonymous.goto(LIST)

    anonymous.get_by_label("Task ID").fill("t1")
    anonymous.get_by_role("button", name="Find").click()
    expect(anonymous.locator("#payload pre")).to_have_text(
        '{\n  "big": 9007199254740993,\n  "html": "<img src=x onerror=alert(1)>",\n  "text": "世"\n}'
    )
    with anonymous.expect_download() as download:
        anonymous.get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_bytes() == PAYLOAD
    anonymous.get_by_role("button", name="Cancel …").click()
    anonymous.get_by_role("button", name="Yes, cancel").click()

    expect(anonymous.get_by_text("The task was cancelled: it is archived and will not run.")).to_be_visible()
    assert listed(single_broker, "simple") == {"archived": ["t1"]}


def test_a_test_task_is_enqueued_and_its_result_shown(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    save_queue(spec=spec("another"), source=QueueSource.API)
    login(anonymous, "operator")
    anonymous.goto(LIST)

    anonymous.get_by_role("link", name="Test a task").click()
    anonymous.get_by_label("Queue", exact=True).select_option("simple")
    anonymous.wait_for_url(f"**{LIST}add/?queue=simple")
    anonymous.get_by_label("Payload").fill('{"n": 1')
    anonymous.get_by_role("button", name="Enqueue").click()
    expect(anonymous.get_by_text("Must be JSON")).to_be_visible()
    expect(anonymous.get_by_label("Payload")).to_have_value('{"n": 1')
    anonymous.get_by_label("Payload").fill('{"n": 1}')
    anonymous.get_by_role("button", name="Enqueue").click(no_wait_after=True)
    taken = eventually(lambda: take(single_broker, 1, "simple"))
    succeed(single_broker, taken[0], b'{"answer": 42}')

    expect(anonymous.get_by_text("The task was enqueued and completed.")).to_be_visible()
    expect(anonymous.locator("#result pre")).to_contain_text('"answer": 42')


def test_a_viewer_has_no_actions(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put_in(single_broker, "archived", "t1", payload=PAYLOAD)
    login(anonymous, "viewer")

    anonymous.goto(f"{LIST}?queue=simple&state=archived")
    expect(anonymous.get_by_role("checkbox")).to_have_count(0)
    anonymous.get_by_role("link", name="t1").click()

    expect(anonymous.locator("#payload").get_by_text("9007199254740993").first).to_be_visible()
    for name in ("Run now", "Run again", "Delete", "Archive", "Cancel"):
        expect(anonymous.get_by_role("button", name=name)).to_have_count(0)


def test_a_worker_links_to_its_tasks_and_back(page: Page, single_broker: Broker) -> None:
    save_queue(spec=spec("inference", "high:10", "low:3"), source=QueueSource.API)
    task = new_task("t/1", "inference_high")
    put(single_broker, task.id, queue=task.queue)
    take(single_broker, 1, task.queue, worker_id=RECORD.worker_id)

    with heartbeats(single_broker, RECORD, [RUNNING]):
        page.goto("/admin/")
        page.locator("#nav-sidebar").get_by_role("link", name="Workers").click()
        page.get_by_role("link", name="worker/1").click()
        page.get_by_role("link", name="t/1").click()
        expect(page.get_by_text("Active", exact=True).first).to_be_visible()
        page.get_by_role("link", name="worker/1").click()

        expect(page.get_by_text("1 of 4 slots busy")).to_be_visible()


def test_nothing_is_wider_than_a_phone(page: Page, watch: Watch, single_broker: Broker) -> None:
    watch.expected.append("404")
    name = "a-queue-whose-name-is-" + "very-" * 12 + "long"
    save_queue(spec=spec(name), source=QueueSource.API)
    error = json.dumps({"x" * 200: ["y" * 300]})
    put(single_broker, "i" * 120, queue=name, payload=error.encode())
    page.set_viewport_size({"width": 390, "height": 844})
    paths = (
        *(LIST, f"{LIST}?queue={name}", f"{LIST}{'i' * 120}/change/", f"{LIST}add/?queue={name}", f"{LIST}?q=nope"),
        *("/admin/workers/worker/", "/admin/workers/worker/worker_2F1/change/", f"{LIST}nope/change/"),
    )

    with heartbeats(single_broker, RECORD, [RUNNING]):
        for path in paths:
            page.goto(path)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert (path, width) == (path, 390)
