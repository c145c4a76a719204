"""Open lists follow what happens, and keep what the user has selected."""

from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from queues.models import Queue, QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tests.browser.conftest import Login
from tests.queues.samples import spec
from tests.support.maintenance_duties import put
from tests.support.runs import insert_runs, make_run
from tests.support.workers import RECORD, heartbeats
from tests.tasks.task_helpers import put_in

LIST = "/admin/tasks/task/"
COUNT_LISTENERS = """
  window.listenerCount = 0;
  const add = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (...args) {
    if (this === document || this === window) window.listenerCount += 1;
    return add.apply(this, args);
  };
"""


def test_new_tasks_appear_and_the_selection_stays(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put_in(single_broker, "archived", "t1", "t2", queue="mail")
    login(anonymous, "operator")
    anonymous.goto(f"{LIST}?queue=mail&state=archived")
    anonymous.get_by_label("Select task t1").check()

    put_in(single_broker, "archived", "t3", queue="mail")

    expect(anonymous.get_by_label("Select task t3")).to_be_visible()
    expect(anonymous.get_by_label("Select task t1")).to_be_checked()
    expect(anonymous.get_by_text("1 selected")).to_be_visible()
    expect(anonymous.get_by_role("link", name="Archived 3")).to_be_visible()
    expect(anonymous.locator("#matches")).to_have_text("3")
    anonymous.get_by_label("Select all tasks on this page").check()
    expect(anonymous.get_by_text("3 selected")).to_be_visible()


def test_runs_that_end_appear_in_the_history(anonymous: Page, login: Login) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    insert_runs(make_run(task_id="first"))
    login(anonymous, "viewer")
    anonymous.goto(f"{LIST}?state=ended")
    expect(anonymous.get_by_role("link", name="first")).to_be_visible()

    insert_runs(make_run(task_id="second"))

    expect(anonymous.get_by_role("link", name="second")).to_be_visible()


def test_a_worker_that_starts_appears(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    login(anonymous, "viewer")
    rows, other = anonymous.locator("#rows tr"), replace(RECORD, worker_id="other:1")
    with heartbeats(single_broker, RECORD):
        anonymous.goto("/admin/workers/worker/")
        expect(rows).to_have_count(1)

        with heartbeats(single_broker, other):
            expect(rows).to_have_count(2)


def test_a_page_that_is_not_the_first_stays_as_it_is(anonymous: Page, login: Login, single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    for number in range(60):
        put(single_broker, f"t{number:02}", "mail")
    login(anonymous, "viewer")
    anonymous.goto(f"{LIST}?queue=mail&state=pending")
    expect(anonymous.locator("#rows[data-live]")).to_have_count(1)

    anonymous.get_by_role("link", name="Next").click()

    expect(anonymous.locator("#rows")).to_have_count(1)
    expect(anonymous.locator("#rows[data-live]")).to_have_count(0)


def update_now(page: Page) -> None:
    page.get_by_role("button", name="Pause live updates").click()
    page.get_by_role("button", name="Resume live updates").click()


def test_queues_appear_and_vanish_in_their_list_and_the_selection_stays(anonymous: Page, login: Login) -> None:
    for name in ("first", "mail"):
        save_queue(spec=spec(name), source=QueueSource.API)
    login(anonymous, "operator")
    anonymous.goto("/admin/queues/queue/")
    rows, selected = anonymous.locator("#result_list tbody"), anonymous.locator("input.action-select:checked")
    mail = str(Queue.objects.get(name="mail").pk)
    anonymous.get_by_role("row", name="mail").get_by_role("checkbox").check()

    save_queue(spec=spec("later"), source=QueueSource.API)
    Queue.objects.filter(name="first").delete()
    update_now(anonymous)

    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("later")
    expect(selected).to_have_count(1)
    expect(selected).to_have_value(mail)
    expect(anonymous.get_by_text("1 of 2 selected")).to_be_visible()
    anonymous.get_by_label("Select all").check()
    expect(anonymous.get_by_text("2 of 2 selected")).to_be_visible()
    anonymous.get_by_role("row", name="mail").get_by_role("checkbox").uncheck()
    expect(anonymous.get_by_text("1 of 2 selected")).to_be_visible()


def test_the_first_queue_appears_in_an_empty_list_and_can_be_selected(anonymous: Page, login: Login) -> None:
    login(anonymous, "operator")
    anonymous.goto("/admin/queues/queue/")
    expect(anonymous.get_by_text("No queues yet")).to_be_visible()

    save_queue(spec=spec("mail"), source=QueueSource.API)
    update_now(anonymous)
    anonymous.get_by_role("row", name="mail").get_by_role("checkbox").check()
    expect(anonymous.get_by_text("1 of 1 selected")).to_be_visible()

    Queue.objects.all().delete()
    update_now(anonymous)
    expect(anonymous.get_by_text("No queues yet")).to_be_visible()


@pytest.mark.usefixtures("context")
def test_rows_that_are_replaced_add_no_listeners(anonymous: Page, login: Login) -> None:
    anonymous.add_init_script(COUNT_LISTENERS)
    login(anonymous, "operator")
    save_queue(spec=spec("mail"), source=QueueSource.API)
    anonymous.goto("/admin/queues/queue/", wait_until="load")
    expect(anonymous.get_by_text("0 of 1 selected")).to_be_attached()
    before = anonymous.evaluate("window.listenerCount")
    assert before > 0

    for number in range(3):
        save_queue(spec=spec(f"mail-{number}"), source=QueueSource.API)
        update_now(anonymous)
        expect(anonymous.locator("#result_list tbody")).to_have_count(number + 2)
        anonymous.get_by_label("Select all").check()
        expect(anonymous.get_by_text(f"{number + 2} of {number + 2} selected")).to_be_visible()

    assert anonymous.evaluate("window.listenerCount") == before


def test_rows_between_two_clicks_with_shift_are_selected(anonymous: Page, login: Login) -> None:
    save_queue(spec=spec("a"), source=QueueSource.API)
    login(anonymous, "operator")
    anonymous.goto("/admin/queues/queue/")
    for name in ("b", "c", "d"):
        save_queue(spec=spec(name), source=QueueSource.API)
    update_now(anonymous)
    boxes = anonymous.locator("input.action-select")
    expect(boxes).to_have_count(4)

    boxes.nth(0).click()
    boxes.nth(2).click(modifiers=["Shift"])

    expect(anonymous.get_by_text("3 of 4 selected")).to_be_visible()
