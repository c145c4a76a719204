"""The command `runqy worker`."""

import typer

from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_client
from runqy.cli.output import print_rows

app = typer.Typer(no_args_is_help=True, help="List workers.")

_COLUMNS = ("worker_id", "queue", "state", "commit", "disconnected_since", "reason")


@app.command("list")
def list_workers(*, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """List the workers that sent a heartbeat in the last minute."""
    with open_client(server, api_key) as api:
        workers = api.get("/api/cli/workers")["workers"]
    print_rows(
        workers,
        _COLUMNS,
        empty_message="No worker sent a heartbeat in the last minute.",
        as_json=as_json,
        add_columns=lambda worker: {"commit": (worker["commit"] or "")[:12]},
    )
