"""The options that all commands about a server share, and how they open it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from runqy.cli.connection import Server, ServerRefused, find_key
from runqy.cli.exits import exit_status

ServerUrl = Annotated[
    str, typer.Option("--server", "-s", envvar="RUNQY_SERVER_URL", help="URL of the server; http://localhost:$PORT.")
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key", "-k", envvar="RUNQY_API_KEY", help="Better in the environment: others see command lines."
    ),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print the task as the server sent it.")]
ListJson = Annotated[bool, typer.Option("--json", help="Print the list as the server sent it.")]
Wait = Annotated[float, typer.Option("--wait", "-w", min=0, help="Seconds to wait for the end of the task.")]

_NOT_PUBLISHED = (
    "runqy: saved, but not published: Redis is unavailable. Servers that reach the database apply the change within "
    "seconds; it is published once Redis is back."
)
_NO_KEY = "no API key: set RUNQY_API_KEY, or run this in the folder where .runqy is."


@contextmanager
def open_server(url: str, key: str) -> Iterator[Server]:
    """Open a server; what it refuses ends the command with a message and a status."""
    url = (url or f"http://localhost:{os.environ.get('PORT') or 3000}").rstrip("/")
    home = Path(os.environ.get("RUNQY_HOME") or ".runqy")
    found = find_key(url, key, home)
    server = make_server(url, found)
    try:
        yield server
        if server.has_unpublished:
            typer.echo(_NOT_PUBLISHED, err=True)
    except ServerRefused as error:
        is_keyless = error.status == HTTPStatus.UNAUTHORIZED and not found
        typer.echo(f"runqy: {_NO_KEY if is_keyless else error}", err=True)
        raise typer.Exit(exit_status(error)) from error
    finally:
        server.close()


def make_server(url: str, key: str) -> Server:
    """Return a server; tests put one in its place that leads to the application itself."""
    return Server(url, key)
