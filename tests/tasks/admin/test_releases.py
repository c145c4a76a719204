"""The pages of tasks, errors and releases: what they say about releases and their commits."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from queues.models import Queue, QueueSource, ReleaseSource, ReleaseState
from queues.operations import save_queue
from runqy.accounts.operations import create_api_key
from runqy.broker.broker import Broker
from runqy.broker.states import RunOutcome
from runqy.broker.streams.run_log import EndedRun
from runqy.core.api_keys import Role
from tasks.bulk_runner import run_bulk_actions
from tasks.models import TaskCopy, TaskRun
from tests.api.client import ApiClient, content
from tests.support.releases import insert_release
from tests.support.runs import insert_runs, make_failure, make_run
from tests.tasks.admin.pages import ERRORS, LIST, REQUEST, change, text

NOW = timezone.now()
RELEASES = f"{LIST}releases/?queue=simple"
FIRST, SECOND, BROKEN = "a" * 40, "b" * 40, "c" * 40


def fail(error: str, *, minutes: int, commit: str, **fields: Any) -> EndedRun:
    return make_failure(error, ended_ns=ended_ns(minutes), commit=commit, **fields)


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
def test_errors_that_are_filtered_by_a_release_have_a_text_that_it_raised(viewer: Client) -> None:
    insert_runs(
        fail("TypeError: late", minutes=2, commit=BROKEN),
        fail("KeyError: 'd'", minutes=1, commit=SECOND),
        queue="simple",
    )

    def raised_by(query: str) -> dict[str, str]:
        """Return the commits of the samples by class."""
        rows = viewer.get(f"{ERRORS}?{query}").context["rows"]
        return {row.sample.error_class: row.sample.commit for row in rows}

    of_second = {"KeyError": BROKEN, "ValueError": BROKEN, "TypeError": BROKEN}
    assert raised_by("queue=simple&since_release=2") == raised_by(f"queue=simple&since_commit={BROKEN}") == of_second
    assert raised_by("queue=simple&since_release=3") == {"KeyError": FIRST, "TypeError": FIRST}
    assert raised_by("new=1") == {"TypeError": FIRST}
    errors = content(ApiClient(), "/api/errors?queue=simple")["errors"]
    texts = {each["error_class"]: (each["error_message"], each["sample"]["commit"]) for each in errors}
    assert texts == {"KeyError": ("'d'", SECOND), "ValueError": ("known", BROKEN), "TypeError": ("late", FIRST)}
    rows: list[Any] = viewer.get(RELEASES).context["rows"]
    assert [group.sample.exception_line for row in rows for group in row.new_errors] == [
        "TypeError: late",
        "KeyError: 'b'",
    ]


@pytest.fixture
def reverted(history: None) -> None:
    """Store runs of a fourth release, which was reverted, and whose commit is live later."""
    simple = Queue.objects.get(name="simple")
    columns = {"state": ReleaseState.REVERTED, "live_at": None, "reason": "2 of its first 3 runs failed"}
    insert_release(simple, SECOND, created_at=NOW - timedelta(minutes=15), **columns)
    simple.releases.filter(number=3).update(state=ReleaseState.SUPERSEDED)
    insert_release(simple, SECOND, created_at=NOW - timedelta(minutes=5))
    insert_runs(
        fail("TypeError: rare", minutes=12, commit=SECOND, outcome=RunOutcome.RETRIED, is_final=False),
        fail("OSError: <1>", minutes=14, commit=SECOND, task_id="older"),
        fail("OSError: <2>", minutes=13, commit=SECOND, task_id="newer"),
        make_run(ended_ns=ended_ns(13), commit=SECOND),
        make_run(ended_ns=ended_ns(13), commit=SECOND, outcome=RunOutcome.CANCELED),
        *(fail("OSError: <later>", minutes=4, commit=SECOND) for _ in range(3)),
        queue="simple",
    )


@pytest.mark.usefixtures("reverted")
@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_reverted_release_names_its_most_frequent_error_with_an_example(viewer: Client, is_hidden: bool) -> None:
    Queue.objects.filter(name="simple").update(hide_payloads=is_hidden)
    if is_hidden:
        save_queue(spec=Queue.objects.get(name="simple").as_spec(), source=QueueSource.API)

    def error(role: Role) -> Any:
        key = create_api_key(name=role, role=role).plain
        listed = content(ApiClient(key), "/api/cli/queues/simple/releases")["releases"]
        assert [each["number"] for each in listed if each["most_frequent_error"]] == [4]
        return listed[1]["most_frequent_error"]

    expected = {
        "count": 2,
        "error_class": "OSError",
        "error_message": "<2>",
        "task_id": "newer",
        "redis_queue": "simple",
    }
    hidden = {"error_class": None, "error_message": "hidden from your role"} if is_hidden else {}
    assert error(Role.OPERATOR).items() >= expected.items()
    assert error(Role.VIEWER).items() >= (expected | hidden).items()
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", "", text(viewer.get(RELEASES))))
    shown = "hidden" if is_hidden else "OSError: &lt;2&gt;"
    assert f"Most frequent error, 2 times: {shown}, such as of the task newer" in plain
    assert plain.count("Most frequent error") == 1


@pytest.mark.usefixtures("reverted")
def test_the_tasks_that_a_reverted_release_archived_run_again(
    operator: Client, viewer: Client, single_broker: Broker
) -> None:
    rows: dict[int, Any] = {row.release.number: row for row in operator.get(RELEASES).context["rows"]}
    assert not rows[5].run_again  # it is live
    assert not any(row.run_again for row in viewer.get(RELEASES).context["rows"])
    assert text(viewer.get(RELEASES)).count("Run again the tasks") == 0

    preview = operator.get(REQUEST, rows[4].run_again)
    operator.post(REQUEST, preview.context["fields"])
    run_bulk_actions(single_broker)

    assert preview.context["preview"].count == 2
    assert set(TaskCopy.objects.values_list("original_id", flat=True)) == {"older", "newer"}
    assert text(operator.get(RELEASES)).count("Run again the tasks that it archived") == 4  # of 1 to 4


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
