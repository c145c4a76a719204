"""Workers on the command line: listed, shown, and watched until Ctrl-C."""

import json
from types import SimpleNamespace

import pytest

from runqy.cli import watching
from runqy.cli.errors import ExitCode, ServerError
from runqy.cli.output import Listing, Printer
from tests.cli.test_output import LINE, WORKER

AWAY = (503, {"code": "broker_unavailable", "detail": "Redis is unavailable."})


def workers(*found):
    return 200, {"workers": list(found), "lost": []}


@pytest.fixture
def stops(replace_sleep, server):
    """Interrupt a command that watches after the last response."""

    def sleep(seconds):
        if not server.responses:
            raise KeyboardInterrupt

    replace_sleep(watching, sleep)


def test_workers_of_a_queue_are_listed(run, server):
    other = WORKER | {"worker_id": "h:2:b", "queue": "image", "redis_queues": {"image_high": 2}}
    starting = other | {"worker_id": "h:3:c", "state": "starting", "commit": None, "reason": "It deploys."}
    server.responses = [workers(WORKER, other, starting)] * 4
    names = ("mail", "image_high", "image.high", "x")

    listed = [run("worker", "list", "-q", name, "-o", "name").stdout for name in names]

    assert listed == ["h:1:a\n", "h:2:b\nh:3:c\n", "h:2:b\nh:3:c\n", ""]


def test_worker_is_shown_with_its_tasks(run, server):
    server.responses = [(200, WORKER)]

    lines = run("worker", "show", "h:1:a").stdout.splitlines()

    assert server.requests[0].url.raw_path == b"/api/cli/workers/h%3A1%3Aa"
    assert "commit\t0123456789abcdef" in lines
    assert 'running\t[{"task_id":"t1"}]' in lines


@pytest.mark.usefixtures("stops")
def test_pipe_gets_a_line_for_each_worker_that_changes(run, server):
    beat = WORKER | {"pid": 8}
    failing = WORKER | {"state": "failing", "reason": "boom"}
    server.responses = [workers(WORKER), workers(beat), AWAY, AWAY, workers(failing)]

    result = run("worker", "watch")

    assert result.exit_code == 130
    assert result.stdout == f"{LINE}\n{LINE.replace('ready', 'failing')}boom\n"
    assert result.stderr == "runqy: Redis is unavailable.\n"


@pytest.mark.usefixtures("stops")
def test_watched_documents_are_lines_of_json(run, server):
    server.responses = [workers(WORKER), workers(WORKER | {"state": "draining"})]

    lines = run("worker", "watch", "--json").stdout.splitlines()

    assert [json.loads(line)["state"] for line in lines] == ["ready", "draining"]


@pytest.mark.usefixtures("stops")
def test_first_reading_and_a_refusal_end_the_command(run, server):
    server.responses = [AWAY]
    away = run("worker", "watch")
    server.responses = [workers(), (401, {"code": "unauthorized", "detail": "A valid API key is required."})]
    refused = run("worker", "watch", "-k", "mine")

    assert (away.exit_code, refused.exit_code) == (ExitCode.UNAVAILABLE, ExitCode.DENIED)


def test_terminal_is_redrawn_and_never_scrolls(show, monkeypatch, replace_sleep):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "10")
    replace_sleep(watching, lambda seconds: None)
    items = [{"id": f"h:{n}"} for n in range(50)]
    readings = iter([items, items, ServerError("Redis is unavailable.", status=503), ServerError("No.", status=401)])

    def read():
        reading = next(readings)
        if isinstance(reading, ServerError):
            raise reading
        return reading

    def watch_to_the_end():
        with pytest.raises(ServerError):
            watching.watch(SimpleNamespace(out=Printer()), Listing(("id",)), read, interval_s=2)

    screens = show(watch_to_the_end).split("\x1b[H")[1:]

    assert [screen.count("\n") for screen in screens] == [9] * 3
    assert "Redis is unavailable." in screens[2]
    assert "45 more lines" in screens[0]


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("drain", "h:1:a: drains, and exits when its tasks have ended (its process also has h:1:b)"),
        ("restart", "h:1:a: restarts its children, each between two tasks (its process also has h:1:b)"),
        ("stop", "h:1:a: stops within its shutdown_timeout (its process also has h:1:b)"),
    ],
)
def test_workers_are_asked_one_after_another(run, server, action, says):
    asked = {"message": f"{action} requested", "worker_id": "h:1:a", "workers": ["h:1:a", "h:1:b"]}
    away = asked | {"worker_id": "w-2", "workers": ["w-2"], "is_connected": False}
    server.responses = [(200, asked | {"is_connected": True}), (200, away)]

    lines = run("worker", action, "h:1:a", "w-2").stdout.splitlines()

    assert [request.url.raw_path.decode() for request in server.requests] == [
        f"/api/cli/workers/h%3A1%3Aa/{action}",
        f"/api/cli/workers/w-2/{action}",
    ]
    assert lines[0] == says
    assert lines[1].endswith("once it can reach Redis again")
