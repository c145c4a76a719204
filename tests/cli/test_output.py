"""What all commands share: formats of the output, where options may stand, questions, help."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.main import get_command

from runqy.cli import prompts
from runqy.cli.errors import ExitCode
from runqy.cli.main import app
from runqy.cli.output import Format, Printer
from runqy.cli.values import format_value

WORKER = {"worker_id": "h:1:a", "queue": "mail", "redis_queues": {"mail": 1}, "state": "ready", "reason": ""}
WORKER |= {"commit": "0123456789abcdef", "running": [{"task_id": "t1"}], "concurrency": 2, "last_beat": 1764547200}
WORKER |= {"held": [], "host": "vm", "pid": 7, "version": "1.0.0", "started_at": 0, "last_take_at": None}


LINE = "h:1:a\tmail\tready\t1/2\t2025-12-01T00:00:00Z\t0123456789ab\t"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), f"{LINE}\n"),
        (("-o", "name"), "h:1:a\n"),
        (("-o", "wide"), f'{LINE}\tvm\t7\t1.0.0\t\t\t{{"mail":1}}\n'),
    ],
)
def test_pipe_gets_lines_with_tabs_or_names(run, server, options, expected):
    server.responses = [(200, {"workers": [WORKER], "lost": []})]

    assert run("worker", "list", *options).stdout == expected


def test_documents_contain_what_the_server_sent(run, server):
    server.responses = [(200, {"workers": [WORKER], "lost": []})] * 3

    as_json = [run("worker", "list", *options).stdout for options in (["--json"], ["-o", "json"])]
    as_yaml = run("worker", "list", "-o", "yaml").stdout

    assert [json.loads(text) for text in as_json] == [[WORKER]] * 2
    assert "- worker_id: h:1:a\n" in as_yaml
    assert "last_take_at: null\n" in as_yaml


def test_options_of_all_commands_stand_anywhere_and_the_last_one_counts(run, server):
    server.responses = [(200, {"workers": [WORKER], "lost": []})] * 3
    url = "https://runqy.example.com"

    run("-s", url, "-k", "root", "worker", "list")
    run("worker", "-s", url, "-k", "group", "list")
    run("-s", "https://other.example.com", "-k", "root", "worker", "list", "-s", url, "-k", "leaf")

    assert [request.url.host for request in server.requests] == ["runqy.example.com"] * 3
    keys = [request.headers["authorization"] for request in server.requests]
    assert keys == ["Bearer root", "Bearer group", "Bearer leaf"]


def test_unknown_format_is_a_usage_error(run, server):
    result = run("worker", "list", "-o", "xml")

    assert result.exit_code == ExitCode.USAGE
    assert "xml" in result.stderr
    assert server.requests == []


def test_terminal_shows_relative_times_and_colours(show):
    now = datetime.now(UTC)
    rows = [
        {"id": "a", "state": "archived", "at": (now - timedelta(hours=3, minutes=1)).isoformat()},
        {"id": "b", "state": "completed", "at": (now + timedelta(minutes=5, seconds=30)).isoformat()},
    ]

    lines = show(Printer().rows, rows, ("id", "state", "at"), empty="").splitlines()

    assert "\x1b[31marchived" in lines[1]
    assert "3h ago" in lines[1]
    assert "in 5m" in lines[2]


def test_no_color_leaves_no_colour(show, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    text = show(Printer().rows, [{"id": "a", "state": "archived"}], ("id", "state"), empty="")

    assert "archived" in text
    assert not re.search(r"\x1b\[3\d", text)


def test_wide_table_shows_local_times(show):
    text = show(Printer(Format.WIDE).rows, [{"id": "a", "at": "2026-03-01T12:00:00Z"}], ("id", "at"), empty="")

    local = datetime(2026, 3, 1, 12, tzinfo=UTC).astimezone()
    assert f"{local:%Y-%m-%d %H:%M:%S}" in text


def test_escape_sequences_of_a_task_do_not_reach_the_terminal(show):
    row = {"id": "a", "last_err": "\x1b]0;title\x07boom\x1b[2J"}

    text = show(Printer().rows, [row], ("id", "last_err"), empty="") + show(Printer().item, row, ("id", "last_err"))

    assert text.count("boom") == 2
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text


def test_documents_escape_control_characters_and_lose_nothing(run, server):
    worker = WORKER | {"reason": "\x1b]0;t\x07 \x7f \x85 \x9b2J ü", "running": [10**400]}
    server.responses = [(200, json.dumps({"workers": [worker], "lost": []}).encode())] * 2

    as_json, as_yaml = (run("worker", "list", "-o", name).stdout for name in ("json", "yaml"))

    assert json.loads(as_json) == [worker]
    assert "ü" in as_json
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", as_json + as_yaml)


@pytest.mark.parametrize("number", ["1" * 5000, "-1" + "0" * 5000, "1e400"])
def test_numbers_beyond_those_of_python_are_printed_as_they_came(run, server, number):
    server.responses = [
        (200, f'{{"info":{{"id":"t1","state":"completed","result":{number},"payload":{10**30}}}}}'.encode())
    ] * 3

    printed = [run("task", "get", "t1", *options) for options in ([], ["-o", "json"], ["-o", "yaml"])]

    assert [each.exit_code for each in printed] == [0, 0, 0]
    assert all(number in each.stdout for each in printed)
    assert str(10**30) in printed[1].stdout


def test_a_number_that_no_server_takes_is_sent_as_a_text(run, server):
    server.responses = [(400, {"detail": "timeout: too long."})]

    result = run("task", "enqueue", "-q", "q", "-p", "1", "--timeout", "1" * 5000)

    assert (result.exit_code, result.stderr) == (1, "runqy: timeout: too long.\n")


def test_object_is_shown_as_members(show):
    task = {"id": "t1", "state": "archived", "last_err": "", "paused": True}

    text = show(Printer().item, task, ("id", "state", "last_err", "paused"))

    assert text.startswith("\x1b[1mid:     \x1b[0mt1\n")
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == "id:     t1\nstate:  archived\npaused: yes\n"


def test_destructive_command_needs_force_without_a_terminal(run, server):
    result = run("queue", "delete", "mail")

    assert (result.exit_code, server.requests) == (ExitCode.USAGE, [])
    assert result.stderr == "runqy: This needs a confirmation. Use --force without a terminal.\n"


@pytest.mark.parametrize(("answer", "requests"), [("y", 2), ("n", 1), ("", 1)])
def test_destructive_command_asks_on_a_terminal(run, server, monkeypatch, answer, requests):
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)
    counted = {"queue": "mail_high", "parent": "mail", "size": 1200}
    server.responses = [(200, {"queues": [counted]}), (200, {"message": "done"})]

    result = run("queue", "delete", "mail", input=f"{answer}\n")

    assert (result.exit_code, len(server.requests)) == (0 if requests == 2 else ExitCode.FAILED, requests)
    assert "Delete mail (1,200 tasks)? [y/N]" in result.stderr


def commands_of(group, *names):
    """Yield the path and the command of all commands of a group that are listed and have a help of their own."""
    for name, command in group.commands.items():
        if not command.hidden and command.add_help_option:
            yield (*names, name), command
            yield from commands_of(command, *names, name) if hasattr(command, "commands") else ()


@pytest.mark.parametrize("words", [path for path, _ in commands_of(get_command(app))], ids=" ".join)
def test_help_has_examples_that_name_the_command(run, words):
    shown = run(*words, "--help").stdout

    examples = shown.partition("Examples:\n")[2]
    assert f"runqy {' '.join(words)}" in examples


@pytest.mark.parametrize("width", [60, 80, 140])
def test_help_fits_the_terminal(width):
    for words, command in commands_of(get_command(app)):
        context = typer.Context(command, info_name=" ".join(("runqy", *words)), terminal_width=width)

        described = command.get_help(context).partition("Examples:")[0]

        assert max(map(len, described.splitlines())) <= width, words


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('Traceback (most recent call last):\n  File "a.py", line 1\nTypeError: no\n', "TypeError: no"),
        ("the child process was killed by SIGKILL\nepoch 3\nloss nan", "the child process was killed by SIGKILL"),
        ("Error: no\n    at main.js:3", "Error: no"),
        ("\n", ""),
    ],
)
def test_a_list_shows_the_line_of_an_error_that_says_what_happened(text: str, line: str):
    assert format_value(text) == line
