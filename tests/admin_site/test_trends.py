"""Whether the backlog grows or shrinks, beside the number of pending tasks."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.keys import QUEUES, QueueKeys
from tasks.history.recent import RecentCounts, RecentHistory
from tasks.models import QueueMinute
from tests.queues.samples import spec
from tests.support.maintenance_duties import put
from tests.support.redis_client import redis_of
from tests.support.staff import staff_client

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")


def now() -> datetime:
    return datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)


def sample(queue: str, redis_queue: str, backlog: int, minutes_ago: int) -> None:
    """Store the last sample of a minute that is over."""
    start = now().replace(second=0, microsecond=0) - timedelta(minutes=minutes_ago)
    QueueMinute.objects.create(queue=queue, redis_queue=redis_queue, start=start, backlog=backlog)


@pytest.mark.parametrize(
    ("pending", "before", "expected"),
    [
        (400, 1000, "shrinks 120/min"),
        (1000, 400, "grows 120/min"),
        (1000, 1002, "steady"),
        (7_000, 1_007_000, "shrinks 200,000/min"),
        (0, 500, "shrinks 100/min"),
        (5, 0, "grows 1/min"),
        (0, 0, ""),
    ],
)
def test_a_trend_is_the_change_a_minute(pending: int, before: int, expected: str) -> None:
    at, counts = now() - timedelta(minutes=5), RecentCounts(backlog=before)
    recent = RecentHistory(by_queue={"mail": counts}, since=at, sampled_at=at)

    assert recent.describe_trend("mail", pending) == expected
    assert recent.describe_total_trend(pending).split() == (f"{expected} over 5 min".split() if expected else [])


def test_the_overview_shows_whether_the_backlog_shrinks(single_broker: Broker) -> None:
    save_queue(spec=spec("mail", "high:10", "low:1"), source=QueueSource.API)
    save_queue(spec=spec("calm"), source=QueueSource.API)
    for number in range(3):
        put(single_broker, f"t{number}", "mail_high")
    put(single_broker, "c1", "calm")
    sample("mail", "mail_high", 60, 5)
    sample("mail", "mail_low", 40, 5)
    sample("mail", "mail_high", 3, 2)
    sample("calm", "calm", 1, 5)
    sample("mail", "mail_high", 9_999, 90)

    context = staff_client("viewer").get("/admin/").context

    (pending,) = (stat for stat in context["stats"] if stat.title == "Pending")
    trends = {row.name: row.trend for row in context["rows"]}
    assert pending.value == 4
    assert re.fullmatch(r"shrinks (19|2[0-5])/min over\s[45]\smin", pending.remark)
    assert re.fullmatch("trends over [45] min", context["trend_note"])
    assert re.fullmatch(r"shrinks (19|2[0-5])/min", trends["mail"])
    assert trends["calm"] == "steady"


def test_the_trends_of_queues_add_up_to_that_of_all(single_broker: Broker) -> None:
    for name, pending in {"old": 10, "new": 400}.items():
        save_queue(spec=spec(name), source=QueueSource.API)
        redis_of(single_broker).lpush(QueueKeys(name).pending, *range(pending))
        redis_of(single_broker).sadd(QUEUES, name)
    sample("old", "old", 410, 5)
    sample("old", "old", 350, 4)
    sample("new", "new", 100, 4)

    context = staff_client("viewer").get("/admin/").context

    (total,) = (stat.remark for stat in context["stats"] if stat.title == "Pending")
    old, new = (next(row.trend for row in context["rows"] if row.name == name) for name in ("old", "new"))
    assert old.removeprefix("shrinks ") == new.removeprefix("grows ")
    assert total.startswith("steady over")


def test_a_backlog_without_samples_has_no_trend_and_says_so(single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    put(single_broker, "t1", "mail")
    sample("mail", "mail", 9_999, 90)

    page = staff_client("viewer").get("/admin/")

    assert [stat.remark for stat in page.context["stats"] if stat.title == "Pending"] == ["no recent samples"]
    assert page.content.decode().count("no recent samples") == 2
    assert [row.trend for row in page.context["rows"]] == [""]


def test_a_backlog_that_has_gone_shrank(single_broker: Broker) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    sample("mail", "mail", 500, 5)

    context = staff_client("viewer").get("/admin/").context

    assert [row.trend.split()[0] for row in context["rows"]] == ["shrinks"]
