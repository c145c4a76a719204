"""The commands `runqy queue`: list queues, redeploy their workers, release scheduled tasks."""

from typing import Annotated
from urllib.parse import quote

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_configs, complete_queues

app = new_group(
    "List queues, redeploy workers, release scheduled tasks.",
    examples="runqy queue list\nrunqy queue redeploy mail",
)

_COLUMNS = (
    *("queue", "pending", "active", "scheduled", "retry", "archived", "completed", "paused"),
    *("workers_ready", "workers_not_ready"),
)


@command(app, "list", examples="runqy queue list\nrunqy queue list -o name")
def list_queues(session: Session) -> None:
    """List all queues with their tasks and workers.

    Each sub-queue has a line of its own.
    """
    session.out.rows(
        session.api.get("/api/cli/queues")["queues"],
        _COLUMNS,
        empty="There are no queues yet.",
        add_columns=lambda queue: {f"workers_{state}": count for state, count in queue["worker_processes"].items()},
    )


@command(app, "redeploy", examples="runqy queue redeploy mail")
def redeploy(
    session: Session,
    queue: Annotated[str, typer.Argument(help="Name of the queue.", metavar="QUEUE", autocompletion=complete_configs)],
) -> None:
    """Redeploy the workers of a queue with the newest commit. Each does so between two tasks."""
    response = session.api.post(f"/api/cli/queues/{quote(queue, safe='')}/redeploy", b"")
    session.out.result(response, f"{response['queue']}: {_describe_workers(response['workers'])}", name=queue)


@command(app, "release-scheduled", examples="runqy queue release-scheduled\nrunqy queue release-scheduled mail")
def release_scheduled(
    session: Session,
    queues: Annotated[
        list[str] | None,
        typer.Argument(help="By default all queues.", metavar="[QUEUE]...", autocompletion=complete_queues),
    ] = None,
) -> None:
    """Move scheduled tasks to retry, for the Go system.

    It runs tasks from there. They stay due at the same time.
    """
    for queue in queues or [each["queue"] for each in session.api.get("/api/cli/queues")["queues"]]:
        path, count = f"/api/cli/queues/{quote(queue, safe='')}/tasks/release?state=scheduled", 0
        # Each request releases a limited number of tasks.
        while affected := session.api.post(path, b"")["affected"]:
            count += affected
        session.out.result({"queue": queue, "affected": count}, f"{queue}: {count} tasks released", name=queue)


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
