"""The command about workers."""

import typer

from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_server
from runqy.cli.tables import show_json, show_rows

app = typer.Typer(no_args_is_help=True, help="See what workers do.")

_COLUMNS = ("worker_id", "queue", "state", "commit", "is_stale", "reason")


@app.command("list")
def list_workers(*, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """List the workers heard of in the last minute. With the commit that each runs."""
    with open_server(server, api_key) as api:
        workers = api.get("/api/cli/workers")["workers"]
    if as_json:
        show_json(workers)
        return
    shown = [worker | {"commit": (worker["commit"] or "")[:12]} for worker in workers]
    show_rows(shown, _COLUMNS, nothing="No worker was heard of in the last minute.")
