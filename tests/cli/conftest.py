"""A command line that talks to a WSGI application of the test's own instead of the network."""

import io
import sys
import time
from collections.abc import Callable
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import msgspec
import pytest
import typer.main
from django.core.handlers.wsgi import WSGIHandler
from typer import Typer
from typer.testing import CliRunner, Result

from runqy.cli import targets
from runqy.cli.client import Client
from runqy.cli.main import app

Reply = tuple[int, object]


class FakeServer:
    """Sends the given responses in turn, and keeps the requests."""

    def __init__(self) -> None:
        self.responses: list[Reply] = []
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        status, body = self.responses.pop(0)
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return httpx2.Response(status, content=content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Return a server with responses that the test sets."""
    fake = FakeServer()
    monkeypatch.setattr(targets, "make_client", lambda url, key: Client(url, key, httpx2.MockTransport(fake)))
    return fake


@pytest.fixture
def run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command line in a folder and an environment of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNQY_API_KEY", "RUNQY_SERVER_URL", "RUNQY_SERVER", "RUNQY_PROFILE", "RUNQY_HOME", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("typer.testing._get_command", _get_command)
    runner = CliRunner()
    return lambda *args, **options: runner.invoke(app, args, **options)


@cache
def _get_command(cli: Typer) -> object:
    """Build the tree of commands once: it takes longer than most of them."""
    return typer.main.get_command(cli)


@pytest.fixture
def replace_sleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, Callable[[float], object]], None]:
    """Return a function that replaces `time.sleep` in one module: other threads of the process sleep too."""
    return lambda module, sleep: monkeypatch.setattr(module, "time", SimpleNamespace(**vars(time) | {"sleep": sleep}))


@pytest.fixture
def application(configuration: None, monkeypatch: pytest.MonkeyPatch) -> httpx2.WSGITransport:
    """Replace the network by the real application."""
    transport = httpx2.WSGITransport(app=WSGIHandler())
    monkeypatch.setattr(targets, "make_client", lambda url, key: Client(url, key, transport))
    return transport


class Terminal(io.StringIO):
    """An output stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that prints on a terminal of 140 columns with colours, and returns the text."""
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def call(method: Callable[..., object], *arguments: Any, **options: Any) -> str:
        terminal = Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", terminal)
            method(*arguments, **options)
        return terminal.getvalue()

    return call
