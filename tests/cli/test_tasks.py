"""`runqy task` sends what it was given, shows what came back, and ends with a status that says how it went."""

import pytest

from runqy.cli.exits import Exit

PENDING = {"info": {"id": "t1", "queue": "sentiment", "state": "pending"}}
DONE = {
    "info": {"id": "t1", "queue": "sentiment", "state": "completed", "result": {"label": "positive"}, "last_err": ""}
}
FAILED = {"info": {"id": "t1", "queue": "sentiment", "state": "archived", "last_err": "boom"}}


def test_enqueue_keeps_the_bytes_of_the_payload(run, server):
    server.answers = [(200, PENDING)]

    result = run("task", "enqueue", "-q", "sentiment", "-p", '{"n": 9007199254740993, "x":1.10}', "-t", "60")

    assert result.exit_code == 0, result.output
    assert server.requests[0].url.path == "/queue/add"
    assert server.requests[0].content == b'{"queue":"sentiment","data":{"n": 9007199254740993, "x":1.10},"timeout":60}'
    assert result.stdout == "id:              t1\nqueue:           sentiment\nstate:           pending\n"


def test_enqueue_reads_the_payload_from_standard_input(run, server):
    server.answers = [(200, PENDING)]

    run("task", "enqueue", "-q", "sentiment", "-p", "-", input='{"text": "hi"}\n')

    assert server.requests[0].content == b'{"queue":"sentiment","data":{"text": "hi"}}'


@pytest.mark.parametrize(("spelled", "sent"), [("90", b'"delay":90'), ("1h30m", b'"delay":"1h30m"')])
def test_enqueue_sends_a_delay_as_a_number_or_a_span(run, server, spelled, sent):
    server.answers = [(200, PENDING)]

    run("task", "enqueue", "-q", "sentiment", "--delay", spelled)

    assert sent in server.requests[0].content


def test_payload_that_is_no_json_never_leaves(run, server):
    result = run("task", "enqueue", "-q", "sentiment", "-p", "{text: hi}")

    assert result.exit_code == 2
    assert "the payload is not JSON" in result.stderr
    assert server.requests == []


def test_enqueue_can_wait_for_the_result(run, server):
    server.answers = [(200, PENDING), (202, PENDING), (200, DONE)]

    result = run("task", "enqueue", "-q", "sentiment", "--wait", "45")

    assert [str(request.url) for request in server.requests[1:]] == [
        "http://localhost:3000/queue/t1?wait=30",
        "http://localhost:3000/queue/t1?wait=30",
    ]
    assert 'result:          {"label":"positive"}' in result.stdout


def test_get_asks_once_when_it_does_not_wait(run, server):
    server.answers = [(200, PENDING)]

    result = run("task", "get", "t1")

    assert [str(request.url) for request in server.requests] == ["http://localhost:3000/queue/t1"]
    assert result.exit_code == 0


def test_get_prints_json_on_demand(run, server):
    server.answers = [(200, DONE)]

    result = run("task", "get", "t1", "--json")

    assert '"label": "positive"' in result.stdout


def test_archived_task_ends_with_a_status_of_its_own(run, server):
    server.answers = [(200, FAILED)]

    result = run("task", "get", "t1")

    assert result.exit_code == Exit.TASK_FAILED
    assert "last_err:        boom" in result.stdout


def test_id_cannot_change_the_path(run, server):
    server.answers = [(200, PENDING)]

    run("task", "get", "../admin?x")

    assert server.requests[0].url.raw_path == b"/queue/..%2Fadmin%3Fx"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthorized", Exit.DENIED),
        (404, "task_not_found", Exit.NOT_FOUND),
        (409, "queue_disabled", Exit.CONFLICT),
        (503, "broker_unavailable", Exit.UNAVAILABLE),
        (400, "payload_invalid", Exit.FAILED),
    ],
)
def test_refusal_is_shown_and_decides_the_status(run, server, status, code, exit_code):
    server.answers = [(status, {"code": code, "detail": "no way", "errors": ["no way", "text: missing"]})]

    result = run("task", "get", "t1", "-k", "mine")

    assert result.exit_code == exit_code
    assert result.stderr == "runqy: no way\n  text: missing\n"


def test_answer_that_is_no_problem_document_is_shown_as_it_is(run, server):
    server.answers = [(502, b"<h1>Bad Gateway</h1>")]

    result = run("task", "get", "t1")

    assert result.stderr == "runqy: HTTP 502: <h1>Bad Gateway</h1>\n"


def test_server_that_is_none_is_named(run, server):
    server.answers = [(200, b"hello")]

    result = run("task", "get", "t1")

    assert result.exit_code == Exit.UNAVAILABLE
    assert "http://localhost:3000 is no runqy server" in result.stderr


def test_server_that_is_away_is_named(run):
    result = run("task", "get", "t1", "-s", "http://127.0.0.1:1")

    assert result.exit_code == Exit.UNAVAILABLE
    assert "http://127.0.0.1:1 cannot be reached" in result.stderr
