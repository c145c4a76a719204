"""The commands `runqy queue`: list queues, redeploy their workers, release scheduled tasks."""

from typing import Annotated
from urllib.parse import quote

import typer

from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_client
from runqy.cli.output import print_rows

app = typer.Typer(no_args_is_help=True, help="List queues, redeploy workers, release scheduled tasks.")

_COLUMNS = (
    *("queue", "pending", "active", "scheduled", "retry", "archived", "completed", "paused"),
    *("workers_ready", "workers_not_ready"),
)


@app.command("list")
def list_queues(*, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """List all queues with their tasks and workers.

    Each sub-queue has a line of its own.
    """
    with open_client(server, api_key) as api:
        queues = api.get("/api/cli/queues")["queues"]
    print_rows(
        queues,
        _COLUMNS,
        empty_message="There are no queues yet.",
        as_json=as_json,
        add_columns=lambda queue: {f"workers_{state}": count for state, count in queue["worker_processes"].items()},
    )


@app.command()
def redeploy(
    queue: Annotated[str, typer.Argument(help="Name of the queue.", metavar="QUEUE")],
    *,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Redeploy the workers of a queue with the newest commit. Each does so between two tasks."""
    with open_client(server, api_key) as api:
        response = api.post(f"/api/cli/queues/{quote(queue, safe='')}/redeploy", b"")
    typer.echo(f"{response['queue']}: {_describe_workers(response['workers'])}")


@app.command("release-scheduled")
def release_scheduled(
    queues: Annotated[list[str] | None, typer.Argument(help="By default all queues.", metavar="[QUEUE]...")] = None,
    *,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Move scheduled tasks to retry, for the Go system.

    It runs tasks from there. They stay due at the same time.
    """
    with open_client(server, api_key) as api:
        for queue in queues or [each["queue"] for each in api.get("/api/cli/queues")["queues"]]:
            path, count = f"/api/cli/queues/{quote(queue, safe='')}/tasks/release?state=scheduled", 0
            # Each request releases a limited number of tasks.
            while affected := api.post(path, b"")["affected"]:
                count += affected
            typer.echo(f"{queue}: {count} tasks released")


def _describe_workers(workers: list[str] | None) -> str:
    """Return which workers redeploy a queue. `workers` is None if the server could not read them from Redis."""
    match workers:
        case None:
            return "its workers deploy the newest commit"
        case []:
            return "no worker serves it; the next worker that starts deploys the newest commit"
        case [_]:
            return "1 worker deploys the newest commit"
    return f"{len(workers)} workers deploy the newest commit"
