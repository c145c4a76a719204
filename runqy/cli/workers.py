"""The commands `runqy worker`: list, show, watch, drain, restart and stop workers."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_queues, complete_workers
from runqy.cli.output import Listing
from runqy.cli.watching import Interval, watch
from runqy.core.formats.names import spellings_of

app = new_group(
    "List, show, watch, drain, restart and stop workers.",
    examples="runqy worker list\nrunqy worker watch\nrunqy worker drain host:1234:ab12cd",
)

Queue = Annotated[
    str,
    typer.Option(
        "--queue", "-q", help="Only those that serve this queue or sub-queue.", autocompletion=complete_queues
    ),
]

Workers = Annotated[
    list[str], typer.Argument(help="Ids of workers.", metavar="WORKER...", autocompletion=complete_workers)
]

_MEMBERS = (
    *("worker_id", "queue", "state", "reason", "disconnected_since", "is_stale", "started_at", "last_beat"),
    *("last_take_at", "redis_queues", "concurrency", "processes", "commit"),
    *("commit_subject", "commit_author", "committed_at", "version", "host", "pid", "is_foreign"),
    *("running", "held"),
)


def _add_columns(worker: dict[str, Any]) -> dict[str, Any]:
    """Add what a table has room for, and times in the form that the rest of the API has."""
    is_lost = worker["state"] == "lost"
    tasks = f"{len(worker['held'])} held" if is_lost else f"{len(worker['running'])}/{worker['concurrency']}"
    times = {name: _as_text(worker[name]) for name in ("started_at", "last_beat")}
    return {"commit": (worker["commit"] or "")[:12], "tasks": tasks, **times}


def _as_text(time_s: int) -> str | None:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time_s else None


_LISTING = Listing(
    columns=("worker_id", "queue", "state", "tasks", "last_beat", "commit", "reason"),
    wide=("host", "pid", "version", "started_at", "last_take_at", "redis_queues"),
    empty="No worker sent a heartbeat in the last minute, and none was lost in the last day.",
    add_columns=_add_columns,
)


@command(app, "list", examples="runqy worker list\nrunqy worker list -q mail -o wide")
def list_workers(session: Session, *, queue: Queue = "") -> None:
    """List the workers, then those lost in the last day."""
    session.out.listing(_LISTING, _read(session, queue))


@command(app, "show", examples="runqy worker show host:1234:ab12cd")
def show_worker(
    session: Session,
    worker: Annotated[str, typer.Argument(help="Id of the worker.", metavar="WORKER", autocompletion=complete_workers)],
) -> None:
    """Show a worker and its tasks; of a lost one what became of them."""
    found = session.api.get(f"/api/cli/workers/{quote(worker, safe='')}")
    shown = found if session.out.is_document else found | _add_columns(found) | {"commit": found["commit"]}
    session.out.item(shown, _MEMBERS)


def _request(session: Session, workers: list[str], action: str, done: str) -> None:
    for worker in workers:
        response = session.api.post(f"/api/cli/workers/{quote(worker, safe='')}/{action}")
        others = [other for other in response["workers"] if other != worker]
        text = f"{worker}: {done}" if response["is_connected"] else f"{worker}: {done} once it can reach Redis again"
        also = f" (its process also has {', '.join(others)})" if others else ""
        session.out.result(response, f"{text}{also}", name=worker)


@command(app, "drain", examples="runqy worker drain host:1234:ab12cd")
def drain(session: Session, workers: Workers) -> None:
    """Drain workers.

    They take no more tasks, let those that run end, however long they take, and exit.
    """
    _request(session, workers, "drain", "drains, and exits when its tasks have ended")


@command(app, "restart", examples="runqy worker restart host:1234:ab12cd")
def restart(session: Session, workers: Workers) -> None:
    """Restart the children of workers, each between two tasks.

    Their code and environment stay the same.
    """
    _request(session, workers, "restart", "restarts its children, each between two tasks")


@command(app, "stop", examples="runqy worker stop host:1234:ab12cd")
def stop(session: Session, workers: Workers) -> None:
    """Stop workers.

    Tasks that run for longer than the worker's `shutdown_timeout` go back to their queues, and spend no retry.
    """
    _request(session, workers, "stop", "stops within its shutdown_timeout")


@command(app, "watch", examples="runqy worker watch\nrunqy worker watch -q mail --interval 5")
def watch_workers(session: Session, *, queue: Queue = "", interval: Interval = 2) -> None:
    """Show the workers again and again until Ctrl-C. In a pipe, print a line for each that changes."""
    watch(session, _LISTING, lambda: _read(session, queue), interval_s=interval)


def _read(session: Session, queue: str) -> list[dict[str, Any]]:
    found = session.api.get("/api/cli/workers")
    workers: list[dict[str, Any]] = found["workers"] + found["lost"]
    return [each for each in workers if not queue or queue in _queue_names(each)]


def _queue_names(worker: dict[str, Any]) -> set[str]:
    name = worker["queue"]
    return {name}.union(*(spellings_of(redis_queue, name) for redis_queue in worker["redis_queues"]))
