"""The commands `runqy runs` and `runqy errors`."""

from typing import Annotated, Any

import typer

from runqy.cli.client import Client
from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_client
from runqy.cli.output import print_json, print_rows

_RUN_COLUMNS = ("task_id", "queue", "outcome", "attempt", "ended_at", "run_ms", "error")
_ERROR_COLUMNS = ("fingerprint", "queue", "count", "last_seen", "error")
_PAGE = 1000

Queue = Annotated[str, typer.Option("--queue", "-q", help="Only of this queue, or one of its sub-queues.")]
Since = Annotated[str, typer.Option("--from", help="Only from this time on: 2026-01-31T12:00:00Z.")]
Until = Annotated[str, typer.Option("--to", help="Only before this time.")]


def list_runs(  # noqa: PLR0913 (each is an option of the command)
    *,
    queue: Queue = "",
    outcome: Annotated[
        str, typer.Option(help="completed, retried, failed, canceled, timed_out, expired, lost; several with commas.")
    ] = "",
    worker: Annotated[str, typer.Option(help="Only of this worker.")] = "",
    commit: Annotated[str, typer.Option(help="Only of this commit.")] = "",
    fingerprint: Annotated[str, typer.Option(help="Only with this error, from `runqy errors`.")] = "",
    task: Annotated[str, typer.Option(help="Only of this task.")] = "",
    text: Annotated[str, typer.Option(help="Only those whose payload or error contains these words.")] = "",
    since: Since = "",
    until: Until = "",
    order: Annotated[str, typer.Option(help="newest, oldest or slowest.")] = "newest",
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="Maximum number of runs.")] = 50,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: ListJson = False,
) -> None:
    """List runs: the attempts of tasks that ended, and how."""
    parameters = {"queue": queue, "outcome": outcome, "worker": worker, "commit": commit, "order": order}
    parameters |= {"fingerprint": fingerprint, "task_id": task, "text": text, "from": since, "to": until}
    with open_client(server, api_key) as api:
        runs, has_more = _read_pages(api, {name: value for name, value in parameters.items() if value}, limit)
    if as_json:
        print_json(runs)
        return
    print_rows([run | {"error": _error(run)} for run in runs], _RUN_COLUMNS, empty_message="No runs.")
    if has_more:
        typer.echo(f"runqy: Showing the first {len(runs)} runs. Use --limit to show more.", err=True)


def list_errors(  # noqa: PLR0913 (each is an option of the command)
    *,
    queue: Queue = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="Maximum number of groups.")] = 30,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: ListJson = False,
) -> None:
    """List the errors of runs in groups, the most frequent first."""
    parameters = {"queue": queue, "from": since, "to": until}
    with open_client(server, api_key) as api:
        given: dict[str, Any] = {name: value for name, value in parameters.items() if value}
        found = api.get("/api/errors", **given, limit=limit)
    errors = found["errors"]
    if as_json:
        print_json(errors)
        return
    print_rows([error | {"error": _error(error)} for error in errors], _ERROR_COLUMNS, empty_message="No errors.")
    if found.get("is_partial"):
        typer.echo("runqy: only the newest failures are counted; use --from for a shorter period", err=True)


def _read_pages(api: Client, parameters: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Read pages until there are `limit` runs; return them, and whether there are more."""
    runs: list[dict[str, Any]] = []
    page = api.get("/api/runs", **parameters, limit=min(limit, _PAGE))
    while True:
        runs += page["runs"]
        if len(runs) >= limit or not page["next"]:
            return runs[:limit], bool(page["next"]) or len(runs) > limit
        page = api.get(page["next"])


def _error(row: dict[str, Any]) -> str:
    return ": ".join(filter(None, (row["error_class"], row["error_message"])))
