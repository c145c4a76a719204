"""A command line that talks to a WSGI application of the test's own instead of the network."""

from collections.abc import Callable
from typing import Any

import httpx2
import msgspec
import pytest
from typer.testing import CliRunner, Result

from runqy.cli import options
from runqy.cli.connection import Server
from runqy.cli.main import app

Answer = tuple[int, object]


class FakeServer:
    """Answers in turn, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        status, body = self.answers.pop(0)
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return httpx2.Response(status, content=content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Return a server that answers what the test tells it to."""
    fake = FakeServer()
    monkeypatch.setattr(options, "make_server", lambda url, key: Server(url, key, httpx2.MockTransport(fake)))
    return fake


@pytest.fixture
def run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command line in a folder and an environment of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNQY_API_KEY", "RUNQY_SERVER_URL", "RUNQY_HOME", "PORT"):
        monkeypatch.delenv(name, raising=False)
    runner = CliRunner()
    return lambda *args, **options: runner.invoke(app, args, **options)
