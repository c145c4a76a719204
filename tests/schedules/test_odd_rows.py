"""A schedule that cannot be handled costs no other schedule anything."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import timezone

from runqy.broker.broker import Broker
from runqy.maintenance.models import FailedRow
from schedules.models import Fire, Schedule
from schedules.runner import run_schedules
from tests.api.client import ApiClient
from tests.schedules.conftest import Times

pytestmark = pytest.mark.usefixtures("queues")
Save = Callable[..., Schedule]
LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def enqueued() -> list[str]:
    return sorted(Fire.objects.filter(state="enqueued").values_list("schedule__name", flat=True))


@pytest.mark.parametrize(
    "odd",
    [
        {"every_s": 3600, "cron": "", "jitter_s": 10},
        {"cron": "0 * * * *", "time_zone": "Asia/Tokyo"},
        {"cron": "30 2 * * *", "time_zone": "America/New_York", "jitter_s": 10},
    ],
)
def test_a_stored_schedule_beyond_the_calendar_heals_and_others_fire(
    times: Times, save: Save, odd: dict[str, Any]
) -> None:
    save(name="good", cron="0 * * * *")
    row = save(name="odd", queue="full")
    Schedule.objects.filter(pk=row.pk).update(**odd, starts_at=LAST, next_due_at=LAST, wake_at=times.now)

    shown = ApiClient().get("/api/schedules")
    times.run_in(hours=1)

    row.refresh_from_db()
    assert (shown.status_code, [each["name"] for each in shown.json()["schedules"]]) == (200, ["good", "odd"])
    assert enqueued() == ["good"]
    assert (row.next_due_at, row.wake_at) == (None, None)


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
@pytest.mark.parametrize("field", ["starts_at", "ends_at"])
def test_times_beyond_the_calendar_are_refused(times: Times, field: str, time: str) -> None:
    body = {"name": "odd", "queue": "mail", "every": "1h", "jitter": "10s", field: time}

    response = ApiClient().post("/api/schedules", body)

    assert (response.status_code, response.json()["errors"][0].partition(":")[0]) == (400, field)
    assert not Schedule.objects.exists()


def test_schedules_that_raise_are_left_out_and_others_fire_together(
    times: Times, save: Save, single_broker: Broker
) -> None:
    good = [save(name=f"good{number}", cron="0 * * * *") for number in range(7)]
    odd = [save(name=name, cron="0 * * * *", queue="full") for name in ("odd0", "odd1")]
    Schedule.objects.filter(pk__in=[row.pk for row in odd]).update(options=7)

    times.run_in(hours=1)
    failed = sorted(FailedRow.objects.values_list("kind", "name", "queue", "error", "times"))
    run_schedules(single_broker)  # while they are paused

    assert enqueued() == [row.name for row in good]
    assert failed == [("schedule", row.name, "full", "TypeError", 1) for row in odd]
    assert set(FailedRow.objects.values_list("times", flat=True)) == {1}


def test_a_schedule_that_raised_is_tried_again_and_fires_once_it_is_changed(
    times: Times, save: Save, single_broker: Broker
) -> None:
    row = save(cron="0 * * * *")
    Schedule.objects.filter(pk=row.pk).update(options=7)
    times.run_in(hours=1)
    FailedRow.objects.update(paused_until=timezone.now())
    times.run_in(minutes=1)
    failed = FailedRow.objects.get()

    save(cron="0 * * * *", payload="{}")
    run_schedules(single_broker)

    assert (failed.times, (failed.paused_until - timezone.now()).total_seconds()) == (2, pytest.approx(120, abs=60))
    assert (enqueued(), FailedRow.objects.count()) == (["nightly"], 0)
