"""The time zone of a user is that of the admin's pages and forms, and of nothing else."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.models import ApiKey, UserSettings
from runqy.api.serializers import AwareDateTimeField
from runqy.audit.operations import record
from runqy.server.overview.charts import ChartRange
from schedules.models import Schedule
from tests.api.client import ApiClient
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.environment import ADMIN_KEY
from tests.support.staff import client_of, staff_user

pytestmark = pytest.mark.usefixtures("configuration")
SETTINGS = "/admin/settings/"
SCHEDULE = {
    "name": "nightly",
    "queue": "mail",
    "payload": "{}",
    "options": "{}",
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
    "jitter": "0s",
    "starts_at": "2030-01-01T00:00",
    "ends_at": "2030-02-01T00:00",
    "overlap": "skip",
    "catch_up": "last",
}


@pytest.fixture
def reader() -> Client:
    """Return an administrator in India."""
    user = staff_user("admin", "asha")
    UserSettings.objects.create(user=user, time_zone="Asia/Kolkata")
    return client_of(user)


def test_a_user_chooses_a_zone_and_the_audit_has_the_change() -> None:
    client = client_of(staff_user("viewer", "asha"))

    wrong = client.post(SETTINGS, {"time_zone": "Asia/Kolkatta"})
    chosen = client.post(SETTINGS, {"time_zone": "Asia/Kolkata"}, follow=True)

    assert "Must be a time zone of the IANA database" in wrong.content.decode()
    assert "My settings (Asia/Kolkata)" in chosen.content.decode()
    (changed,) = audit_records()
    assert (changed.action, changed.object_name) == ("user.updated", "asha")
    assert json.loads(changed.changes)["time_zone"]["new"] == "Asia/Kolkata"


def test_a_zone_that_is_no_longer_known_is_utc() -> None:
    user = staff_user("viewer", "asha")
    UserSettings.objects.create(user=user, time_zone="Mars/Olympus")

    page = client_of(user).get("/admin/")

    assert 'data-time-zone="UTC"' in page.content.decode()


def test_a_login_keeps_the_zone_that_a_user_has(reader: Client) -> None:
    user = staff_user("admin", "asha")
    user.set_password("a-Password-1")
    user.save()

    for zone in ("Europe/Berlin", "nowhere"):
        Client().post("/admin/login/", {"username": "asha", "password": "a-Password-1", "time_zone": zone})

    assert UserSettings.objects.get().time_zone == "Asia/Kolkata"


def test_times_of_a_schedule_are_typed_in_the_zone_and_returned_in_utc(reader: Client) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)

    reader.post("/admin/schedules/schedule/add/", SCHEDULE)
    row = Schedule.objects.get()
    page = reader.get(f"/admin/schedules/schedule/{row.pk}/change/").content.decode()
    preview = reader.post("/admin/schedules/schedule/preview/", SCHEDULE).content.decode()

    assert (row.starts_at, row.ends_at) == (
        datetime(2029, 12, 31, 18, 30, tzinfo=UTC),
        datetime(2030, 1, 31, 18, 30, tzinfo=UTC),
    )
    assert "Starts at (Asia/Kolkata)" in page
    assert 'value="2030-01-01T00:00:00"' in page
    assert "For you in Asia/Kolkata" in preview
    assert 'title="2030-01-01 01:30:00 UTC">Tue 2030-01-01 07:00:00</time>' in preview
    assert ApiClient(ADMIN_KEY).get("/api/schedules/nightly").json()["starts_at"] == "2029-12-31T18:30:00Z"


def test_a_day_of_the_audit_is_one_of_the_zone_and_an_export_in_utc(reader: Client) -> None:
    for number, time in enumerate(("18:29", "18:30", "23:59"), start=1):
        record(action="queue.paused", object_kind="queue", object_name="mail")
        with connection.cursor() as cursor:
            at = datetime.fromisoformat(f"2026-11-26T{time}:00Z")
            cursor.execute("UPDATE audit_auditrecord SET at = %s WHERE number = %s", [at, number])

    page = reader.get("/admin/audit/auditrecord/?at_from=2026-11-27&at_to=2026-11-27").content.decode()
    export: Any = reader.get("/admin/audit/auditrecord/export/")

    assert re.findall(r'<time [^>]*title="([^"]+)">([^<]+)</time>', page) == [
        ("2026-11-26 23:59:00 UTC", "2026-11-27 05:29:00"),
        ("2026-11-26 18:30:00 UTC", "2026-11-27 00:00:00"),
    ]
    assert "2026-11-26T18:30:00+00:00" in export.getvalue().decode()


def test_a_snooze_and_the_last_day_of_a_key_end_in_the_zone(reader: Client) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    finding = Finding(kind=AlertKind.FAILURE_RATE, subject="mail", queue="mail", message="mail fails.")
    store_findings([finding], now=datetime.now(UTC))

    until = datetime.now(ZoneInfo("Asia/Kolkata")) + timedelta(days=2)
    until = until.replace(hour=8, minute=0, second=0, microsecond=0)
    form = {"verb": "snooze", "until": f"{until:%Y-%m-%dT%H:%M}"}
    snoozed = reader.post(f"/admin/alerts/alert/acknowledge/?alert={Alert.objects.get().pk}", form, follow=True)
    reader.post(
        "/admin/accounts/apikey/add/",
        {"name": "shop", "role": "client", "lifetime": "day", "last_day": "2099-12-31"},
    )

    assert Alert.objects.get().snoozed_until == until
    assert f"Snoozed until {until:%Y-%m-%d} 08:00." in snoozed.content.decode()
    assert ApiKey.objects.get().expires_at == datetime(2099, 12, 31, 18, 30, tzinfo=UTC)


def test_the_api_formats_times_in_utc_also_in_the_admin() -> None:
    with timezone.override("Asia/Kolkata"):
        found = AwareDateTimeField().to_representation(datetime(2026, 3, 1, 12, tzinfo=UTC))

    assert found == "2026-03-01T12:00:00Z"


@pytest.mark.parametrize("queue", ["", "mail"])
@pytest.mark.parametrize(("chart_range", "count"), [("1h", 6), ("24h", 6), ("7d", 7)])
def test_the_axis_of_a_chart_has_times_where_hours_begin_at_other_minutes(
    chart_range: str, count: int, queue: str
) -> None:
    shown = ChartRange(chart_range)
    end, step = datetime(2026, 11, 26, 12, tzinfo=UTC), timedelta(seconds=shown.step_s(queue))
    starts = [end - number * step for number in range(shown.span // step)]

    for zone in ("UTC", "Asia/Kolkata"):
        with timezone.override(zone):
            labels = [shown.format_time(start) for start in starts]
        assert len([label for label in labels if re.search(shown.ticks(queue), label)]) == count


@pytest.mark.parametrize("typed", ["0001-01-01T00:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"])
def test_times_at_the_ends_of_the_calendar_are_errors_or_found(reader: Client, typed: str) -> None:
    page = reader.get("/admin/tasks/task/", {"state": "ended", "since": typed, "until": typed})

    assert page.status_code in (200, 302, 400)
    assert reader.get("/admin/audit/auditrecord/?at_from=0001-01-01&at_to=9999-12-30").status_code == 200
