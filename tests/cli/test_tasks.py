"""`runqy task` sends its input, shows the response, and exits with a status for the outcome."""

import json

import httpx2
import pytest

from runqy.cli import targets
from runqy.cli.client import Client
from runqy.cli.errors import ExitCode
from runqy.cli.main import app

PENDING = {"info": {"id": "t1", "queue": "sentiment", "state": "pending"}}
DONE = {
    "info": {"id": "t1", "queue": "sentiment", "state": "completed", "result": {"label": "positive"}, "last_err": ""}
}
FAILED = {"info": {"id": "t1", "queue": "sentiment", "state": "archived", "last_err": "boom"}}


def test_enqueue_keeps_the_bytes_of_the_payload(run, server):
    server.responses = [(200, PENDING)]

    result = run("task", "enqueue", "-q", "sentiment", "-p", '{"n": 9007199254740993, "x":1.10}', "-t", "60")

    assert result.exit_code == 0, result.output
    assert server.requests[0].url.path == "/queue/add"
    assert server.requests[0].content == b'{"queue":"sentiment","data":{"n": 9007199254740993, "x":1.10},"timeout":60}'
    assert result.stdout == "id\tt1\nqueue\tsentiment\nstate\tpending\n"


def test_enqueue_takes_a_timeout_as_a_duration(run, server):
    server.responses = [(200, PENDING)]

    run("task", "enqueue", "-q", "sentiment", "-t", "5m")

    assert server.requests[0].content == b'{"queue":"sentiment","data":{},"timeout":"5m"}'


def test_enqueue_reads_the_payload_from_standard_input(run, server):
    server.responses = [(200, PENDING)]

    run("task", "enqueue", "-q", "sentiment", "-p", "-", input='{"text": "hi"}\n')

    assert server.requests[0].content == b'{"queue":"sentiment","data":{"text": "hi"}}'


@pytest.mark.parametrize(("spelled", "sent"), [("90", b'"delay":90'), ("1h30m", b'"delay":"1h30m"')])
def test_enqueue_sends_a_delay_as_a_number_or_a_duration(run, server, spelled, sent):
    server.responses = [(200, PENDING)]

    run("task", "enqueue", "-q", "sentiment", "--delay", spelled)

    assert sent in server.requests[0].content


def test_invalid_json_is_not_sent(run, server):
    result = run("task", "enqueue", "-q", "sentiment", "-p", "{text: hi}")

    assert result.exit_code == 2
    assert "the payload is not JSON" in result.stderr
    assert server.requests == []


def test_enqueue_can_wait_for_the_result(run, server):
    server.responses = [(200, PENDING), (202, PENDING), (200, DONE)]

    result = run("task", "enqueue", "-q", "sentiment", "--wait", "5m")

    assert [str(request.url) for request in server.requests[1:]] == [
        "http://localhost:3000/queue/t1?wait=30",
        "http://localhost:3000/queue/t1?wait=30",
    ]
    assert 'result\t{"label":"positive"}' in result.stdout


def test_get_sends_one_request_when_it_does_not_wait(run, server):
    server.responses = [(200, PENDING)]

    result = run("task", "get", "t1")

    assert [str(request.url) for request in server.requests] == ["http://localhost:3000/queue/t1"]
    assert result.exit_code == 0


def test_get_prints_json_on_demand(run, server):
    server.responses = [(200, DONE)]

    result = run("task", "get", "t1", "--json")

    assert '"label": "positive"' in result.stdout


def test_archived_task_has_its_own_exit_code(run, server):
    server.responses = [(200, {"info": FAILED["info"] | {"error_class": "shop.Declined"}})]

    result = run("task", "get", "t1")

    assert result.exit_code == ExitCode.TASK_FAILED
    assert "error_class\tshop.Declined\nlast_err\tboom" in result.stdout


def test_id_is_quoted_in_the_path(run, server):
    server.responses = [(200, PENDING)]

    run("task", "get", "../admin?x")

    assert server.requests[0].url.raw_path == b"/queue/..%2Fadmin%3Fx"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthorized", ExitCode.DENIED),
        (404, "task_not_found", ExitCode.NOT_FOUND),
        (409, "queue_disabled", ExitCode.CONFLICT),
        (503, "broker_unavailable", ExitCode.UNAVAILABLE),
        (400, "payload_invalid", ExitCode.FAILED),
    ],
)
def test_error_is_printed_and_sets_the_exit_code(run, server, status, code, exit_code):
    server.responses = [(status, {"code": code, "detail": "no way", "errors": ["no way", "text: missing"]})]

    result = run("task", "get", "t1", "-k", "mine")

    assert result.exit_code == exit_code
    assert result.stderr == "runqy: no way\n  text: missing\n"


def test_error_without_problem_document_is_printed_as_text(run, server):
    server.responses = [(502, b"<h1>Bad Gateway</h1>")]

    result = run("task", "get", "t1")

    assert result.stderr == "runqy: HTTP 502: <h1>Bad Gateway</h1>\n"


def test_url_of_another_server_is_an_error(run, server):
    server.responses = [(200, b"hello")]

    result = run("task", "get", "t1")

    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "http://localhost:3000 is not a runqy server" in result.stderr


def test_unreachable_server_is_an_error(run):
    result = run("task", "get", "t1", "-s", "http://127.0.0.1:1")

    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "http://127.0.0.1:1 cannot be reached" in result.stderr


LOGS = {"id": "t1", "queue": "q", "attempt": 2, "attempts": [1, 2], "text": "a\nb\n", "truncated": True, "shared": True}


def test_logs_prints_the_text_and_notes_beside_it(run, server):
    server.responses = [(200, LOGS)]

    result = run("task", "logs", "t/1", "-q", "q_high", "--attempt", "2")

    assert str(server.requests[0].url) == "http://localhost:3000/api/cli/queues/q_high/tasks/t%2F1/logs?attempt=2"
    assert (result.exit_code, result.stdout) == (0, "a\nb\n")
    assert "Attempt 2" in result.stderr
    assert "The beginning is missing" in result.stderr
    assert "Other tasks ran in the same process" in result.stderr


def test_logs_as_json_are_what_the_server_sent(run, server):
    server.responses = [(200, LOGS)]

    result = run("task", "logs", "t1", "-q", "q", "--json")

    assert '"attempts": [' in result.stdout
    assert result.stderr == ""


def event(name, data, id_=""):
    return f"{f'id: {id_}' if id_ else ''}\nevent: {name}\ndata: {data}\n\n".lstrip("\n")


def output(text, id_):
    return event("output", f'{{"attempt":1,"text":"{text}","truncated":false,"shared":false}}', id_)


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("archived", ExitCode.TASK_FAILED)])
def test_following_prints_until_the_task_has_ended_and_goes_on_after_a_disconnection(
    run, server, monkeypatch, state, code
):
    monkeypatch.setattr("runqy_sdk.client.operations.FIRST_DELAY_S", 0)
    first = output("one\\n", "1-4") + ": heartbeat\n\n"
    second = output("two\\n", "1-8") + event("end", f'{{"id":"t1","queue":"q","state":"{state}"}}', "end")
    server.responses = [(200, first.encode()), (200, second.encode())]

    result = run("task", "logs", "t1", "-q", "q", "--follow")

    assert (result.exit_code, result.stdout) == (code, "one\ntwo\n")
    assert [request.headers.get("Last-Event-ID") for request in server.requests] == [None, "1-4"]
    assert server.requests[0].url.query == b"follow=true"


def test_events_may_arrive_in_pieces_and_with_crlf(run, server, monkeypatch):
    stream = output("Grüße\\n", "1-4") + event("end", '{"id":"t1","queue":"q","state":"completed"}', "end")
    pieces = [bytes([byte]) for byte in stream.replace("\n", "\r\n").encode()]
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=iter(pieces)))
    monkeypatch.setattr(targets, "make_client", lambda url, key: Client(url, key, transport))

    result = run("task", "logs", "t1", "-q", "q", "--follow")

    assert (result.exit_code, result.stdout) == (0, "Grüße\n")


def test_following_a_task_that_is_deleted_ends(run, server):
    server.responses = [(200, event("gone", '{"id":"t1"}').encode())]

    result = run("task", "logs", "t1", "-q", "q", "-f")

    assert result.exit_code == 0
    assert "The task was deleted" in result.stderr


def test_an_error_of_a_stream_is_printed(run, server):
    server.responses = [(404, {"detail": "Task not found.", "code": "task_not_found"})]

    result = run("task", "logs", "t1", "-q", "q", "-f")

    assert (result.exit_code, result.stderr) == (ExitCode.NOT_FOUND, "runqy: Task not found.\n")


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ({"current": 3, "total": 10, "message": "resizing"}, "3 of 10, 30%: resizing"),
        ({"current": 12, "total": 10, "message": ""}, "12 of 10, 100%"),
        ({"current": 3, "total": None, "message": ""}, "3"),
    ],
)
def test_get_shows_progress(run, server, progress, text):
    server.responses = [(200, {"info": {"id": "t1", "queue": "q", "state": "active", "progress": progress}})]

    result = run("task", "get", "t1")

    assert f"progress\t{text}\n" in result.stdout


def test_logs_need_only_the_id(run, server):
    server.responses = [(200, PENDING), (200, LOGS)]

    run("task", "logs", "t1")

    assert [request.url.path for request in server.requests] == [
        "/queue/t1",
        "/api/cli/queues/sentiment/tasks/t1/logs",
    ]


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("archived", ExitCode.TASK_FAILED)])
def test_events_are_lines_until_the_task_has_ended_also_after_a_restart_of_the_server(
    run, server, monkeypatch, state, code
):
    monkeypatch.setattr("runqy_sdk.client.operations.FIRST_DELAY_S", 0)
    first = event("state", '{"id":"t1","queue":"q","state":"pending","attempts":0}', "pending-0")
    first += event("progress", '{"id":"t1","queue":"q","progress":{"current":3,"total":10,"message":""}}')
    end = {"info": {"id": "t1", "queue": "q", "state": state, "result": [1, 2], "last_err": "boom"}}
    # A server may break a result into lines.
    data = json.dumps(end).replace("[1, 2]", "[1,\ndata: 2]")
    server.responses = [
        (200, first.encode()),
        (503, {"detail": "It restarts."}),
        (200, event("end", data, f"{state}-1").encode()),
    ]

    result = run("task", "events", "t1")

    outcome = "[1,2]" if state == "completed" else "boom"
    assert (result.exit_code, result.stderr) == (code, "runqy: It restarts. Trying again.\n")
    assert result.stdout == f"pending\t\nprogress\t3 of 10, 30%\nend\t{state}\t{outcome}\n"
    assert [request.headers.get("Last-Event-ID") for request in server.requests] == [None, "pending-0", "pending-0"]


def chunk(value, position):
    return event("chunk", json.dumps({"id": "t1", "queue": "q", "run": 1, "chunk": value}), f"{position}-active-1")


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ([], 'Hel\x1b[31mlo\n{"n":1}\nagain'),
        (["-o", "json"], '"Hel\\u001b[31m"\n"lo\\n"\n{"n":1}\n"again"\n'),
    ],
)
def test_a_stream_is_printed_raw_also_after_a_restart_of_the_server(run, server, monkeypatch, options, printed):
    monkeypatch.setattr("runqy_sdk.client.operations.FIRST_DELAY_S", 0)
    first = event("state", '{"id":"t1","queue":"q","state":"active","attempts":1}', "1-0-active-1")
    first += chunk("Hel\x1b[31m", "1-1") + chunk("lo\n", "1-2") + chunk({"n": 1}, "1-3")
    second = event("gap", '{"id":"t1","queue":"q","run":1,"dropped":2}')
    second += event("reset", '{"id":"t1","queue":"q","run":2}') + chunk("again", "2-1")
    end = {"info": {"id": "t1", "queue": "q", "state": "archived", "result": None, "last_err": "bo\x1bom"}}
    second += event("end", json.dumps(end), "2-1-archived-1")
    server.responses = [(200, first.encode()), (200, second.encode())]

    result = run("task", "stream", "t1", *options)

    assert (result.exit_code, result.stdout) == (ExitCode.TASK_FAILED, printed)
    assert result.stderr == (
        "runqy: 2 chunks are missing: Redis was full.\n"
        "runqy: The task runs again: what was printed so far is of an earlier run.\n"
        "runqy: bo\ufffdom\n"
    )
    assert [request.headers.get("Last-Event-ID") for request in server.requests] == [None, "1-3-active-1"]


def test_a_terminal_gets_no_escape_sequences_of_a_stream(server, show, monkeypatch):
    monkeypatch.setenv("RUNQY_API_KEY", "k")
    server.responses = [(200, (chunk("a\x1b[2Jb\tc", "1-1") + event("gone", '{"id":"t1"}')).encode())]

    printed = show(app, ["task", "stream", "t1"], standalone_mode=False)

    assert printed == "a\ufffd[2Jb\tc\n"


@pytest.mark.parametrize("options", [[], ["--follow"]])
def test_output_of_a_task_keeps_its_colours_and_no_other_sequences(server, show, monkeypatch, options):
    monkeypatch.setenv("RUNQY_API_KEY", "k")
    logs = {"attempt": 1, "attempts": [1], "truncated": False, "shared": False}
    logs["text"] = "\x1b[1;31mred\x1b[0m\r\n1 %\r2 %\n\x1b]52;c;eA==\x07\x1b[2J\x9b2J\t."
    found = {"info": {"id": "t1", "queue": "q", "state": "active"}}
    followed = event("output", json.dumps(logs)) + event("gone", '{"id":"t1"}')
    server.responses = [(200, found), (200, followed.encode() if options else logs)]

    printed = show(app, ["task", "logs", "t1", *options], standalone_mode=False)

    bad = "\ufffd]52;c;eA==\ufffd\ufffd[2J\ufffd2J"
    assert printed == f"\x1b[1;31mred\x1b[0m\n1 %\n2 %\n{bad}\t.\x1b[0m"


@pytest.mark.usefixtures("run")
def test_escape_sequences_in_events_do_not_reach_the_terminal(server, show):
    title = "\\u001b]0;title\\u0007"
    events = event("progress", f'{{"id":"t1","queue":"q","progress":{{"current":3,"total":10,"message":"{title}"}}}}')
    events += event("end", f'{{"id":"t1","queue":"q","state":"archived","result":null,"last_err":"boom{title}"}}')
    server.responses = [(200, events.encode())]

    text = show(app, ["task", "events", "t1"], standalone_mode=False)

    assert ("3 of 10, 30%: " in text, "archived  boom" in text) == (True, True)
    assert not {"\x1b", "\x07"} & {*text}


def test_events_are_objects_for_programs(run, server):
    server.responses = [(200, event("gone", '{"id":"t1"}').encode())]

    result = run("task", "events", "t1", "-o", "json")

    assert (result.exit_code, result.stdout) == (0, '{"event":"gone","id":"t1"}\n')


def test_wait_waits_for_all_tasks_through_a_restart_of_the_server(run, server, monkeypatch):
    monkeypatch.setattr("runqy_sdk.client.operations.FIRST_DELAY_S", 0)
    server.responses = [(202, PENDING), (502, b""), (502, b""), (200, DONE), (200, FAILED)]

    result = run("task", "wait", "t1", "t2")

    assert [request.url.query for request in server.requests] == [b"wait=30"] * 5
    assert (result.exit_code, result.stderr.count("Trying again.")) == (ExitCode.TASK_FAILED, 1)
    assert result.stdout == 't1\tsentiment\tcompleted\t\t{"label":"positive"}\nt1\tsentiment\tarchived\tboom\t\n'


@pytest.mark.parametrize(
    ("words", "responses", "code"),
    [
        (["t1"], [(200, DONE)], 0),
        (["t1", "--timeout", "0"], [(200, PENDING)], ExitCode.TIMED_OUT),
        (["t1", "--timeout", "soon"], [], ExitCode.USAGE),
        (["t1"], [(503, {"detail": "It restarts."})], ExitCode.UNAVAILABLE),
        (["t1", "t2"], [(200, DONE), (404, {"detail": "Task not found."})], ExitCode.NOT_FOUND),
    ],
)
def test_wait_exits_with_what_became_of_the_tasks(run, server, words, responses, code):
    server.responses = responses

    assert run("task", "wait", *words).exit_code == code


def test_an_idempotency_key_and_all_options_are_sent(run, server):
    server.responses = [(200, PENDING | {"warnings": ["No worker serves the queue sentiment."]})]

    result = run(
        *("task", "enqueue", "-q", "sentiment", "--at", "2026-01-31T12:00:00Z", "--max-retry", "0"),
        *("--retention", "1h", "--unique-key", "u", "--deadline", "2026-02-01T00:00:00Z", "--idempotency-key", "k"),
    )

    assert server.requests[0].headers["Idempotency-Key"] == "k"
    assert json.loads(server.requests[0].content) == {
        "queue": "sentiment",
        "data": {},
        "process_at": "2026-01-31T12:00:00Z",
        "max_retry": 0,
        "retention": "1h",
        "unique_key": "u",
        "deadline": "2026-02-01T00:00:00Z",
    }
    assert result.stderr == "runqy: No worker serves the queue sentiment.\n"


def test_a_task_is_read_from_its_queue_if_that_is_given(run, server):
    server.responses = [(200, DONE["info"])]

    run("task", "get", "t/1", "-q", "sentiment")

    assert [str(request.url) for request in server.requests] == [
        "http://localhost:3000/api/cli/queues/sentiment/tasks/t%2F1"
    ]


def test_ctrl_c_says_what_was_not_waited_for(run, server, monkeypatch):
    monkeypatch.setattr("runqy_sdk.client.operations.FIRST_DELAY_S", 0)
    monkeypatch.setattr(server, "responses", [(200, DONE)])
    answer = type(server).__call__

    def call(self, request):
        if not self.responses:
            raise KeyboardInterrupt
        return answer(self, request)

    monkeypatch.setattr(type(server), "__call__", call)

    result = run("task", "wait", "t1", "t2", "t3")

    assert (result.exit_code, result.stderr) == (
        ExitCode.INTERRUPTED,
        "runqy: Interrupted; 2 of 3 tasks may not have ended.\n",
    )
