"""The list of queues shows what is wrong first, sorts by each column, and shows the columns that a user chose."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import Queue
from queues.operations import disable_queue
from queues.pausing import pause_whole_queue
from runqy import clock
from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.health import report_maintenance
from runqy.broker.keys import QueueKeys
from runqy.broker.tasks.enqueue import NewTask, enqueue
from runqy.broker.workers.heartbeats import write_heartbeat
from runqy.redis_connection import get_broker
from tasks.models import QueueMinute
from tests.configuration.support import away
from tests.queues.admin_pages import LIST, saved
from tests.queues.samples import spec
from tests.support.links import count_round_trips
from tests.support.redis_client import redis_of
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.workers import RECORD

pytestmark = pytest.mark.usefixtures("configuration", "stopped_clock")


@pytest.fixture(autouse=True)
def _maintenance_runs(single_broker: Broker) -> None:
    single_broker.run(report_maintenance(now_s=single_broker.now_s()))


def open_alerts(*found: tuple[AlertKind, str]) -> None:
    findings = [Finding(kind=kind, subject=name, queue=name, message=f"{kind} of {name}.") for kind, name in found]
    store_findings(findings, now=timezone.now())


def read_list(client: Client, query: str = "") -> list[dict[str, str]]:
    """Return the rows of the list: the text of each cell by the name of its column."""
    html = client.get(f"{LIST}{query}").content.decode()
    rows = re.findall(r'<tr class="[^"]*data-row.*?</tr>', html, re.DOTALL)
    cells = (re.findall(r'<t[dh] class="[^"]*field-(\w+)[^>]*>(.*?)</t[dh]>', row, re.DOTALL) for row in rows)
    return [{name: " ".join(re.sub(r"<[^>]+>", " ", text).split()) for name, text in row} for row in cells]


def names(client: Client, query: str = "") -> list[str]:
    return [row["name"] for row in read_list(client, query)]


def test_problems_come_first_and_a_queue_without_any_has_no_badge(staff: Client, single_broker: Broker) -> None:
    for name in ("absent", "broken", "calm", "late", "off", "paused"):
        saved(spec(name))
    insert_runs(*[make_failure() for _ in range(3)], *[make_run() for _ in range(9)], queue="broken")
    open_alerts(
        (AlertKind.NO_READY_WORKER, "absent"),
        (AlertKind.OLDEST_PENDING, "absent"),  # explained by the first
        (AlertKind.FAILURE_RATE, "broken"),
        (AlertKind.HISTORY_DROPPED, "broken"),
        (AlertKind.BACKLOG_GROWING, "late"),
        (AlertKind.OLDEST_PENDING, "late"),
    )
    redis_of(single_broker).lpush(QueueKeys("broken").pending, "a")
    disable_queue(name="off")
    pause_whole_queue(single_broker, name="paused")

    rows = read_list(staff)

    assert [(row["name"], row["health"]) for row in rows] == [
        ("broken", "failing 25 % history incomplete"),
        ("absent", "no worker"),
        ("late", "falling behind"),
        ("off", "disabled"),
        ("paused", "paused"),
        ("calm", "ok"),
    ]


def test_a_problem_is_on_the_first_of_many_pages_for_as_many_round_trips(
    staff: Client, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries
) -> None:
    for number in range(60):
        saved(spec(f"queue-{number:02}", "high:2", "low:1"))
    open_alerts((AlertKind.FAILURE_RATE, "queue-59"))
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)  # what is compared once a second does not count
    staff.get(LIST)
    trips = count_round_trips(monkeypatch, get_broker())

    with django_assert_max_num_queries(9):  # one of each table
        first = names(staff)

    assert (len(first), first[:2], len(trips)) == (50, ["queue-59", "queue-00"], 2)
    assert names(staff, "?p=2") == [f"queue-{number}" for number in range(49, 59)]
    assert len(names(staff, "?all=")) == 60


def test_the_list_has_ages_trends_slots_and_rates_and_is_sorted_by_each(staff: Client, single_broker: Broker) -> None:
    now_ns, minute = single_broker.now_ns(), timezone.now().replace(second=0, microsecond=0)
    for name in ("a", "b", "c"):
        saved(spec(name))
    for queue, ages in {"a": [90], "b": [7230, 60, 60]}.items():
        for number, age_s in enumerate(ages):
            task = NewTask(id=f"{queue}{number}", queue=queue, payload=b"{}")
            single_broker.run(enqueue(task, now_ns=now_ns - age_s * 10**9))
    redis_of(single_broker).lpush(QueueKeys("c").active, "x", "y")
    for worker_id, queue in (("w1", "c"), ("w2", "c"), ("w3", "a")):
        serving = replace(RECORD, worker_id=worker_id, server_id=worker_id, pid=int(worker_id[1]), queue=queue)
        record = replace(serving, redis_queues={queue: 1}, concurrency=4)
        single_broker.run(write_heartbeat(record, now_ns=now_ns))
    for queue, back, counts in (
        ("b", 3, {"backlog": 0, "backlog_max": 0}),
        ("a", 3, {"backlog": 401, "backlog_max": 401}),
        ("c", 1, {"started": 400, "completed": 400}),
        ("b", 1, {"started": 9, "retried": 9}),
    ):
        QueueMinute.objects.create(redis_queue=queue, queue=queue, start=minute - timedelta(minutes=back), **counts)

    rows = {row["name"]: row for row in read_list(staff)}

    columns = ("oldest", "pending", "active", "started", "failing", "workers")
    assert [rows["a"][column] for column in columns[2:]] == ["0 of 4", "0", "0", "1 ready"]
    assert rows["a"]["oldest"] == "1 min"
    assert re.fullmatch(r"1 shrinks (1[3-9]\d|200)/min", rows["a"]["pending"])
    assert rows["b"]["oldest"] == "2 h"
    assert re.fullmatch(r"3 grows [12]/min", rows["b"]["pending"])
    assert re.fullmatch(r"1\.[89]|2\.[0-3]", rows["b"]["started"])
    assert rows["b"]["failing"] == rows["b"]["started"]
    assert (rows["c"]["oldest"], rows["c"]["pending"], rows["c"]["active"]) == ("-", "0", "2 of 8")
    assert re.fullmatch(r"8\d|9\d|100", rows["c"]["started"])

    first = {column: names(staff, f"?o={number}") for number, column in enumerate(("health", "name", *columns), 1)}
    assert {column: order[0] for column, order in first.items()} == {
        "health": "b",
        "name": "a",
        "oldest": "b",
        "pending": "b",
        "active": "c",
        "started": "c",
        "failing": "b",
        "workers": "c",
    }
    assert names(staff, "?o=-3") == ["c", "a", "b"]


def test_the_columns_that_a_user_chose_are_kept(staff: Client) -> None:
    saved(spec("mail"))
    assert "priority" not in read_list(staff)[0]

    sent = staff.post(f"{LIST}columns/", {"column": ["priority", "published", "nonsense"], "query": "q=mail"})

    assert (sent.status_code, sent["Location"]) == (302, f"{LIST}?q=mail")
    assert sent.cookies["runqy_queue_columns"]["max-age"] == 365 * 86_400
    (row,) = read_list(staff)
    assert (row["priority"], row["published"]) == ("5", "yes")
    saved(spec("post", priority=9))
    assert names(staff, "?o=-9") == ["post", "mail"]


def test_health_is_unknown_while_nothing_looks_for_problems(staff: Client, single_broker: Broker, settings) -> None:
    saved(spec("mail"))
    redis_of(single_broker).delete(keys.MAINTENANCE)
    (row,) = read_list(staff)
    assert (row["health"], row["started"], row["pending"]) == ("unknown", "-", "0")

    settings.REDIS_TARGET = away()
    (row,) = read_list(staff)
    assert (row["health"], row["pending"], row["workers"]) == ("unknown", "-", "-")
    assert Queue.objects.count() == 1
