"""The charts of the overview show what the history has counted."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from queues.models import QueueSource, ReleaseSource, ReleaseState
from queues.operations import save_queue
from runqy import clock
from runqy.broker.keys import QueueKeys
from runqy.broker.states import FAILURES, RunOutcome
from runqy.server.overview import charts
from runqy.server.overview.charts import Chart, ChartRange, read_charts
from runqy.server.overview.release_marks import list_release_marks
from tasks.history.failure_counts import FailureCounts
from tasks.history.rollups import RunSampler
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.releases import insert_release
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.staff import staff_client

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")
MINUTE_NS = 60 * 10**9


def find(chart_id: str, found: list[Chart]) -> Chart:
    return next(chart for chart in found if chart.id == chart_id)


def values(chart: Chart, line: str) -> list[float | None]:
    return list(next(series.values for series in chart.series if series.name == line))


def ended_before(minutes: int) -> int:
    """Return a time in the middle of a minute that is over."""
    return (clock.now_ns() // MINUTE_NS - minutes) * MINUTE_NS + MINUTE_NS // 2


def test_counts_agree_with_the_history() -> None:
    at = ended_before(10)
    insert_runs(*[make_run(ended_ns=at) for _ in range(6)], *[make_failure(ended_ns=at) for _ in range(2)])
    insert_runs(*[make_failure(ended_ns=at, attempt=2, outcome=RunOutcome.RETRIED, is_final=False) for _ in range(9)])

    found = read_charts(ChartRange.HOUR)

    assert sum(value or 0 for value in values(find("throughput", found), "Completed")) == 6
    assert sum(value or 0 for value in values(find("throughput", found), "Failed")) == 11
    for line in ("First attempts", "Tasks"):
        assert [value for value in values(find("failure-rate", found), line) if value is not None] == [25]


def test_durations_are_in_seconds() -> None:
    at = ended_before(10)
    insert_runs(*[make_run(ended_ns=at, started_ns=at - 8 * 10**9, enqueued_ns=at - 10 * 10**9) for _ in range(40)])

    found = read_charts(ChartRange.HOUR)

    (run,) = [value for value in values(find("run", found), "Median") if value is not None]
    (wait,) = [value for value in values(find("wait", found), "95th percentile") if value is not None]
    assert 5.5 < run < 8.5
    assert 1.4 < wait < 2.9


def test_a_chart_of_one_queue_leaves_the_others_out() -> None:
    at = ended_before(10)
    insert_runs(make_run(ended_ns=at), make_run(ended_ns=at), queue="mail")
    insert_runs(make_run(ended_ns=at), queue="post")

    found = read_charts(ChartRange.HOUR, "post")

    assert sum(value or 0 for value in values(find("throughput", found), "Completed")) == 1


@pytest.mark.parametrize(
    ("chart_range", "hours_ago", "count"), [("1h", 2, 0), ("24h", 2, 1), ("24h", 30, 0), ("7d", 30, 1)]
)
def test_a_range_holds_what_ended_in_it(chart_range: str, hours_ago: int, count: int) -> None:
    insert_runs(make_run(ended_ns=ended_before(60 * hours_ago)))

    completed = values(find("throughput", read_charts(ChartRange(chart_range))), "Completed")

    assert sum(bool(value) for value in completed) == count


def test_the_table_of_the_throughput_has_each_way_to_fail() -> None:
    point = charts.StatsPoint(start=datetime(2026, 11, 26, 12, tzinfo=UTC))
    point.outcomes |= {outcome: number for number, outcome in enumerate(sorted(RunOutcome), start=1)}

    throughput = find(
        "throughput", charts.build_charts([point], ChartRange.HOUR, 60, point.start + timedelta(minutes=1))
    )

    ((_, cells),) = throughput.rows
    row = dict(cells)
    assert [*row] == [column.name for column in throughput.columns]
    parts = [row[name] for name in charts.FAILURE_COLUMNS.values()]
    assert set(charts.FAILURE_COLUMNS) == FAILURES
    assert len(set(parts)) == len(FAILURES)
    assert int(row["Failed"]) == sum(map(int, parts))
    assert [line.name for line in throughput.series] == ["Completed", "Failed", "Cancelled"]


def test_the_minute_that_has_just_begun_has_no_rate() -> None:
    now = datetime(2026, 11, 26, 12, 0, 20, tzinfo=UTC)
    begun = charts.StatsPoint(start=now.replace(second=0))
    over = charts.StatsPoint(start=begun.start - timedelta(minutes=1))
    begun.outcomes[RunOutcome.COMPLETED] = over.outcomes[RunOutcome.COMPLETED] = 30
    begun.outcomes[RunOutcome.FAILED] = over.outcomes[RunOutcome.FAILED] = 10
    begun.failures = over.failures = FailureCounts(first_ended=40, first_failed=20, tasks_ended=40, tasks_failed=10)

    found = charts.build_charts([over, begun], ChartRange.HOUR, 60, now)

    assert values(find("throughput", found), "Completed") == [30, None]
    assert values(find("failure-rate", found), "First attempts") == [50, None]
    assert values(find("failure-rate", found), "Tasks") == [25, None]


def test_a_value_without_neighbours_is_drawn_as_a_point() -> None:
    insert_runs(*[make_run(ended_ns=ended_before(minutes)) for minutes in (30, 20, 19)])

    (drawn, _) = json.loads(find("run", read_charts(ChartRange.HOUR)).data)["datasets"]

    values_and_points = [pair for pair in zip(drawn["data"], drawn["pointRadius"], strict=True) if pair[0] is not None]
    assert [bool(radius) for _, radius in values_and_points] == [True, False, False]


@pytest.mark.parametrize(
    ("longest_s", "unit", "value", "text"),
    [
        (90, "seconds", 90, "1 min 30 s"),
        (605, "minutes", 10.1, "10 min 5 s"),
        (18_000, "hours", 5, "5 h"),
        (5e5, "days", 5.79, "5 d 18 h"),
    ],
)
def test_long_durations_have_a_unit_that_can_be_read(longest_s: float, unit: str, value: float, text: str) -> None:
    now = datetime(2026, 11, 26, 12, 1, tzinfo=UTC)
    point = charts.StatsPoint(start=now - timedelta(minutes=1), oldest_ms=int(longest_s * 1000))

    found = find("oldest", charts.build_charts([point], ChartRange.HOUR, 60, now))

    assert (found.unit.name, values(found, "Age")) == (unit, [value])
    assert json.loads(found.options)["scales"]["y"]["title"]["text"] == unit
    ((start, cells),) = found.rows
    assert (found.latest, cells) == (f"Age {text}", [("Age", text)])
    assert str(start) == '<time datetime="2026-11-26T12:00:00Z" title="2026-11-26 12:00:00 UTC">12:00</time>'


def test_a_short_duration_keeps_its_digits_beside_a_long_one() -> None:
    now = datetime(2026, 11, 26, 12, 2, tzinfo=UTC)
    ages_ms = {2: 600_000, 1: 437}
    points = [charts.StatsPoint(start=now - timedelta(minutes=ago), oldest_ms=age) for ago, age in ages_ms.items()]

    found = find("oldest", charts.build_charts(points, ChartRange.HOUR, 60, now))

    assert (found.unit.name, found.latest) == ("minutes", "Age 437 ms")


@pytest.mark.parametrize("chart_range", list(ChartRange))
def test_every_range_has_the_backlog(chart_range: ChartRange, single_broker) -> None:
    redis_of(single_broker).lpush(QueueKeys("mail").pending, "t1", "t2")
    RunSampler().sample_all(single_broker, ["mail"], None)

    found = find("backlog", read_charts(chart_range))

    assert found.latest == "Pending 2"
    assert json.loads(found.data)["datasets"][0]["pointRadius"][-1] > 0


def test_lines_differ_without_colours() -> None:
    for chart in read_charts(ChartRange.HOUR):
        drawn = json.loads(chart.data)["datasets"]
        assert len({tuple(dataset["borderDash"]) for dataset in drawn}) == len(drawn)


def test_each_chart_has_a_table_for_screen_readers() -> None:
    at = ended_before(3)
    insert_runs(*[make_run(ended_ns=at) for _ in range(1234)])

    page = staff_client("viewer").get("/admin/overview/charts/").content.decode()

    assert page.count("<canvas") == page.count("<table") == 6
    assert '<td class="page-number" data-label="Completed">1,234</td>' in page


def test_the_overview_names_the_chosen_queue_and_range(single_broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)

    page = staff_client("viewer").get("/admin/?range=7d&queue=mail").content.decode()

    assert "History of mail" in page
    assert "<option selected>mail</option>" in page
    assert 'value="7d" checked' in page


def test_a_sub_queue_has_charts_of_its_own_and_an_unknown_name_is_reported(single_broker) -> None:
    save_queue(spec=spec("mail", "high:10", "low:3"), source=QueueSource.API)
    at = ended_before(10)
    insert_runs(make_run(ended_ns=at), make_run(ended_ns=at), queue="mail", sub_queue="low", redis_queue="mail_low")
    insert_runs(make_run(ended_ns=at), queue="mail", sub_queue="high", redis_queue="mail_high")
    viewer = staff_client("viewer")

    low = values(find("throughput", read_charts(ChartRange.HOUR, "mail_low")), "Completed")
    known, unknown = (viewer.get(f"/admin/?queue={name}").content.decode() for name in ("mail_low", "maill"))

    assert sum(value or 0 for value in low) == 2
    assert ("<option selected>mail_low</option>" in known, known.count("<canvas")) == (True, 6)
    assert "No queue &#x27;maill&#x27;, and no history of it." in unknown
    assert "<canvas" not in unknown
    assert viewer.get("/admin/overview/charts/?queue=maill").status_code == 404


def test_charts_of_a_queue_have_a_mark_for_each_release(django_assert_num_queries, single_broker) -> None:
    queue = save_queue(spec=spec("mail"), source=QueueSource.API)
    now = datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)
    at = {minutes: now - timedelta(minutes=minutes) for minutes in (500, 40, 30, 20, 10)}
    old = {"state": ReleaseState.SUPERSEDED}
    insert_release(queue, "a" * 40, created_at=at[500], **old)
    insert_release(queue, "b" * 40, created_at=at[40], **old)
    insert_release(queue, "a" * 40, created_at=at[30], source=ReleaseSource.ROLLBACK, like=1)
    reverted = {"state": ReleaseState.REVERTED, "live_at": None, "subject": ""}
    insert_release(queue, "c" * 40, created_at=at[30], ended_at=at[20], **reverted)
    insert_release(queue, "", created_at=at[20], ended_at=at[10], branch="v9", **reverted)
    insert_release(queue, "d" * 40, created_at=at[10], live_at=None, state=ReleaseState.ROLLING_OUT)
    insert_release(save_queue(spec=spec("other"), source=QueueSource.API), "e" * 40)

    found = read_charts(ChartRange.HOUR, "mail")

    for chart in found:
        data = json.loads(chart.data)
        assert [(mark["number"], mark["color"]) for mark in data["marks"]] == [
            (2, "main"),
            (3, "other"),
            (4, "bad"),
            (5, "bad"),
        ]
        assert [data["labels"][mark["index"]] for mark in data["marks"]] == [f"{at[n]:%H:%M}" for n in (40, 30, 20, 10)]
    with django_assert_num_queries(1):
        marks = list_release_marks("mail", [at[500]], end=now)
    assert [mark.text for mark in marks] == [
        "Release 1 went live: Read <larger> images",
        "Release 2 went live: Read <larger> images",
        "Release 3 rolled back to 1: Read <larger> images",
        "Release 4 reverted: cccccccccccc",
        "Release 5 reverted: v9",
    ]
    assert [chart.marks for chart in read_charts(ChartRange.HOUR)] == [[]] * len(found)
    content = staff_client("viewer").get("/admin/?queue=mail").content.decode()
    assert "Release 3 rolled back to 1: Read &lt;larger&gt; images" in content
    assert "Release 1 went live" not in content
