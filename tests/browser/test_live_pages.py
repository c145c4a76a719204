"""Pages that count or summarize follow what happens; lists that were empty fill; a hidden tab sends no requests."""

from dataclasses import dataclass
from datetime import datetime

import pytest
from django.utils import timezone
from playwright.sync_api import BrowserContext, Page, expect

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tasks.models import BulkAction
from tests.browser.conftest import Login
from tests.browser.watch import Watch
from tests.queues.samples import spec
from tests.support.maintenance_duties import put
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.workers import RECORD, heartbeats
from tests.tasks.task_helpers import put_in

QUEUES, TASKS, ERRORS = "/admin/queues/queue/", "/admin/tasks/task/", "/admin/tasks/task/errors/"
ALERTS, BULK_ACTIONS, WORKERS = "/admin/alerts/alert/", "/admin/tasks/bulkaction/", "/admin/workers/worker/"


@dataclass
class Tabs:
    """Pages that are open at the same time."""

    context: BrowserContext
    watch: Watch

    def open(self, *urls: str) -> list[Page]:
        pages = [self.context.new_page() for _ in urls]
        for page, url in zip(pages, urls, strict=True):
            self.watch.follow(page)
            page.goto(url)
            expect(page.get_by_role("button", name="Pause live updates")).to_be_visible()
        return pages


def fail_queue(name: str, now: datetime) -> None:
    findings = [Finding(kind=AlertKind.FAILURE_RATE, subject=name, queue=name, message=f"Half of {name} failed.")]
    store_findings(findings, now=now)


def test_lists_that_were_empty_fill(
    anonymous: Page, login: Login, watch: Watch, single_broker: Broker, context: BrowserContext
) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    login(anonymous, "operator")
    urls = [f"{TASKS}?queue=mail&state=pending", f"{TASKS}?state=active", f"{TASKS}?state=ended&sort=slowest"]
    tabs = Tabs(context, watch).open(*urls, ERRORS, WORKERS, ALERTS, BULK_ACTIONS)
    pending, active, ended, errors, workers, alerts, bulk_actions = tabs

    put(single_broker, "t1", "mail")
    put_in(single_broker, "active", "t2", queue="post")
    insert_runs(make_run(task_id="t3"), make_failure("KeyError: 'x'"))
    fail_queue("mail", timezone.now())
    BulkAction.objects.create(action="delete", query="{}", expected=7, requested_s=0, actor={})

    with heartbeats(single_broker, RECORD):
        expect(workers.get_by_role("link", name=RECORD.worker_id)).to_be_visible()
    expect(pending.get_by_label("Select task t1")).to_be_visible()
    pending.get_by_label("Select all tasks on this page").check()
    expect(pending.get_by_text("1 selected")).to_be_visible()
    put(single_broker, "t4", "mail")
    expect(pending.get_by_label("Select task t4")).to_be_visible()
    expect(pending.get_by_label("Select task t1")).to_be_checked()
    expect(active.get_by_role("link", name="t2")).to_be_visible()
    expect(ended.get_by_role("link", name="t3")).to_be_visible()
    expect(ended.locator("#matches")).to_have_text("2")
    expect(ended.locator("#running").get_by_role("link", name="t2")).to_be_visible()
    expect(ended.get_by_role("button", name="Pause live updates")).to_have_count(1)
    expect(errors.get_by_role("heading", name="KeyError")).to_be_visible()
    expect(alerts.get_by_role("link", name="Half of mail failed.")).to_be_visible()
    expect(bulk_actions.get_by_text("0 of 7")).to_be_visible()


def test_counts_change_and_the_users_changes_stay(
    anonymous: Page, login: Login, watch: Watch, single_broker: Broker, context: BrowserContext
) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put(single_broker, "t1", "mail")
    lines = "\n".join(f"  line {n}" for n in range(200))
    long_error = f"Traceback (most recent call last):\n  File {'a' * 300}\n{lines}\nKeyError: 'x'"
    insert_runs(make_failure(long_error))
    fail_queue("mail", timezone.now())
    bulk = BulkAction.objects.create(action="delete", query="{}", expected=7, requested_s=0, actor={})
    login(anonymous, "admin")
    tasks, queues, errors, alerts, bulk_actions = Tabs(context, watch).open(TASKS, QUEUES, ERRORS, ALERTS, BULK_ACTIONS)
    queues.locator("input.action-select").check()
    tasks.get_by_role("link", name="mail", exact=True).focus()
    errors.get_by_text("Newest sample").click()
    traceback = errors.locator("details pre")
    traceback.evaluate("box => box.scrollTo(0, 300)")
    assert traceback.evaluate("box => box.scrollWidth - box.clientWidth") == 0  # its long line is wrapped

    put(single_broker, "t2", "mail")
    insert_runs(make_failure(long_error))
    fail_queue("mail", timezone.now())
    fail_queue("post", timezone.now())
    BulkAction.objects.filter(pk=bulk.pk).update(done=3)

    expect(tasks.locator("#rows").get_by_role("link", name="2", exact=True)).to_be_visible()
    expect(tasks.get_by_role("link", name="mail", exact=True)).to_be_focused()
    expect(queues.locator("#result_list").get_by_role("link", name="2", exact=True)).to_be_visible()
    expect(queues.locator("input.action-select")).to_be_checked()
    expect(errors.locator(".page-error-count b")).to_have_text("2")
    expect(traceback).to_be_visible()
    assert traceback.evaluate("box => box.scrollTop") == 300
    expect(alerts.get_by_role("link", name="Half of post failed.")).to_be_visible()
    expect(alerts.get_by_text("2 alerts")).to_be_visible()
    expect(bulk_actions.get_by_text("3 of 7")).to_be_visible()


@pytest.mark.usefixtures("context")
def test_a_hidden_tab_sends_no_requests_and_an_update_keeps_scroll_selection_and_focus(
    anonymous: Page, login: Login, single_broker: Broker
) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put_in(single_broker, "archived", *(f"t{number:02}" for number in range(40)), queue="mail")
    login(anonymous, "operator")
    anonymous.clock.install()
    anonymous.goto(f"{TASKS}?queue=mail&state=archived")
    box = anonymous.get_by_label("Select task t20")
    box.check()
    anonymous.evaluate("scrollTo(0, 200)")

    def set_hidden(is_hidden: bool) -> None:
        value = "true" if is_hidden else "false"
        anonymous.evaluate(f"Object.defineProperty(document, 'hidden', {{ value: {value}, configurable: true }})")
        anonymous.evaluate("document.dispatchEvent(new Event('visibilitychange'))")

    set_hidden(True)
    anonymous.evaluate("asked = 0; document.body.addEventListener('htmx:beforeRequest', () => { asked += 1; })")
    anonymous.clock.run_for(60_000)
    assert anonymous.evaluate("asked") == 0

    put_in(single_broker, "archived", "t99", queue="mail")
    set_hidden(False)
    expect(anonymous.get_by_label("Select task t99")).to_be_attached()
    expect(box).to_be_checked()
    expect(box).to_be_focused()
    assert anonymous.evaluate("scrollY") == 200

    put_in(single_broker, "archived", "t98", queue="mail")
    anonymous.clock.run_for(3_000)
    assert anonymous.evaluate("asked") >= 2
    expect(anonymous.get_by_label("Select task t98")).to_be_attached()
    assert anonymous.evaluate("scrollY") == 200
