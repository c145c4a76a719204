"""The screen at the end of a start says what is true, in lines that can be pasted."""

import json
import re
import shlex

import pytest

from queues.config import parse_spec
from runqy.broker.worker_records import WorkerRecord, WorkerState
from runqy.local import screen
from runqy.local.deployments import describe_state
from runqy.local.instance import Instance


@pytest.fixture
def instance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(screen.settings, "RUNQY_API_KEY", "")
    home = tmp_path / ".runqy"
    home.mkdir()
    for name in ("api_key", "admin_password"):
        (home / name).write_text(f"secret-{name}\n")
    return Instance(home=home, port=3000, is_first_start=True)


def spec(name, **more):
    deployment = {"git_url": "https://example.com/x.git", "startup_cmd": "python main.py"}
    return parse_spec(name, {"priority": 1, "deployment": deployment, **more})


def record(queue, state, reason=""):
    return WorkerRecord(
        worker_id="w",
        host="h",
        pid=1,
        server_id="s",
        queue=queue,
        redis_queues={queue: 1},
        state=state,
        reason=reason,
        started_at_s=1,
    )


def shown(capsys, instance, queues, records):
    screen.show_overview(instance, queues, records)
    return capsys.readouterr().out


@pytest.fixture
def fresh_console(monkeypatch, capsys):
    monkeypatch.setattr(screen, "console", screen.Console(highlight=False, soft_wrap=True, width=60))


def test_enqueue_line_meets_the_payload_schema(instance):
    fields = [
        {"name": "prompt", "type": "string", "required": True},
        {"name": "width", "type": ["int"], "required": True},
        {"name": "style", "type": "string"},
    ]

    words = shlex.split(screen.enqueue_line(instance, [spec("image", input=fields)]))

    assert words[-1] == "http://localhost:3000/queue/add"
    assert json.loads(words[words.index("-d") + 1]) == {"queue": "image", "data": {"prompt": "a text", "width": 1}}


def test_enqueue_line_names_a_sub_queue(instance):
    sub_queues = [{"name": "high", "priority": 9}]

    assert '"queue":"mail_high"' in screen.enqueue_line(instance, [spec("mail", sub_queues=sub_queues)])


def test_key_is_read_from_its_file_by_the_line(instance):
    assert '"Authorization: Bearer $(cat .runqy/api_key)"' in screen.enqueue_line(instance, [spec("mail")])


@pytest.mark.usefixtures("fresh_console")
def test_lines_to_copy_are_not_broken_on_a_narrow_terminal(capsys, instance):
    out = shown(capsys, instance, [spec("mail")], {"mail": record("mail", WorkerState.READY)})

    assert re.search(r"^  Admin login +admin, password secret-admin_password \(in \.runqy/admin_password\)$", out, re.M)
    assert re.search(r"^  curl .*/queue/add$", out, re.M)


@pytest.mark.usefixtures("fresh_console")
def test_reason_of_a_failed_start_is_shown_as_it_is(capsys, instance):
    failed = record("mail", WorkerState.START_FAILED, "git failed: [red]no\nsuch branch")

    out = shown(capsys, instance, [spec("mail"), spec("other")], {"mail": failed})

    assert "start failed: git failed: [red]no such branch" in out
    assert "not registered; the worker's log says why" in out


@pytest.mark.usefixtures("fresh_console")
def test_line_to_paste_is_about_a_queue_that_is_ready(capsys, instance):
    records = {"bad": record("bad", WorkerState.START_FAILED), "good": record("good", WorkerState.READY)}

    out = shown(capsys, instance, [spec("bad"), spec("good")], records)

    assert '"queue":"good"' in out


def test_long_reason_is_cut():
    assert len(describe_state(record("mail", WorkerState.START_FAILED, "word " * 500))) < 250
