"""Lists of runs and of groups of errors."""

import json

RUN = {
    "task_id": "t1",
    "queue": "mail",
    "outcome": "failed",
    "attempt": 2,
    "ended_at": "2026-03-01T12:00:00.000000Z",
    "run_ms": 1500,
    "error_class": "ValueError",
    "error_message": "no user 17",
}


def test_runs_are_listed_with_their_errors(run, server):
    server.responses = [(200, {"runs": [RUN, RUN | {"error_class": None, "error_message": None}], "next": None})]

    result = run(
        "runs",
        "-q",
        "mail",
        "--outcome",
        "failed,lost",
        "--from",
        "2026-03-01T00:00:00Z",
        "--order",
        "slowest",
        "--text",
        "order 17",
    )

    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    assert first == "t1\tmail\tfailed\t2\t2026-03-01T12:00:00.000000Z\t1500\tValueError: no user 17"
    assert second.endswith("\t1500\t")
    assert dict(server.requests[0].url.params) == {
        "queue": "mail",
        "outcome": "failed,lost",
        "order": "slowest",
        "text": "order 17",
        "from": "2026-03-01T00:00:00Z",
        "limit": "50",
    }


def test_pages_of_runs_are_read_until_there_are_enough(run, server):
    following = "/api/runs?limit=2&cursor=abc"
    server.responses = [(200, {"runs": [RUN, RUN], "next": following}), (200, {"runs": [RUN], "next": following})]

    result = run("runs", "-l", "3")

    assert len(result.stdout.splitlines()) == 3
    assert dict(server.requests[1].url.params) == {"order": "newest", "limit": "1", "cursor": "abc"}
    assert result.stderr == "runqy: Showing 3. Use --limit, or --cursor abc for the next ones.\n"


def test_runs_are_json_on_demand(run, server):
    server.responses = [(200, {"runs": [RUN], "next": None})]

    assert json.loads(run("runs", "--json").stdout) == [RUN]


def test_errors_are_listed_in_groups(run, server):
    group = {
        "fingerprint": "f1",
        "queue": "mail",
        "count": 759,
        "last_seen": "2026-03-01T12:00:00.000000Z",
        "error_class": "ValueError",
        "error_message": "no user 17",
    }
    server.responses = [(200, {"errors": [group | {"new_since_release": 7}], "count": 1})] * 2

    result = run("errors", "--queue", "mail")

    assert result.stdout == "f1\tmail\t759\t2026-03-01T12:00:00.000000Z\tValueError: no user 17\n"
    assert dict(server.requests[0].url.params) == {"queue": "mail", "limit": "31"}
    assert run("errors", "-o", "wide").stdout.rstrip("\n").endswith("\t7")
