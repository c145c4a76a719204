"""The overview in a real browser: live numbers, charts, and what keeps them."""

import re
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.utils import timezone
from playwright.sync_api import Page, expect

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource, ReleaseState
from queues.operations import save_queue
from runqy import clock
from runqy.broker.broker import Broker
from tests.browser.conftest import Login
from tests.browser.pages import find_wide_elements
from tests.queues.samples import spec
from tests.support.maintenance_duties import put
from tests.support.releases import insert_release
from tests.support.runs import insert_runs, make_run
from tests.support.waiting import wait_until


def open_overview(page: Page, login: Login, path: str = "/admin/") -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    login(page, "viewer")
    page.goto(path)


def refresh(page: Page) -> None:
    """Refresh the live parts of a page as if it had just been opened, instead of when they and their cache are old."""
    cache.delete_pattern("*")
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def pending(page: Page):
    return page.locator(".overview-stats div", has=page.get_by_text("Pending", exact=True)).get_by_role("link")


def test_numbers_follow_without_a_reload(anonymous: Page, login: Login, single_broker: Broker) -> None:
    open_overview(anonymous, login)
    expect(pending(anonymous)).to_have_text("0")
    anonymous.evaluate("() => { window.isSamePage = true }")

    put(single_broker, "t1", "mail")

    expect(pending(anonymous)).to_have_text("1")
    expect(anonymous.get_by_role("status").filter(has_text="Live, updated")).to_be_visible()
    assert anonymous.evaluate("() => window.isSamePage")


def test_the_focus_stays_while_numbers_change(anonymous: Page, login: Login, single_broker: Broker) -> None:
    put(single_broker, "t0", "mail")  # the busiest of few that are listed
    open_overview(anonymous, login)
    link = anonymous.locator("#overview-live").get_by_role("link", name="mail", exact=True)
    link.focus()

    put(single_broker, "t1", "mail")
    expect(pending(anonymous)).to_have_text("2")

    expect(link).to_be_focused()


@pytest.mark.usefixtures("context")
def test_a_paused_page_stays_as_it_is_also_after_a_reload(anonymous: Page, login: Login, single_broker: Broker) -> None:
    open_overview(anonymous, login)
    anonymous.get_by_role("button", name="Pause live updates").click()
    expect(anonymous.get_by_role("status").filter(has_text="Paused")).to_be_visible()
    put(single_broker, "t1", "mail")
    anonymous.reload()
    sent: list[str] = []
    anonymous.on("request", lambda request: sent.append(request.url))

    with anonymous.expect_event("request", lambda request: "/overview/live/" in request.url):
        anonymous.wait_for_timeout(4500)  # two refreshes would have been due
        assert not [url for url in sent if "/overview/" in url]
        anonymous.get_by_role("button", name="Resume live updates").click()

    expect(pending(anonymous)).to_have_text("1")


def test_a_session_that_ended_leads_to_the_login_and_back(anonymous: Page, login: Login) -> None:
    open_overview(anonymous, login)

    anonymous.context.clear_cookies()

    anonymous.wait_for_url("**/admin/login/?next=/admin/")


def test_charts_are_drawn_and_follow_the_history(anonymous: Page, login: Login) -> None:
    at = (clock.now_ns() // (60 * 10**9) - 5) * 60 * 10**9
    insert_runs(*[make_run(ended_ns=at) for _ in range(30)])
    open_overview(anonymous, login)
    read = "() => Chart.getChart(document.querySelector('#chart-throughput canvas'))?.data.datasets[0].data ?? []"
    anonymous.wait_for_function(f"({read})().includes(30)")

    insert_runs(*[make_run(ended_ns=at) for _ in range(12)])
    refresh(anonymous)

    expect(anonymous.locator("#chart-throughput tbody")).to_contain_text("42")
    anonymous.wait_for_function(f"({read})().includes(42)")


def test_a_chart_without_values_takes_no_space_until_it_has_some(anonymous: Page, login: Login) -> None:
    open_overview(anonymous, login)
    rate = anonymous.locator("#chart-failure-rate")
    expect(rate.get_by_text("Nothing recorded in this period")).to_be_visible()
    expect(rate.locator("canvas")).to_be_hidden()

    insert_runs(make_run(ended_ns=clock.now_ns() - 5 * 60 * 10**9))
    refresh(anonymous)

    expect(rate.get_by_text("First attempts 0 %, Tasks 0 %")).to_be_visible()
    width = "figure => figure.querySelector('canvas').getBoundingClientRect().width / figure.clientWidth"
    wait_until(lambda: rate.evaluate(width) > 0.8)


def test_the_queue_and_the_period_of_charts_are_in_the_url(anonymous: Page, login: Login) -> None:
    open_overview(anonymous, login)

    anonymous.get_by_label("7 days").check()
    expect(anonymous).to_have_url(re.compile("range=7d"))
    anonymous.get_by_label("Queue", exact=True).select_option("mail")

    expect(anonymous).to_have_url(re.compile("queue=mail&range=7d"))
    expect(anonymous.get_by_role("heading", name="History of mail")).to_be_visible()


def test_light_and_dark_charts_have_text_that_can_be_read(anonymous: Page, login: Login) -> None:
    open_overview(anonymous, login)
    read = "() => Chart.getChart(document.querySelector('canvas.chart'))?.options.scales.x.ticks.color"
    light = anonymous.wait_for_function(read).json_value()

    anonymous.evaluate("() => document.documentElement.classList.toggle('dark')")

    anonymous.wait_for_function(f"({read})() !== {light!r}")


def test_a_legend_has_the_dashes_of_its_lines_and_the_axis_round_times(anonymous: Page, login: Login) -> None:
    open_overview(anonymous, login)
    read = """() => {
      const chart = Chart.getChart(document.querySelector("#chart-throughput canvas"));
      return chart?.options.scales.x.afterBuildTicks && chart.scales.x.ticks.length && {
        legend: chart.legend.legendItems.map((item) => [item.pointStyle, item.lineDash]),
        times: chart.scales.x.ticks.map((tick) => tick.label),
      };
    }"""

    drawn = anonymous.wait_for_function(read).json_value()

    assert drawn["legend"] == [["line", []], ["line", [6, 3]], ["line", [2, 3]]]
    assert all(re.fullmatch(r"\d\d:\d0", time) for time in drawn["times"])


@pytest.mark.usefixtures("context")
def test_releases_are_marked_on_the_charts_of_a_queue(anonymous: Page, login: Login) -> None:
    queue, now = save_queue(spec=spec("mail"), source=QueueSource.API), timezone.now()
    insert_runs(*[make_run(ended_ns=clock.now_ns() - minute * 60 * 10**9) for minute in range(2, 50)])
    for minutes in (40, 39):
        at = now - timedelta(minutes=minutes)
        insert_release(queue, f"{minutes:040}", created_at=at, state=ReleaseState.SUPERSEDED)
    anonymous.add_init_script("""
        window.drawn = new Set();
        const fillText = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
            window.drawn.add(text);
            return fillText.call(this, text, ...rest);
        };""")
    open_overview(anonymous, login, "/admin/?queue=mail")
    anonymous.wait_for_function("() => window.drawn.has('1\\u20132')")

    insert_release(queue, "c" * 40, created_at=now - timedelta(minutes=5), subject="Greet")
    refresh(anonymous)

    expect(anonymous.get_by_text("Release 3 went live: Greet")).to_be_visible()
    anonymous.wait_for_function("() => window.drawn.has('3')")
    footer = """() => {
      const chart = Chart.getChart(document.querySelector("#chart-throughput canvas"));
      const { index } = chart.data.marks.at(-1);
      chart.tooltip.setActiveElements([{ datasetIndex: 0, index }], { x: 0, y: 0 });
      chart.update();
      return chart.tooltip.footer;
    }"""
    assert anonymous.evaluate(footer) == ["Release 3 went live: Greet"]


def test_large_numbers_and_charts_that_are_still_wide_do_not_widen_the_page(anonymous: Page, login: Login) -> None:
    open_overview(anonymous, login)
    anonymous.locator("#overview-failing .page-frame").wait_for()
    anonymous.wait_for_function("() => Chart.getChart(document.querySelector('canvas.chart'))")
    make_wide = """() => {
      for (const one of document.querySelectorAll(".overview-stats a, .page-count")) one.textContent = "9,876,543,210";
      for (const canvas of document.querySelectorAll("canvas.chart")) canvas.style.width = "2000px";
    }"""

    anonymous.evaluate("() => document.querySelector('[data-live-toggle]').click()")
    for width in (1440, 390):
        anonymous.set_viewport_size({"width": width, "height": 844})
        anonymous.evaluate(make_wide)
        assert find_wide_elements(anonymous) == []


def test_all_columns_of_the_table_behind_a_chart_are_on_the_screen(anonymous: Page, login: Login) -> None:
    open_overview(anonymous, login)
    chart = anonymous.locator("#chart-throughput")

    chart.get_by_text("Table").click()

    box = chart.get_by_role("region", name="Values of Throughput")
    expect(box.get_by_text("Runs per minute")).to_be_visible()
    last = box.locator("tbody tr").first.locator("td").last
    expect(last).to_have_attribute("data-label", "Worker lost")
    for width in (1440, 390):
        anonymous.set_viewport_size({"width": width, "height": 844})
        assert box.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
        assert last.evaluate("cell => cell.getBoundingClientRect().right") <= width
        caption = box.locator("caption").bounding_box()
        assert caption is not None
        assert caption["height"] < 40


def test_a_notice_is_followed_by_its_link(anonymous: Page, login: Login) -> None:
    message = "Worker w1 is missing."
    store_findings(
        [Finding(kind=AlertKind.WORKER_MISSING, subject="w1", queue="mail", message=message)], now=timezone.now()
    )
    open_overview(anonymous, login)

    notice = anonymous.locator(".overview-alert p", has_text=message)

    (text,) = notice.evaluate_all(
        "found => found.map((one) => { const range = document.createRange(); "
        "range.selectNodeContents(one); range.setEndBefore(one.querySelector('a')); "
        "return range.getBoundingClientRect().right })"
    )
    link = notice.get_by_role("link", name="Worker", exact=True).bounding_box()
    assert link is not None
    assert 0 <= link["x"] - text < 30
