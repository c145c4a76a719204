"""What a server sends, and what tasks and files contain, cannot control the terminal: of all commands."""

import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from drf_spectacular.generators import SchemaGenerator
from typer.main import get_command

from runqy.cli import targets
from runqy.cli.client import Client
from runqy.cli.main import app
from tests.cli.conftest import Terminal
from tests.cli.test_output import commands_of

HOSTILE = "\x1b]0;title\x07evil\x9b2J\x1b[8m\x85\x7f"
CONTROL = re.compile(r"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f]|\x1b\[8m")
PROGRESS = re.compile(r"\x1b\[\?25[lh]|\x1b\[[12][KA]|\r")
"""What a progress bar itself prints."""
FINAL = ("archived", "finished", "reverted")
LOCAL = {("up",), ("serve",), ("login",), ("logout",), ("auth", "list"), ("auth", "switch")}
"""Commands that print nothing of a server."""
ENDLESS = {("queue", "watch"), ("worker", "watch"), ("queue", "release-scheduled")}
"""Commands that go on until the server says otherwise. The screens are tested in `test_workers`."""
COUNTED = ("waiting", "enqueued", "completed", "canceled")
"""Members that the schema does not name, but commands read."""
WORDS = {
    **{("task", name): ["1"] for name in ("run", "cancel", "archive", "delete")},
    **{("alert", name): ["1"] for name in ("acknowledge", "snooze", "resume")},
    ("webhook", "resend"): ["--failed"],
    ("vault", "set"): ["1"],
    ("vault", "import"): [".env"],
}
"""What a command needs besides its required parameters."""

COMMANDS = {
    words: command
    for words, command in commands_of(get_command(app))
    if not hasattr(command, "commands") and words not in LOCAL | ENDLESS
}


def words_of(path: tuple[str, ...], command: Any) -> list[str]:
    """Return a command line with all that the command requires."""
    words = [*path]
    for parameter in command.params:
        if parameter.name == "force":
            words.append("--force")
        elif parameter.required:
            value = "file.yaml" if parameter.name == "file" else "1"
            words += [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
    return [*words, *WORDS.get(path, [])]


class HostileServer:
    """Responds to each request as the schema says, with control characters in all texts."""

    def __init__(self, schema: Any) -> None:
        self.status = 200
        self.requests = 0
        self._schema = schema
        self._routes = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)).replace("{", "")), methods)
            for path, methods in schema["paths"].items()
        ]

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        if self.status >= 400:
            body = {"code": "request_invalid", "detail": HOSTILE, "errors": [HOSTILE, HOSTILE]}
            return httpx2.Response(self.status, json=body)
        path = request.url.path
        if path.endswith("/events"):
            body = self._body("get", path.removesuffix("/events"))
            return httpx2.Response(200, content=f"event: end\ndata: {json.dumps(body)}\n\n".encode())
        return httpx2.Response(200, content=json.dumps(self._body(request.method.lower(), path)).encode())

    def _body(self, method: str, path: str) -> Any:
        for pattern, methods in self._routes:
            if pattern.fullmatch(path) and method in methods:
                for status, response in methods[method]["responses"].items():
                    if status.startswith("2"):
                        return self._sample(response["content"]["application/json"]["schema"])
        raise AssertionError(f"{method} {path} is not in the schema")

    def _sample(self, node: Any) -> Any:
        if "$ref" in node:
            return self._sample(self._schema["components"]["schemas"][node["$ref"].rsplit("/", 1)[1]])
        for several in ("allOf", "oneOf", "anyOf"):
            if several in node:
                found = next(each for each in node[several] if each.get("type") != "null")
                return self._sample(found)
        if "enum" in node:
            return next((each for each in FINAL if each in node["enum"]), node["enum"][-1])
        kind = node.get("type", "string")
        kind = next(each for each in kind if each != "null") if isinstance(kind, list) else kind
        if kind == "object":
            members = {name: self._sample(each) for name, each in node.get("properties", {}).items()}
            more = node.get("additionalProperties")
            return members | (dict.fromkeys((HOSTILE, *COUNTED), self._sample(more)) if isinstance(more, dict) else {})
        if kind == "array":
            return [self._sample(node["items"])]
        texts = "2026-01-31T12:00:00Z" if node.get("format") == "date-time" else HOSTILE
        return {"string": texts, "boolean": False}.get(kind, 3)


@pytest.fixture(scope="module")
def schema() -> Any:
    return SchemaGenerator().get_schema(request=None, public=True)


@pytest.fixture
def hostile(schema: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HostileServer:
    server = HostileServer(schema)
    monkeypatch.setattr(targets, "make_client", lambda url, key: Client(url, key, httpx2.MockTransport(server)))
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text('{"schedules": {"a": {"queue": "mail", "every": "1h"}}}')
    Path(".env").write_text("A=1")
    monkeypatch.setenv("RUNQY_API_KEY", "k")
    return server


def run_on_terminal(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        patched.setattr(sys, "stderr", terminal)
        with suppress(typer.Exit, SystemExit):
            app([*words])
    return terminal.getvalue()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_response_controls_the_terminal(
    hostile: HostileServer, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]
) -> None:
    words = words_of(path, COMMANDS[path])

    table, document = (run_on_terminal(monkeypatch, *words, *options) for options in ([], ["-o", "json"]))
    hostile.status = 400
    error = run_on_terminal(monkeypatch, *words)

    assert hostile.requests >= 3
    assert error.count("evil") > 1
    if path == ("task", "logs"):  # the colours are the task's
        table = table.replace("\x1b[8m", "")
    assert [CONTROL.findall(PROGRESS.sub("", text)) for text in (table, document, error)] == [[], [], []]


@pytest.mark.parametrize(
    "words",
    [(f"--{HOSTILE}",), (HOSTILE,), ("task", "list", "q", HOSTILE), ("-o", HOSTILE), ("--server", HOSTILE, "status")],
)
def test_no_word_of_the_command_line_controls_the_terminal(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    printed = run_on_terminal(monkeypatch, *words)

    assert "evil" in printed
    assert not CONTROL.findall(printed)
