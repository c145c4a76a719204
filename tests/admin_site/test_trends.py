"""Whether the backlog grows or shrinks, beside the number of pending tasks."""

from datetime import UTC, datetime, timedelta

import pytest

from queues.models import QueueSource
from queues.operations import save_queue
from runqy import clock
from runqy.broker.broker import Broker
from runqy.overview.trends import BacklogSample, describe_trend
from tasks.models import QueueMinute
from tests.queues.samples import spec
from tests.support.maintenance_duties import put
from tests.support.staff import staff_client

pytestmark = pytest.mark.usefixtures("configuration")


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
        (0, 500, ""),
        (5, 0, "grows 1/min"),
    ],
)
def test_a_trend_is_the_change_a_minute(pending: int, before: int, expected: str) -> None:
    earlier = BacklogSample(at=now() - timedelta(minutes=5), pending=before)

    assert describe_trend(pending, earlier) == expected


def test_without_a_sample_there_is_no_trend() -> None:
    assert describe_trend(10, None) == ""


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
    assert pending.remark.startswith("shrinks ")
    assert trends["mail"].startswith("shrinks ")
    assert 19 <= int(trends["mail"].removeprefix("shrinks ").removesuffix("/min")) <= 25
    assert trends["calm"] == "steady"
