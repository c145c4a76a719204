"""The commands `runqy worker`: list, show and watch workers."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_queues, complete_workers
from runqy.cli.output import Listing
from runqy.cli.watching import Interval, watch

app = new_group(
    "List, show and watch workers.",
    examples="runqy worker list\nrunqy worker watch\nrunqy worker show host:1234:ab12cd",
)

Queue = Annotated[
    str,
    typer.Option(
        "--queue", "-q", help="Only those that serve this queue or sub-queue.", autocompletion=complete_queues
    ),
]

_MEMBERS = (
    *("worker_id", "queue", "state", "reason", "disconnected_since", "is_stale", "started_at", "last_beat"),
    *("last_take_at", "redis_queues", "concurrency", "processes", "commit", "version", "host", "pid", "is_foreign"),
    "running",
)


def _add_columns(worker: dict[str, Any]) -> dict[str, Any]:
    """Add what a table has room for, and times in the form that the rest of the API has."""
    tasks = f"{len(worker['running'])}/{worker['concurrency']}"
    times = {name: _as_text(worker[name]) for name in ("started_at", "last_beat")}
    return {"commit": (worker["commit"] or "")[:12], "tasks": tasks, **times}


def _as_text(time_s: int) -> str | None:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time_s else None


_LISTING = Listing(
    columns=("worker_id", "queue", "state", "tasks", "last_beat", "commit", "reason"),
    wide=("host", "pid", "version", "started_at", "last_take_at", "redis_queues"),
    empty="No worker sent a heartbeat in the last minute.",
    add_columns=_add_columns,
)


@command(app, "list", examples="runqy worker list\nrunqy worker list -q mail -o wide")
def list_workers(session: Session, *, queue: Queue = "") -> None:
    """List the workers that sent a heartbeat in the last minute."""
    session.out.listing(_LISTING, _read(session, queue))


@command(app, "show", examples="runqy worker show host:1234:ab12cd", aliases=("info",))
def show_worker(
    session: Session,
    worker: Annotated[str, typer.Argument(help="Id of the worker.", metavar="WORKER", autocompletion=complete_workers)],
) -> None:
    """Show a worker and the tasks that it runs."""
    found = session.api.get(f"/api/cli/workers/{quote(worker, safe='')}")
    shown = found if session.out.is_document else found | _add_columns(found) | {"commit": found["commit"]}
    session.out.item(shown, _MEMBERS)


@command(app, "watch", examples="runqy worker watch\nrunqy worker watch -q mail --interval 5")
def watch_workers(session: Session, *, queue: Queue = "", interval: Interval = 2) -> None:
    """Show the workers again and again until Ctrl-C. In a pipe, print a line for each that changes."""
    watch(session, _LISTING, lambda: _read(session, queue), interval_s=interval)


def _read(session: Session, queue: str) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = session.api.get("/api/cli/workers")["workers"]
    return [each for each in workers if not queue or queue == each["queue"] or queue in each["redis_queues"]]
