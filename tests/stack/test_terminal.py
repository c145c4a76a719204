"""The overview at the end of a start is correct, in lines that can be pasted."""

import json
import re
import shlex

import pytest

from queues.definition_serializers import parse_queue
from runqy.broker.workers.records import WorkerRecord, WorkerState
from runqy.stack import terminal
from runqy.stack.deployments import describe_reason
from runqy.stack.instance import Instance


@pytest.fixture
def instance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal.settings, "RUNQY_API_KEY", "")
    home = tmp_path / ".runqy"
    home.mkdir()
    for name in ("api_key", "admin_password"):
        (home / name).write_text(f"secret-{name}\n")
    return Instance(home=home, port=3000, is_first_start=True)


def spec(name, **more):
    deployment = {"git_url": "https://example.com/x.git", "startup_cmd": "python main.py"}
    return parse_queue(name, {"priority": 1, "deployment": deployment, **more})


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


def rendered(capsys, instance, queues, records, **more):
    terminal.print_overview(instance, queues, records, folder=instance.home / "queues", **more)
    return capsys.readouterr().out


@pytest.fixture
def fresh_console(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "console", terminal.Console(highlight=False, soft_wrap=True, width=60))


def test_enqueue_line_meets_the_payload_schema(instance):
    fields = [
        {"name": "prompt", "type": "string", "required": True},
        {"name": "width", "type": ["int"], "required": True},
        {"name": "style", "type": "string"},
    ]

    words = shlex.split(terminal.enqueue_line(instance, [spec("image", input=fields)]))

    assert words[-1] == "http://localhost:3000/queue/add?wait=10"
    assert json.loads(words[words.index("-d") + 1]) == {"queue": "image", "data": {"prompt": "a text", "width": 1}}


def test_enqueue_line_names_a_sub_queue(instance):
    sub_queues = [{"name": "high", "priority": 9}]

    assert '"queue":"mail_high"' in terminal.enqueue_line(instance, [spec("mail", sub_queues=sub_queues)])


def test_enqueue_line_reads_the_key_from_its_file(instance):
    assert '"Authorization: Bearer $(cat .runqy/api_key)"' in terminal.enqueue_line(instance, [spec("mail")])


@pytest.mark.usefixtures("fresh_console")
def test_lines_to_copy_are_not_broken_on_a_narrow_terminal(capsys, instance):
    out = rendered(capsys, instance, [spec("mail")], {"mail": record("mail", WorkerState.READY)})

    assert re.search(r"^  Admin login +admin, password secret-admin_password \(in \.runqy/admin_password\)$", out, re.M)
    assert re.search(r"^  curl .*/queue/add\?wait=10\"$", out, re.M)


@pytest.mark.usefixtures("fresh_console")
def test_reason_of_a_failed_start_is_the_error_itself(capsys, instance):
    traceback = "ended with exit code 1\nTraceback:\n  File 'main.py'\nModuleNotFoundError: [red]nothere"
    failed = record("mail", WorkerState.START_FAILED, traceback)

    out = rendered(capsys, instance, [spec("mail"), spec("other")], {"mail": failed})

    assert re.search(r"^  mail +long_running +start failed$", out, re.M)
    assert re.search(r"^  other +long_running +not registered$", out, re.M)
    assert "\nmail: ModuleNotFoundError: [red]nothere\n" in out
    assert "Details are in .runqy/logs/worker.log." in out
    assert out.count("nothere") == 1


@pytest.mark.usefixtures("fresh_console")
def test_no_line_to_paste_is_about_a_queue_that_is_not_ready(capsys, instance):
    out = rendered(capsys, instance, [spec("mail")], {"mail": record("mail", WorkerState.START_FAILED, "boom")})

    assert "/queue/add" not in out


@pytest.mark.usefixtures("fresh_console")
def test_unserved_queues_are_listed(capsys, instance):
    records = {"mail": record("mail", WorkerState.READY)}

    out = rendered(capsys, instance, [spec("mail")], records, others=["pipeline", "thumbnail"])

    assert "Not served by this worker: pipeline, thumbnail." in out
    assert "Not served" not in rendered(capsys, instance, [spec("mail")], records)


@pytest.mark.usefixtures("fresh_console")
def test_folder_without_queue_files_is_reported(capsys, instance):
    out = rendered(capsys, instance, [], {})

    assert "There are no queue files in .runqy/queues. Add one, then run: runqy config reload" in out


def test_optional_fields_are_filled_where_none_is_required(instance):
    fields = [{"name": "style", "type": "string"}, {"name": "width", "type": "int", "default": 512}]

    words = shlex.split(terminal.enqueue_line(instance, [spec("image", input=fields)]))

    assert json.loads(words[words.index("-d") + 1])["data"] == {"style": "a text", "width": 512}


@pytest.mark.usefixtures("fresh_console")
def test_line_to_paste_is_about_a_queue_that_is_ready(capsys, instance):
    records = {"bad": record("bad", WorkerState.START_FAILED), "good": record("good", WorkerState.READY)}

    out = rendered(capsys, instance, [spec("bad"), spec("good")], records)

    assert '"queue":"good"' in out


def test_long_reason_is_shortened_from_the_left():
    reason = describe_reason(record("mail", WorkerState.START_FAILED, "word " * 500 + "the end"))

    assert len(reason) < 200
    assert reason.endswith("word the end")
