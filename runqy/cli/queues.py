"""The commands about queues: see how they are, let their workers take the newest commit."""

from typing import Annotated
from urllib.parse import quote

import typer

from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_server
from runqy.cli.tables import show_json, show_rows

app = typer.Typer(no_args_is_help=True, help="See how queues are; let their workers take new code.")

_COLUMNS = ("queue", "pending", "active", "scheduled", "retry", "archived", "completed", "paused")


@app.command("list")
def list_queues(*, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """List all queues with their tasks by state. Sub-queues stand each for itself."""
    with open_server(server, api_key) as api:
        queues = api.get("/api/cli/queues")["queues"]
    show_json(queues) if as_json else show_rows(queues, _COLUMNS, nothing="There are no queues yet.")


@app.command()
def redeploy(
    queue: Annotated[str, typer.Argument(help="The queue.", metavar="QUEUE")],
    *,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Let the workers of a queue take the newest commit. Each does so between two tasks."""
    with open_server(server, api_key) as api:
        answer = api.post(f"/api/cli/queues/{quote(queue, safe='')}/redeploy", b"")
    typer.echo(f"{answer['queue']}: {_takers(answer['workers'])} the newest commit")


def _takers(workers: list[str] | None) -> str:
    """Return who deploys a queue anew; None: the server could not ask Redis."""
    match workers:
        case None:
            return "its workers take"
        case []:
            return "no worker serves it now; the next one to start takes"
        case [_]:
            return "1 worker takes"
    return f"{len(workers)} workers take"
