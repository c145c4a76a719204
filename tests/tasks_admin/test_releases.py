"""The pages of tasks, errors and releases: what they say about releases and their commits."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from queues.models import Queue, ReleaseSource, ReleaseState
from runqy.broker.streams.run_log import EndedRun
from tasks.models import TaskRun
from tests.api.client import ApiClient, content
from tests.support.releases import insert_release
from tests.support.runs import insert_runs, make_failure, make_run
from tests.tasks_admin.pages import ERRORS, LIST, change, text

NOW = timezone.now()
RELEASES = f"{LIST}releases/?queue=simple"
FIRST, SECOND, BROKEN = "a" * 40, "b" * 40, "c" * 40


def fail(error: str, *, minutes: int, commit: str) -> EndedRun:
    return make_failure(error, ended_ns=ended_ns(minutes), commit=commit)


def ended_ns(minutes: int) -> int:
    return int((NOW - timedelta(minutes=minutes)).timestamp() * 1e9)


@pytest.fixture
def history(queues: None) -> None:
    """Store runs of a first release, of one that failed, and of a rollback to the first."""
    simple = Queue.objects.get(name="simple")
    superseded = {"state": ReleaseState.SUPERSEDED, "subject": "Greet"}
    source = ReleaseSource.FIRST
    insert_release(simple, FIRST, created_at=NOW - timedelta(minutes=50), source=source, **superseded)
    insert_release(simple, BROKEN, created_at=NOW - timedelta(minutes=30), **superseded)
    insert_release(simple, FIRST, created_at=NOW - timedelta(minutes=20), source=ReleaseSource.ROLLBACK, like=1)
    insert_runs(
        fail("ValueError: known", minutes=55, commit=FIRST),  # before it was known as a release
        *(make_run(ended_ns=ended_ns(40), commit=FIRST) for _ in range(3)),
        fail("KeyError: 'a'", minutes=29, commit=BROKEN),
        fail("KeyError: 'b'", minutes=28, commit=BROKEN),
        fail("ValueError: known", minutes=27, commit=BROKEN),
        make_run(ended_ns=ended_ns(19), commit=FIRST),
        fail("KeyError: 'a'", minutes=18, commit=FIRST),
        fail("TypeError: late", minutes=17, commit=FIRST),
        queue="simple",
    )
    insert_runs(fail("OSError: elsewhere", minutes=5, commit=FIRST), queue="image")


def new_groups(client: Client, query: str) -> dict[str, str]:
    """Return what the groups of errors on the page are new since, by class."""
    rows = client.get(f"{ERRORS}?{query}").context["rows"]
    return {row.sample.error_class: row.new_since for row in rows}


@pytest.mark.usefixtures("history")
def test_errors_that_first_occurred_since_the_newest_release_are_marked(viewer: Client) -> None:
    assert new_groups(viewer, "") == {"KeyError": "", "ValueError": "", "TypeError": "release 3", "OSError": ""}
    assert "new since release 3" in text(viewer.get(f"{ERRORS}?queue=simple"))
    assert new_groups(viewer, "new=1") == {"TypeError": "release 3"}


@pytest.mark.usefixtures("history")
def test_the_api_has_the_release_since_which_an_error_is_new() -> None:
    errors = content(ApiClient(), "/api/errors")["errors"]

    found = {each["error_class"]: each["new_since_release"] for each in errors}
    assert found == {"KeyError": None, "ValueError": None, "TypeError": 3, "OSError": None}


@pytest.mark.usefixtures("history")
def test_errors_are_filtered_by_the_release_since_which_they_are_new(viewer: Client) -> None:
    new = {"KeyError": "release 2", "TypeError": "release 2"}

    assert new_groups(viewer, "queue=simple&since_release=2") == new | {"ValueError": ""}
    assert new_groups(viewer, "queue=simple&since_release=2&new=1") == new
    assert "The history has no run of release 9 of simple" in text(viewer.get(f"{ERRORS}?queue=simple&since_release=9"))
    for query in ("since_release=2", "queue=simple&since_release=x", "queue=simple&since_release=1000000000000"):
        assert viewer.get(f"{ERRORS}?{query}").status_code == 400


@pytest.mark.usefixtures("history")
def test_errors_run_time_and_failures_of_a_release_stand_beside_those_of_the_one_before(viewer: Client) -> None:
    response = viewer.get(RELEASES)

    figures = {row.release.number: row.figures for row in response.context["rows"]}
    assert {number: (each.runs, round(each.failed_percent), each.errors) for number, each in figures.items()} == {
        3: (3, 67, 2),
        2: (3, 100, 2),
        1: (4, 25, 1),
    }
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", "", text(response)))
    before = "4 runs, 25.0 % failed with 1 different error, 1.00 s on average"
    assert f"3 runs, 100.0 % failed with 2 different errors, 1.00 s on average Release 1 before: {before}" in plain
    assert "1 new error: TypeError: late 1 time" in plain
    assert re.search(r'class="page-link page-error" href="[^"]*">100.0 % failed</a>', text(response))

    TaskRun.objects.filter(queue="simple").update(outcome="completed")
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", "", text(viewer.get(RELEASES))))
    assert "3 runs, none failed, 1.00 s on average Release 1 before: 4 runs, none failed" in plain


@pytest.mark.usefixtures("history")
def test_a_release_stands_beside_the_one_that_was_live_before_and_not_a_reverted_one(viewer: Client) -> None:
    simple = Queue.objects.get(name="simple")
    reverted = {"state": ReleaseState.REVERTED, "live_at": None}
    insert_release(simple, SECOND, created_at=NOW - timedelta(minutes=10), **reverted)
    insert_runs(fail("KeyError: 'c'", minutes=9, commit=SECOND), queue="simple")
    simple.releases.filter(state=ReleaseState.LIVE).update(state=ReleaseState.SUPERSEDED)
    source = ReleaseSource.ROLLBACK
    insert_release(simple, BROKEN, created_at=NOW - timedelta(minutes=5), source=source, like=2)

    rows = viewer.get(RELEASES).context["rows"]

    before = {row.release.number: row.before and row.before.number for row in rows}
    assert before == {5: 3, 4: 3, 3: 2, 2: 1, 1: None}


@pytest.mark.usefixtures("history", "single_broker")
def test_a_rollout_is_stopped_and_a_live_release_rolled_back_with_the_numbers_of_both(admin_client: Client) -> None:
    simple = Queue.objects.get(name="simple")
    insert_release(simple, SECOND, state=ReleaseState.ROLLING_OUT, live_at=None)
    switch = {"path": f"/admin/queues/queue/{simple.pk}/switch/", "data": {"verb": "roll back", "next": "releases"}}

    stopping = text(admin_client.get(RELEASES))
    stopped = text(admin_client.post(**switch, follow=True))

    assert "Stop the rollout" in stopping
    assert "Release 4 of simple stopped; workers go back to 3." in stopped
    assert "stopped by admin: rolled back by release 5" in stopped
    assert "Stop the rollout" not in stopped
    simple.releases.filter(number__in=(3, 5)).update(state=ReleaseState.SUPERSEDED)
    insert_release(simple, SECOND)
    assert "Roll back" in text(admin_client.get(RELEASES))
    assert "simple rolled back: workers go back to release 3." in text(admin_client.post(**switch, follow=True))


@pytest.mark.usefixtures("history")
def test_a_release_that_did_not_start_shows_what_it_printed(viewer: Client) -> None:
    simple = Queue.objects.get(name="simple")
    columns = {"state": ReleaseState.REVERTED, "live_at": None, "reason": "w1 could not start it"}
    insert_release(simple, SECOND, output="exited with status 1\n<module> is missing", **columns)

    page = text(viewer.get(RELEASES))

    assert ">exited with status 1\n&lt;module&gt; is missing</pre>" in page
    assert page.count("What it printed last") == 1


@pytest.mark.usefixtures("history")
def test_a_release_whose_commit_is_unknown_is_named_by_its_branch_or_tag(viewer: Client) -> None:
    simple = Queue.objects.get(name="simple")
    columns = {"state": ReleaseState.REVERTED, "live_at": None, "subject": ""}
    insert_release(simple, "", source=ReleaseSource.DEFINITION, branch="before", **columns)
    for branch in (simple.branch, "before", "v9"):
        insert_release(simple, "", branch=branch, **columns)

    headings = re.findall(r"<h2>([^<]*) <", text(viewer.get(RELEASES)))

    newest = "The newest commit of before"
    assert headings[:4] == ["Tag v9", newest, f"The newest commit of {simple.branch}", newest]


@pytest.mark.usefixtures("history")
def test_releases_are_refreshed_often_enough_to_see_one_that_is_soon_reverted(viewer: Client) -> None:
    assert ' data-live="2000"' in text(viewer.get(RELEASES))


@pytest.mark.usefixtures("history")
def test_a_release_lists_the_errors_that_are_new_since_it(viewer: Client) -> None:
    rows: list[Any] = viewer.get(RELEASES).context["rows"]

    assert {row.release.number: [group.sample.error_class for group in row.new_errors] for row in rows} == {
        3: ["TypeError"],
        2: ["KeyError"],
        1: [],
    }
    (link,) = {row.new_errors_url for row in rows if row.release.number == 3}
    assert {row.sample.error_class for row in viewer.get(link).context["rows"]} == {"TypeError"}


def test_the_commits_of_attempts_errors_and_queues_have_subject_author_and_age(viewer: Client) -> None:
    simple = Queue.objects.get(name="simple")
    insert_release(simple, "b" * 40)
    insert_runs(make_failure(task_id="t1", commit="b" * 40), queue="simple")

    for url in (change("t1"), f"{ERRORS}?queue=simple", f"/admin/queues/queue/{simple.pk}/change/"):
        page = text(viewer.get(url))
        assert 'Read &lt;larger&gt; images <span class="page-note">by Ada</span>' in page
        assert ">2 h ago</time>" in page
