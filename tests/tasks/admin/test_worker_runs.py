"""What a worker did in the last hour, on its page."""

import re
from datetime import UTC, datetime

import pytest
from django.test import Client
from django.utils import timezone

from runqy import clock
from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome
from runqy.broker.workers.heartbeats import write_heartbeat
from tests.support.runs import insert_runs, make_failure, make_run
from tests.support.workers import RECORD
from tests.tasks.admin.pages import LIST, text

PART = f"{LIST}worker-runs/"
WORKER = "/admin/workers/worker/w1_3A7/change/"
HOUR_NS = 3600 * 10**9


def words(response) -> str:
    """Return the text of a page in one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", text(response)).split())


def test_the_runs_of_the_last_hour_are_counted_and_listed(viewer: Client) -> None:
    now_ns = clock.now_ns()
    insert_runs(
        *(make_run(worker_id="w1:7", started_ns=now_ns - 2 * 10**9, ended_ns=now_ns) for _ in range(3)),
        make_failure(task_id="bad", worker_id="w1:7", started_ns=now_ns - 90 * 10**9, ended_ns=now_ns),
        make_run(task_id="stopped", worker_id="w1:7", outcome=RunOutcome.CANCELED),
        make_run(task_id="old", worker_id="w1:7", ended_ns=now_ns - 2 * HOUR_NS),
        make_run(task_id="of-another", worker_id="w2:8"),
        queue="simple",
    )

    part = viewer.get(PART, {"worker": "w1:7"})

    assert "5 ended: Completed 3 Failed 1 Cancelled 1 Median duration 2.00 s, longest 1 min 30 s" in words(part)
    assert f'{LIST}?state=ended&amp;worker=w1%3A7&amp;period=hour&amp;outcome=failed">Failed <b>1</b>' in text(part)
    assert "/bad/change/" in text(part)
    assert "/old/change/" not in text(part)
    assert "of-another" not in text(part)


def test_the_hour_begins_with_a_whole_minute_as_in_the_list_that_it_links_to(
    viewer: Client, stopped_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = clock.now_ns()
    monkeypatch.setattr(timezone, "now", lambda: datetime.fromtimestamp(now_ns / 1e9, UTC))
    first_ns = (now_ns - HOUR_NS) // (60 * 10**9) * 60 * 10**9
    insert_runs(make_run(worker_id="w1:7", started_ns=first_ns, ended_ns=first_ns), queue="simple")

    part, page = viewer.get(PART, {"worker": "w1:7"}), viewer.get(LIST, {"worker": "w1:7", "period": "hour"})

    assert part.context["summary"]["total"] == page.context["matches"].count == 1


def test_an_idle_worker_has_a_link_to_its_earlier_runs(viewer: Client) -> None:
    page = text(viewer.get(PART, {"worker": "w1:7"}))

    assert "No run of this worker ended in the last hour." in page
    assert f"{LIST}?state=ended&amp;worker=w1%3A7" in page


def test_the_page_of_a_worker_loads_them(viewer: Client, single_broker: Broker) -> None:
    single_broker.run(write_heartbeat(RECORD, now_ns=single_broker.now_ns()))

    page = text(viewer.get("/admin/workers/worker/worker_2F1/change/"))

    assert f'hx-get="{PART}?worker=worker%2F1"' in page


def test_a_worker_that_is_gone_still_has_a_page_with_its_runs(viewer: Client) -> None:
    insert_runs(make_run(worker_id="w1:7"), queue="simple")

    page = viewer.get(WORKER)

    assert page.status_code == 200
    assert "has stopped or drained is not listed. The history has its runs." in words(page)
    assert f'hx-get="{PART}?worker=w1%3A7"' in text(page)


def test_a_worker_that_never_was_has_no_page(viewer: Client) -> None:
    page = viewer.get(WORKER)

    assert page.status_code == 404
    assert text(page).count("none of this id was lost in the last day") == 1


def test_a_part_without_a_worker_is_refused(viewer: Client) -> None:
    assert viewer.get(PART).status_code == 400
    assert viewer.get(PART, {"worker": "a\0b"}).status_code == 400
