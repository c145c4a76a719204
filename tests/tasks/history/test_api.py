"""The history of runs over HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from runqy.accounts.operations import create_api_key
from runqy.core.api_keys import Role
from tasks.models import QueueHour, QueueMinute, TaskRun
from tests.api.client import ApiClient, content, problem
from tests.support.runs import insert_runs, make_failure, make_run

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_NS = int(NOON.timestamp()) * 10**9
FROM = "2026-03-01T00:00:00Z"
SECOND = 10**9
PATHS = ("/api/runs", "/api/errors", "/api/cli/queues/mail/stats")


@pytest.fixture(autouse=True)
def _queues(save_queue: Callable[..., None]) -> None:
    save_queue("mail", "high:2", "low:1")
    save_queue("video")


@pytest.fixture
def client() -> ApiClient:
    return ApiClient()


def task_ids(client: ApiClient, path: str) -> list[str]:
    return [run["task_id"] for run in content(client, path)["runs"]]


def insert_some() -> None:
    insert_runs(
        make_run(task_id="ok", ended_ns=NOON_NS, commit="abc", payload=b'{"order":17}', result=b'{"ok":true}'),
        make_failure(task_id="bad", ended_ns=NOON_NS + SECOND, started_ns=NOON_NS - 59 * SECOND),
        queue="mail",
        sub_queue="high",
        redis_queue="mail_high",
    )
    insert_runs(make_run(task_id="clip", ended_ns=NOON_NS + 2 * SECOND, worker_id="w2"), queue="video")


def test_runs_are_found_by_text_in_the_queues_of_the_key(client: ApiClient):
    limited = ApiClient(create_api_key(name="limited", role=Role.CLIENT, queues=["video"]).plain)
    insert_some()
    insert_runs(make_run(task_id="other", payload=b'{"order":17}'), queue="video")

    assert task_ids(client, "/api/runs?text=order+17") == ["other", "ok"]
    assert task_ids(client, "/api/runs?text=order&queue=mail") == ["ok"]
    assert task_ids(client, "/api/runs?text=no+such+user") == ["bad"]
    assert task_ids(limited, "/api/runs?text=order") == ["other"]
    assert problem(client.get("/api/runs?text=---"))["errors"] == ["text: Must contain a letter or a digit."]


def test_a_run_is_shown_with_all_that_is_known(client: ApiClient):
    insert_some()

    (run,) = content(client, "/api/runs?task_id=ok")["runs"]

    assert run.pop("id") == TaskRun.objects.get(task_id="ok").pk
    assert run == {
        "task_id": "ok",
        "queue": "mail",
        "sub_queue": "high",
        "redis_queue": "mail_high",
        "attempt": 1,
        "outcome": "completed",
        "is_final": True,
        "is_foreign": False,
        "worker_id": "w1",
        "commit": "abc",
        "request_id": None,
        "enqueued_at": "2026-03-01T11:59:58.000000Z",
        "started_at": "2026-03-01T11:59:59.000000Z",
        "ended_at": "2026-03-01T12:00:00.000000Z",
        "wait_ms": 1000,
        "run_ms": 1000,
        "error_class": None,
        "error_message": None,
        "fingerprint": None,
        "payload": '{"order":17}',
        "result": '{"ok":true}',
        "traceback": None,
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["clip", "bad", "ok"]),
        ("order=oldest", ["ok", "bad", "clip"]),
        ("order=slowest", ["bad", "clip", "ok"]),
        ("queue=mail", ["bad", "ok"]),
        ("queue=mail.high", ["bad", "ok"]),
        ("queue=mail_low", []),
        ("outcome=failed,lost", ["bad"]),
        ("worker=w2", ["clip"]),
        ("commit=abc", ["ok"]),
        ("from=2026-03-01T12:00:01Z&to=2026-03-01T12:00:02Z", ["bad"]),
        ("from=2026-03-01T13:00:01%2B01:00", ["clip", "bad"]),
        ("min_run=1m", ["bad"]),
        ("final=false", []),
        ("final=true&worker=w1", ["bad", "ok"]),
    ],
)
def test_runs_are_filtered_and_ordered(client: ApiClient, query: str, found: list[str]):
    insert_some()

    assert task_ids(client, f"/api/runs?{query}") == found


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/runs?outcome=perfect", "outcome"),
        ("/api/runs?from=yesterday", "from"),
        ("/api/runs?to=2026-03-01T12:00:00", "to"),
        ("/api/runs?order=best", "order"),
        ("/api/runs?final=perhaps", "final"),
        ("/api/runs?final=", "final"),
        ("/api/runs?min_run=-1", "min_run"),
        ("/api/runs?limit=0", "limit"),
        ("/api/runs?cursor=x", "cursor"),
        ("/api/runs?task_id=" + "x" * 300, "task_id"),
        ("/api/errors?outcome=x", "outcome"),
        ("/api/cli/queues/mail/stats?step=30s", "step"),
        ("/api/cli/queues/mail/stats?step=soon", "step"),
        ("/api/cli/queues/mail/stats?step=99999999h", "step"),
        ("/api/cli/queues/mail/stats?step=60000000000000000", "step"),
        ("/api/cli/queues/mail/stats?from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z", "from"),
        ("/api/cli/queues/mail/stats?from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z&step=1m", "step"),
    ],
)
def test_wrong_parameters_are_named(client: ApiClient, path: str, field: str):
    response = client.get(path)

    assert response.status_code == 400, response.content
    assert problem(response)["errors"][0].startswith(f"{field}: ")


def test_pages_follow_each_other_and_keep_their_order(client: ApiClient):
    insert_runs(*(make_run(task_id=f"t{n}", ended_ns=NOON_NS) for n in range(5)))
    seen: list[str] = []
    path: str | None = "/api/runs?limit=2&worker=w1"
    while path:
        page = content(client, path)
        seen += [run["task_id"] for run in page["runs"]]
        path = page["next"]

    assert seen == ["t4", "t3", "t2", "t1", "t0"]
    following = content(client, "/api/runs?limit=2")["next"]
    assert client.get(f"{following}&order=slowest").status_code == 400


def test_errors_are_listed_in_groups_the_largest_first(client: ApiClient):
    insert_runs(
        *(make_failure(f"ValueError: no user {n}", task_id=f"v{n}", ended_ns=NOON_NS + n * SECOND) for n in range(3)),
        make_failure("KeyError: 'x'", ended_ns=NOON_NS),
    )

    listed = content(client, f"/api/errors?from={FROM}")

    first = listed["errors"][0]
    assert listed["count"] == 2
    assert (first["queue"], first["error_class"], first["count"]) == ("mail", "ValueError", 3)
    assert (first["first_seen"], first["last_seen"]) == ("2026-03-01T12:00:00.000000Z", "2026-03-01T12:00:02.000000Z")
    assert first["sample"]["task_id"] == "v2"
    assert task_ids(client, f"/api/runs?fingerprint={first['fingerprint']}") == ["v2", "v1", "v0"]
    assert content(client, f"/api/errors?from={FROM}&limit=1")["count"] == 1
    assert listed["is_partial"] is False


@pytest.mark.parametrize(("query", "found"), [("", 1), (f"?to={FROM}", 0), ("?to=2026-03-02T00:00:00Z", 2)])
def test_errors_of_the_day_before_the_end_are_the_default(client: ApiClient, query: str, found: int):
    insert_runs(make_failure("KeyError: 'x'", ended_ns=NOON_NS), make_failure("ValueError: x", ended_ns=NOON_NS))
    insert_runs(make_failure("KeyError: 'y'"))

    assert content(client, f"/api/errors{query}")["count"] == found


@pytest.mark.parametrize("name", ["mail", "mail_high", "mail.high"])
def test_statistics_of_a_queue_and_a_sub_queue(client: ApiClient, name: str):
    insert_some()
    insert_runs(make_run(ended_ns=NOON_NS), queue="mail", sub_queue="low", redis_queue="mail_low")
    interval = "from=2026-03-01T11:59:00Z&to=2026-03-01T12:01:00Z&step=1m"

    stats = content(client, f"/api/cli/queues/{name}/stats?{interval}")

    before, at_noon = stats["points"]
    assert (stats["queue"], stats["step_secs"]) == ("mail" if name == "mail" else "mail_high", 60)
    assert before["started"] == (3 if name == "mail" else 2)
    assert (at_noon["completed"], at_noon["failed"]) == (2 if name == "mail" else 1, 1)
    assert at_noon["run_ms"]["p50"] == pytest.approx(1000, rel=0.2)
    assert at_noon["backlog"] is None


def test_statistics_of_the_last_hour_are_the_default_and_long_intervals_have_hours(client: ApiClient):
    assert len(content(client, "/api/cli/queues/video/stats")["points"]) in (60, 61)
    week = content(client, "/api/cli/queues/video/stats?from=2026-03-01T00:00:00Z&to=2026-03-08T00:00:00Z")
    assert (week["step_secs"], len(week["points"])) == (3600, 168)


def test_there_are_no_errors_before_the_first_day_that_has_a_day_before_it(client: ApiClient):
    assert content(client, "/api/errors?to=0001-01-01T00:00:00Z")["count"] == 0


@pytest.mark.parametrize("path", ["/api/runs?queue=nothing", "/api/errors?queue=nothing", "/api/cli/queues/no/stats"])
def test_an_unknown_queue_is_not_found(client: ApiClient, path: str):
    assert client.get(path).status_code == 404


def test_the_history_of_a_deleted_queue_is_found_by_its_name(client: ApiClient):
    insert_runs(make_run(task_id="t", ended_ns=NOON_NS), queue="gone", redis_queue="gone_x")

    assert task_ids(client, "/api/runs?queue=gone") == ["t"]
    assert task_ids(client, "/api/runs?queue=gone_x") == ["t"]


@pytest.mark.parametrize("role", [Role.ADMIN, Role.CLIENT])
def test_a_key_that_is_limited_to_queues_sees_only_these(role: Role):
    insert_some()
    key = create_api_key(name="k", role=role, queues=["video"]).plain
    limited = ApiClient(key)

    assert task_ids(limited, "/api/runs") == ["clip"]
    assert content(limited, "/api/errors")["count"] == 0
    for path in ("/api/runs?queue=mail", "/api/runs?queue=mail_high", "/api/errors?queue=mail", PATHS[2]):
        assert limited.get(path).status_code == 404
    assert content(limited, "/api/cli/queues/video/stats")["queue"] == "video"
    insert_runs(make_run(), queue="gone")
    assert limited.get("/api/runs?queue=gone").status_code == 404


def test_statistics_never_read_runs(client: ApiClient, django_assert_max_num_queries: Any):
    insert_some()
    TaskRun.objects.all().delete()

    with django_assert_max_num_queries(3) as queries:
        content(client, "/api/cli/queues/mail/stats")

    assert not any("tasks_taskrun" in query["sql"] for query in queries)
    assert QueueMinute.objects.exists()
    assert QueueHour.objects.exists()
