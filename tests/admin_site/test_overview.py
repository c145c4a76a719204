"""The overview, the first page of the admin."""

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Sum, Value
from django.test import Client
from django.utils import timezone

from alerts.acknowledgement import AlertSelection, acknowledge
from alerts.kinds import AlertKind
from alerts.models import Alert
from alerts.operations import store_findings, update_alerts
from alerts.queries import list_unresolved
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import save_queue
from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.states import FAILURES, RunOutcome
from runqy.server.overview import numbers, queue_counts
from tasks.history import stats
from tasks.models import QueueHour, TaskRun
from tests.configuration.support import away
from tests.queues.samples import spec
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.staff import create_roles, staff_client
from tests.support.tasks import put
from tools.demo.data import fill, make_configuration, make_users
from workers.queries import OWN_CREDENTIALS_SHARED

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration", "stopped_clock")]


@pytest.fixture(autouse=True)
def _roles(configuration: None, settings) -> None:
    create_roles()
    settings.RUNQY_WORKER_REDIS_TARGET = replace(settings.REDIS_TARGET, username="worker", password="secret")


def test_it_shows_the_number_of_objects(single_broker: Broker) -> None:
    fill(single_broker)

    context = staff_client("viewer").get("/admin/").context

    numbers = {stat.title: stat.value for stat in context["stats"]}
    assert numbers.pop("Completed") > numbers.pop("Failed") > 60  # by the history, which is as old as the minute
    assert numbers == {
        "Queues": 5,
        "Schedules": 3,
        "Pending": 203,
        "Active": 6,
        "Scheduled": 1,
        "Retry": 4,
        "Archived": 60,
        "Workers": 4,
    }
    assert [stat.remark for stat in context["stats"] if stat.title == "Workers"] == ["3 ready, 1 not ready"]
    busiest = context["rows"][0]
    assert (busiest.name, busiest.pending, busiest.active, busiest.workers.ready) == ("transcription", 150, 4, 1)
    failed = next(row for row in context["rows"] if row.name == "embeddings")
    assert (failed.workers.ready, failed.workers.not_ready) == (0, 1)


def test_attempts_of_the_last_hour_are_counted_with_the_rate_of_failures(
    stopped_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = clock.now_ns()
    monkeypatch.setattr(timezone, "now", lambda: datetime.fromtimestamp(now_ns / 1e9, UTC))
    save_queue(spec=spec("mail"), source=QueueSource.API)
    first_ns = (now_ns - 3600 * 10**9) // (60 * 10**9) * 60 * 10**9
    before_ns = first_ns - 10**9
    first = make_failure(outcome=RunOutcome.RETRIED, is_final=False, ended_ns=first_ns, started_ns=first_ns)
    insert_runs(first, make_failure(), make_run(), queue="mail")
    insert_runs(make_run(), make_failure(ended_ns=before_ns, started_ns=before_ns), queue="deleted-since")

    viewer = staff_client("viewer")
    stats = {stat.title: stat for stat in viewer.get("/admin/").context["stats"]}

    assert (stats["Completed"].value, stats["Completed"].remark) == (2, "in the last hour")
    assert (stats["Failed"].value, stats["Failed"].remark) == (2, "33.3 % of tasks in the last hour")
    assert [count_listed(viewer, stats[title].url) for title in ("Completed", "Failed")] == [2, 2]


def test_the_counts_and_the_rows_of_the_demo_have_the_same_failures(single_broker: Broker) -> None:
    fill(single_broker)

    failures = sum((Sum(outcome.value) for outcome in FAILURES), start=Value(0))
    counted = dict(QueueHour.objects.values("queue").annotate(failures=failures).values_list("queue", "failures"))
    stored = Counter(TaskRun.objects.filter(outcome__in=FAILURES).values_list("queue", flat=True))
    assert stored["invoices"] > 60
    assert counted == stored


def test_its_numbers_are_those_of_the_lists_that_they_link_to(single_broker: Broker) -> None:
    fill(single_broker)
    put(single_broker, "f1", queue="only-in-redis")
    viewer = staff_client("viewer")
    context = viewer.get("/admin/").context
    numbers = [(stat.value, stat.url) for stat in context["stats"] if "state=" in stat.url]
    numbers += [(number, url) for row in context["rows"] for _, number, url in row.numbers]

    assert len(numbers) == 25
    assert [(number, count_listed(viewer, url)) for number, url in numbers] == [
        (number, number) for number, _ in numbers
    ]


def count_listed(client: Client, url: str) -> int:
    """Return how many tasks or attempts a page lists, of one queue or of several."""
    context = client.get(url).context
    if "outcome=" in url:
        assert context["matches"].is_exact
        return int(context["matches"].count)
    return context["state_count"] if "state_count" in context else context["total"]


def test_an_alert_links_to_its_cause_and_has_its_age(single_broker: Broker) -> None:
    fill(single_broker)

    notices = staff_client("viewer").get("/admin/").context["notices"].shown

    (failing,) = (notice for notice in notices if "of queue invoices" in notice.message)
    assert failing.url.startswith("/admin/tasks/task/?queue=invoices&outcome=failure&since=")
    assert failing.lasted == "12 min"


def test_three_alerts_are_shown_and_the_others_counted(single_broker: Broker) -> None:
    names = [f"q{number}" for number in range(6)]
    findings = [
        Finding(kind=AlertKind.FAILURE_RATE, subject=each, queue=each, message=f"{each} fails.") for each in names
    ]
    findings += [
        Finding(kind=kind, subject="q7", queue="q7", message=f"{kind.value} of q7.")
        for kind in (AlertKind.OLDEST_PENDING, AlertKind.NO_READY_WORKER)
    ]
    store_findings(findings, now=timezone.now())
    acknowledge(AlertSelection(alert_id=Alert.objects.get(subject="q0").pk))

    page = staff_client("viewer").get("/admin/")

    shown = [notice.message for notice in page.context["notices"].shown]
    assert (shown[0].split(".")[0], shown[1:]) == ("No maintenance process is running", ["q1 fails.", "q2 fails."])
    assert "4 more alerts, 1 acknowledged or snoozed" in page.content.decode()  # the oldest pending task has a cause


def test_other_notices_than_alerts_are_folded(single_broker: Broker, settings) -> None:
    fill(single_broker)
    settings.RUNQY_VAULT_MASTER_KEY = ""
    update_alerts(single_broker)

    notices = staff_client("viewer").get("/admin/").context["notices"]

    assert [notice.level for notice in notices.shown] == ["danger"] * 3
    messages = [notice.message for notice in notices.folded]
    assert messages[-2:] == ["Paused: embeddings.", "Vaults are disabled: RUNQY_VAULT_MASTER_KEY is not set."]
    assert notices.alert_count


def test_it_warns_of_workers_with_the_servers_own_credentials(settings) -> None:
    settings.RUNQY_WORKER_REDIS_TARGET = settings.REDIS_TARGET

    notices = staff_client("viewer").get("/admin/").context["notices"]

    assert ("warning", OWN_CREDENTIALS_SHARED) in [(notice.level, notice.message) for notice in notices.shown]


def test_queues_with_pending_tasks_and_no_worker_have_alerts(single_broker: Broker) -> None:
    fill(single_broker)
    redis_of(single_broker).delete(*redis_of(single_broker).keys("runqy:worker*"))
    update_alerts(single_broker)

    messages = [alert.message for alert in list_unresolved(limit=20) if "no ready worker" in alert.message]
    assert len(messages) == 3
    assert any(re.fullmatch(r"Queue transcription has \d+ pending tasks and no ready worker.", m) for m in messages)


@pytest.mark.parametrize(("permission", "is_shown"), [("alerts.view_alert", True), ("queues.view_queue", False)])
def test_the_overview_shows_alerts_to_those_who_may_see_their_list(
    single_broker: Broker, permission: str, is_shown: bool
) -> None:
    finding = Finding(kind=AlertKind.WORKER_MISSING, subject="w1", queue="mail", message="Worker w1 is missing.")
    store_findings([finding], now=timezone.now())
    client = staff_client(None)
    app, codename = permission.split(".")
    User.objects.get().user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))

    messages = [notice.message for notice in client.get("/admin/").context["notices"].shown]

    assert (finding.message in messages) is is_shown
    assert (client.get("/admin/alerts/alert/").status_code == 200) is is_shown


def test_alerts_that_are_not_open_yet_are_not_among_those_that_the_list_has(single_broker: Broker) -> None:
    names = [f"q{number}" for number in range(12)]
    findings = [
        Finding(kind=AlertKind.NO_READY_WORKER, subject=name, queue=name, message=f"{name} waits.", for_s=for_s)
        for name, for_s in zip(names, [0, 0, *[60] * 10], strict=True)
    ]
    store_findings(findings, now=timezone.now())

    notices = staff_client("viewer").get("/admin/").context["notices"]

    assert {"q0 waits.", "q1 waits."} <= {notice.message for notice in notices.shown}
    assert notices.alert_count == ""


def test_overviews_that_are_open_at_once_share_their_numbers(
    single_broker: Broker, django_assert_max_num_queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_counts, "MAX_AGE_S", 600)
    monkeypatch.setattr(numbers, "RECENT_MAX_AGE_S", 600)
    monkeypatch.setattr(stats, "CACHE_S", 600)
    fill(single_broker)
    first, second = staff_client("viewer"), staff_client("viewer", "edsger")
    poll = {"HX-Request": "true"}
    shown = first.get("/admin/overview/live/", headers=poll).content
    monkeypatch.setattr(queue_counts, "count_tasks", pytest.fail)

    # session, user, permissions of the user and of its groups; and alerts, their number, the page of one, schedules
    with django_assert_max_num_queries(8):
        response = second.get("/admin/overview/live/", headers=poll)

    assert response.content == shown


def test_users_with_other_permissions_share_no_numbers(single_broker: Broker) -> None:
    fill(single_broker)
    everything = staff_client("viewer").get("/admin/overview/live/").content.decode()
    nothing = staff_client(None, "edsger").get("/admin/overview/live/").content.decode()

    assert "transcription" in everything
    assert "transcription" not in nothing


def test_the_overview_reports_that_redis_cannot_be_reached(settings) -> None:
    make_users()
    make_configuration()
    settings.REDIS_TARGET = away()

    response = staff_client("admin").get("/admin/")

    assert response.status_code == 200
    assert "Redis cannot be reached" in response.content.decode()
    values = {stat.title: stat.value for stat in response.context["stats"]}
    assert values["Queues"] == 5
    assert {values[title] for title in ("Pending", "Active", "Archived", "Workers")} == {None}


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("configurator", "/admin/queues/queue/add/"),
        ("viewer", "Users with the role configurator or admin can add queues."),
        (None, "No role assigned"),
    ],
)
def test_without_queues_it_shows_what_to_do_next(role: str | None, expected: str) -> None:
    assert expected in staff_client(role).get("/admin/").content.decode()


@pytest.mark.parametrize(
    ("permission", "expected"),
    [("view_vault", "The menu has the pages that you may view."), ("view_worker", "No queues yet.")],
)
def test_users_with_some_permissions_only_see_no_empty_page(permission: str, expected: str) -> None:
    Group.objects.create(name="some").permissions.add(Permission.objects.get(codename=permission))

    assert expected in staff_client("some").get("/admin/").content.decode()


def test_app_indexes_and_the_themes_search_do_not_exist(admin_client: Client) -> None:
    assert admin_client.get("/admin/queues/")["Location"] == "/admin/"
    assert admin_client.get("/admin/search/?s=queue").status_code == 404
