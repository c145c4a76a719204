"""Lists of tasks, queues and workers: lines for programs, a table for people; and what is done to tasks by id."""

import json
import re

import pytest

from runqy.cli import releases
from runqy.cli.errors import ExitCode
from runqy.cli.output import Printer

TRACEBACK = 'Traceback (most recent call last):\n  File "main.py", line 1\nTypeError: not a number\n'


def task(number, **more):
    return {
        "id": f"t{number}",
        "state": "archived",
        "retried": 0,
        "last_err": TRACEBACK,
        "next_process_at": None,
    } | more


@pytest.fixture
def run_in_terminal(show, monkeypatch):
    """Return a function that shows rows on a terminal and returns the output."""

    def call(rows, columns, width=100):
        monkeypatch.setenv("COLUMNS", str(width))
        return re.sub(r"\x1b\[[0-9;]*m", "", show(Printer().rows, rows, columns, empty="nothing"))

    return call


def test_tasks_are_listed_with_the_last_line_of_their_errors(run, server):
    server.responses = [(200, {"tasks": [task(1), task(2, retried=3, last_err="canceled")], "next": None})]

    result = run("task", "list", "mail.high", "--state", "archived")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "t1\t0\tTypeError: not a number\nt2\t3\tcanceled\n"
    assert str(server.requests[0].url) == "http://localhost:3000/api/cli/queues/mail.high/tasks?state=archived&limit=50"


def test_pages_are_read_until_there_are_enough(run, server):
    path = "/api/cli/queues/mail/tasks?state=retry"
    server.responses = [
        (200, {"tasks": [task(1), task(2)], "next": f"{path}&limit=3&cursor=abc"}),
        (200, {"tasks": [task(3)], "next": f"{path}&limit=1&cursor=d%2Fe"}),
        (200, {"queue": "mail", "retry": 437}),
    ]

    result = run("task", "list", "mail", "--state", "retry", "-l", "3")

    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["t1", "t2", "t3"]
    assert server.requests[1].url.raw_path.decode() == f"{path}&limit=1&cursor=abc"
    assert result.stderr == "runqy: Showing 3 of 437. Use --limit, or --cursor d/e for the next ones.\n"


def test_a_list_continues_after_a_cursor(run, server):
    server.responses = [(200, {"tasks": [task(4)], "next": None})]

    result = run("task", "list", "mail", "--cursor", "d/e")

    assert dict(server.requests[0].url.params) == {"state": "pending", "limit": "50", "cursor": "d/e"}
    assert (result.stdout.split("\t")[0], result.stderr) == ("t4", "")


def test_list_is_json_on_demand(run, server):
    server.responses = [(200, {"tasks": [task(1)], "next": None})]

    assert json.loads(run("task", "list", "mail", "--json").stdout) == [task(1)]


def test_table_keeps_ids_whole_and_folds_long_errors(run_in_terminal):
    message = " ".join(f"word{n}" for n in range(40))
    rows = [task(1, id="x" * 36, last_err=message), task(2, id="y" * 36, last_err=TRACEBACK)]

    lines = run_in_terminal(rows, ("id", "state", "retried", "last_err")).splitlines()

    assert lines[0].split() == ["id", "state", "retried", "last", "err"]
    words = " ".join(lines[1:-1]).split()
    assert words == ["x" * 36, "archived", "0", *message.split()]
    assert lines[-1].split() == ["y" * 36, "archived", "0", "TypeError:", "not", "a", "number"]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("width", [40, 80, 120])
def test_table_shows_each_column_whole_at_any_width(run_in_terminal, width):
    columns = ("task_id", "queue", "outcome", "ended_at", "run_ms", "worker_id", "error")
    row = {"task_id": "x" * 36, "queue": "mail", "outcome": "failed", "ended_at": "2020-03-01T12:00:00.000000Z"}
    row |= {"run_ms": 1500, "worker_id": "w" * 34, "error": "ValueError: " + "no user " * 20}

    shown = row | {"ended_at": "2020-03-01"}

    lines = run_in_terminal([row], columns, width).splitlines()

    header = " ".join(columns).replace("_", " ").split()
    assert " ".join(lines).split() == [*header, *" ".join(map(str, shown.values())).split()]
    assert max(map(len, lines)) <= width


def test_columns_below_the_first_line_are_aligned_with_their_headers(run_in_terminal):
    rows = [{"queue": "q" * 20, "pending": 1, "paused": True}, {"queue": "mail", "pending": 10, "paused": False}]

    assert run_in_terminal(rows, ("queue", "pending", "paused"), 30).splitlines() == [
        "queue                 pending",
        "    paused",
        "q" * 20 + "        1",
        "    yes",
        "mail                       10",
    ]


def test_table_shows_the_beginning_of_a_long_value_and_its_length(run_in_terminal):
    rows = [{"id": "t1", "result": "x" * 500}, {"id": "t2", "result": {"text": "y" * 20_000}}]

    text = "".join(run_in_terminal(rows, ("id", "result")).split())

    assert "x" * 500 in text
    assert text.endswith('t2{"text":"' + "y" * 491 + "…(20,011characters)")


def test_id_that_is_wider_than_the_terminal_is_on_one_line(run_in_terminal):
    lines = run_in_terminal([{"id": "x y" * 30, "retried": 1}], ("id", "retried"), 40).splitlines()

    assert lines == ["id", "    retried", "x y" * 30, "          1"]


def test_table_without_rows_prints_the_empty_message(run_in_terminal):
    assert run_in_terminal([], ("id",)) == "nothing\n"


@pytest.mark.parametrize(
    ("command", "method", "path"),
    [
        ("run", "POST", "/api/cli/queues/mail_high/tasks/t1/run"),
        ("delete", "DELETE", "/api/cli/queues/mail_high/tasks/t1"),
    ],
)
def test_actions_use_the_queue_of_the_task(run, server, command, method, path):
    server.responses = [(200, {"info": {"queue": "mail_high"}}), (200, {"message": "task done", "task_id": "t1"})]

    result = run("task", command, "t1")

    assert [request.url.path for request in server.requests] == ["/queue/t1", path]
    assert server.requests[1].method == method
    assert result.stdout == "t1: task done\n"


def test_several_tasks_are_cancelled_up_to_the_first_refusal(run, server):
    server.responses = [
        (200, {"message": "task cancelled", "task_id": "t1"}),
        (404, {"code": "task_not_found", "detail": "Task not found."}),
    ]

    result = run("task", "cancel", "t1", "t/2", "t3")

    assert [request.url.raw_path for request in server.requests] == [b"/api/cli/tasks/t1", b"/api/cli/tasks/t%2F2"]
    assert (result.exit_code, result.stdout) == (ExitCode.NOT_FOUND, "t1: task cancelled\n")


def test_queues_are_listed_with_their_counts(run, server):
    queue = {"queue": "mail", "pending": 1, "active": 0, "scheduled": 0, "retry": 0, "archived": 2, "completed": 9}
    processes = {"ready": 3, "not_ready": 1, "disconnected": 0}
    server.responses = [(200, {"queues": [queue | {"health": ["no worker", "paused"], "worker_processes": processes}]})]

    assert run("queue", "list").stdout == "mail\tno worker, paused\t3/4\t1\t0\t0\t0\t2\t9\n"


def test_a_named_commit_that_was_not_fetched_stands_in_the_list_of_releases(run, server):
    response = {"message": "redeployment requested", "queue": "mail", "workers": ["a"], "release": 7}
    release = {"number": 7, "state": "reverted", "commit": None, "branch": "v9", "subject": "", "source": "manual"}
    release |= {"actor": "ada", "created_at": "2026-01-01T00:00:00Z", "reason": "a could not fetch it"}
    server.responses = [(200, response), (200, {"queue": "mail", "releases": [release]})]

    requested = run("queue", "redeploy", "mail", "--commit", "v9").stdout
    listed = run("queue", "releases", "mail").stdout

    assert requested == "mail: requested release 7, v9, for 1 worker; `runqy queue releases mail` shows its state\n"
    assert listed.startswith("7\treverted\tv9\t")


def test_what_the_newest_release_printed_follows_the_list_of_releases(run, server):
    release = {"number": 7, "state": "reverted", "commit": "a" * 40, "branch": "main", "reason": "a could not start it"}
    older = release | {"number": 6, "output": "an older error"}
    error = {"count": 6, "error_class": "OSError", "error_message": "\x1b[1mno", "task_id": "t1", "redis_queue": "mail"}
    newest = release | {"output": "exited\nImportError: \x1b[31mno b", "most_frequent_error": error}
    response = {"queue": "mail", "releases": [newest, older]}
    server.responses = [(200, response)] * 3

    listed = run("queue", "releases", "mail")
    names = run("queue", "releases", "mail", "-o", "name")
    document = run("queue", "releases", "mail", "-o", "json")

    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["7", "6"]
    assert listed.stderr == (
        "runqy: Release 7 printed last:\nexited\nImportError: \ufffd[31mno b\n"
        "runqy: Most frequent error of release 7, 6 times, such as of the task t1 in mail: OSError: \ufffd[1mno\n"
    )
    assert (names.stdout, names.stderr, document.stderr) == ("7\n6\n", "", "")
    assert json.loads(document.stdout)[1]["output"] == "an older error"


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (["a"], "for 1 worker"),
        (["a", "b"], "for 2 workers"),
        (None, "for its workers"),
        ([], "for the next worker that starts, as none serves the queue"),
    ],
)
def test_redeploy_prints_how_many_workers_will_run_the_newest_commit(run, server, workers, expected):
    response = {"message": "redeployment requested", "queue": "mail", "workers": workers, "release": 7}
    server.responses = [(200, response)]

    result = run("queue", "redeploy", "mail")

    assert (server.requests[0].method, server.requests[0].url.path) == ("POST", "/api/cli/queues/mail/redeploy")
    shown = "`runqy queue releases mail` shows its state"
    assert result.stdout == f"mail: requested release 7, the newest commit, {expected}; {shown}\n"


CODE = {"git_url": "file:///code", "branch": "main", "code_path": "", "startup_cmd": "x", "requirements_file": ""}
LIVE = CODE | {"number": 6, "state": "live", "commit": "a" * 40, "reason": "", "output": ""}
NEXT = CODE | {"number": 7, "state": "rolling_out", "commit": None, "reason": "", "output": ""}
FAILED = {"state": "reverted", "reason": "w1 could not fetch it: no branch or tag v9", "output": "git failed\nno v9"}


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param({"state": "live", "commit": "b" * 40}, (0, "mail: release 7, bbbbbbbbbbbb, is live\n"), id="live"),
        pytest.param(
            {"state": "superseded", "commit": "a" * 40}, (0, "mail: release 7, aaaaaaaaaaaa, is live\n"), id="same"
        ),
        pytest.param(
            {"state": "superseded", "reason": "release 8 came before it was live"},
            (1, "runqy: mail: release 7 is not live but superseded: release 8 came before it was live\n"),
            id="superseded",
        ),
        pytest.param(
            FAILED,
            (
                1,
                "runqy: Release 7 printed last:\ngit failed\nno v9\n"
                "runqy: mail: release 7 is not live but reverted: w1 could not fetch it: no branch or tag v9\n",
            ),
            id="reverted",
        ),
        pytest.param(
            {"state": "reverted", "commit": "a" * 40, "startup_cmd": "y", "reason": "w1 could not start it: \x1b[31m"},
            (1, "runqy: mail: release 7 is not live but reverted: w1 could not start it: \ufffd[31m\n"),
            id="the live commit started otherwise",
        ),
    ],
)
def test_redeploy_waits_until_the_release_is_live_or_ends_with_the_reason(run, server, replace_sleep, end, expected):
    replace_sleep(releases, lambda seconds: None)
    ended = NEXT | end
    live = [ended] if ended["state"] == "live" else [ended, LIVE]
    server.responses = [
        (200, {"message": "redeployment requested", "queue": "mail", "workers": ["a"], "release": 7}),
        (200, {"queue": "mail", "releases": [NEXT, LIVE]}),
        (503, {"code": "database_unavailable", "detail": "The database is away."}),
        (200, {"queue": "mail", "releases": live}),
    ]

    result = run("queue", "redeploy", "mail", "--commit", "v9", "--wait", "10m")

    assert (result.exit_code, result.output) == expected


def test_a_first_release_that_fails_is_not_live(run, server):
    failed = NEXT | FAILED | {"state": "failed"}
    server.responses = [
        (200, {"message": "redeployment requested", "queue": "mail", "workers": ["a"], "release": 7}),
        (200, {"queue": "mail", "releases": [failed]}),
    ]

    result = run("queue", "redeploy", "mail", "--wait", "10m")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "release 7 is not live but failed: w1 could not fetch it" in result.stderr


def test_redeploy_says_that_a_release_is_still_rolling_out_after_the_wait(run, server, replace_sleep):
    replace_sleep(releases, lambda seconds: None)
    requested = {"message": "redeployment requested", "queue": "mail", "workers": ["a"], "release": 7}
    waiting = NEXT | {"reason": "waits for \x1b[1m a first task"}
    server.responses = [(200, requested), *[(200, {"queue": "mail", "releases": [waiting, LIVE]})] * 10_000]

    result = run("queue", "redeploy", "mail", "--wait", "0.01")

    assert result.exit_code == ExitCode.TIMED_OUT
    assert result.output == "runqy: mail: release 7 is still rolling out: it waits for \ufffd[1m a first task.\n"
