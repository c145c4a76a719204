"""The options that all commands for a server share, and the client they open."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from runqy.cli.client import Client, ServerError, find_api_key, find_server_url

ServerUrl = Annotated[
    str,
    typer.Option(
        "--server",
        "-s",
        envvar="RUNQY_SERVER_URL",
        help="URL of the server. Default: http://localhost:$PORT, else that of the stack in this folder.",
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        "-k",
        envvar="RUNQY_API_KEY",
        help="API key. Prefer the environment: other users can see command lines.",
    ),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print the task as JSON.")]
ListJson = Annotated[bool, typer.Option("--json", help="Print the list as JSON.")]
Wait = Annotated[float, typer.Option("--wait", "-w", min=0, help="Seconds to wait for the result.")]

_NOT_PUBLISHED = (
    "runqy: Saved, but not published: Redis is unavailable. Servers that reach the database apply the change within "
    "seconds. It is published when Redis is available again."
)
_WRONG_SERVER_CODES = ("unreachable", "no_server")
_NO_KEY = "No API key: set RUNQY_API_KEY, or run the command in the folder that contains .runqy."


@contextmanager
def open_client(url: str, key: str) -> Iterator[Client]:
    """Yield a client. An error of the server ends the command with a message and an exit code."""
    home = Path(os.environ.get("RUNQY_HOME") or ".runqy")
    url, url_hint = find_server_url(url, os.environ.get("PORT", ""), home)
    found = find_api_key(url, key, home)
    client = make_client(url, found)
    try:
        yield client
        if client.has_unpublished:
            typer.echo(_NOT_PUBLISHED, err=True)
    except ServerError as error:
        lacks_key = error.status == HTTPStatus.UNAUTHORIZED and not found
        typer.echo(f"runqy: {_NO_KEY if lacks_key else error}", err=True)
        refuses_kept_key = error.status == HTTPStatus.UNAUTHORIZED and found and not key
        if url_hint and (error.code in _WRONG_SERVER_CODES or refuses_kept_key):
            typer.echo(f"runqy: {url_hint}", err=True)
        raise typer.Exit(error.exit_code) from error
    finally:
        client.close()


def make_client(url: str, key: str) -> Client:
    """Tests replace this function."""
    return Client(url, key)
