"""The commands `runqy config`: reload queue files, remove queues."""

from typing import Annotated
from urllib.parse import quote

import typer

from runqy.cli.client import ServerError
from runqy.cli.options import ApiKey, ServerUrl, open_client
from runqy.cli.output import print_rows

app = typer.Typer(no_args_is_help=True, help="Reload queue files, remove queues.")

_OUTCOMES = ("added", "updated", "unchanged", "missing")


@app.command()
def reload(*, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Reload the server's queue files, and list their queues."""
    with open_client(server, api_key) as api:
        report = api.post("/api/cli/configs/reload", b"")
    found = sorted((queue, outcome) for outcome in _OUTCOMES for queue in report[outcome])
    rows = [{"queue": queue, "outcome": outcome} for queue, outcome in found]
    print_rows(rows, ("queue", "outcome"), empty_message="No file has a queue.")
    for error in report["errors"]:
        typer.echo(f"runqy: {error}", err=True)
    if report["errors"]:
        raise typer.Exit(1)


@app.command()
def remove(
    queue: Annotated[str, typer.Argument(help="Name of the queue.", metavar="QUEUE")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Also delete waiting and running tasks.")] = False,
    ignore_missing: Annotated[
        bool, typer.Option("--ignore-missing", help="Succeed if the queue does not exist.")
    ] = False,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Remove a queue, with everything in Redis that belongs to it."""
    with open_client(server, api_key) as api:
        try:
            reply = api.delete(f"/api/cli/configs/{quote(queue, safe='')}{'?force=true' if force else ''}")
        except ServerError as error:
            if not ignore_missing or error.code != "queue_not_found":
                raise
            typer.echo(f"{queue} does not exist")
            return
    typer.echo(reply["message"] if "being deleted" in reply.get("message", "") else f"{queue}: removed")
