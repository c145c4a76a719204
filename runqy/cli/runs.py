"""The commands `runqy runs` and `runqy errors`."""

from typing import Annotated, Any

import typer

from runqy.cli.commands import Session
from runqy.cli.completion import complete_queues, complete_workers
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages

RUN_EXAMPLES = "runqy runs --outcome failed,lost\nrunqy runs -q mail --order slowest -l 10"
ERROR_EXAMPLES = "runqy errors\nrunqy errors -q mail --from 2026-01-31T12:00:00Z"

_RUN_COLUMNS = ("task_id", "queue", "outcome", "attempt", "ended_at", "run_ms", "error")
_RUN_WIDE = ("worker_id", "commit", "started_at", "wait_ms")
_GROUPS_MAX = 1000
"""The maximum number of groups that the server returns."""
_ERROR_COLUMNS = ("fingerprint", "queue", "count", "last_seen", "error")
_ERROR_WIDE = ("first_seen", "new_since_release")

Queue = Annotated[
    str,
    typer.Option("--queue", "-q", help="Only of this queue, or one of its sub-queues.", autocompletion=complete_queues),
]
Since = Annotated[str, typer.Option("--from", help="Only from this time on: 2026-01-31T12:00:00Z.")]
Until = Annotated[str, typer.Option("--to", help="Only before this time.")]


def list_runs(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    *,
    queue: Queue = "",
    outcome: Annotated[
        str, typer.Option(help="completed, retried, failed, canceled, timed_out, expired, lost; several with commas.")
    ] = "",
    worker: Annotated[str, typer.Option(help="Only of this worker.", autocompletion=complete_workers)] = "",
    commit: Annotated[str, typer.Option(help="Only of this commit.")] = "",
    fingerprint: Annotated[str, typer.Option(help="Only with this error, from `runqy errors`.")] = "",
    task: Annotated[str, typer.Option(help="Only of this task.")] = "",
    text: Annotated[str, typer.Option(help="Only those whose payload or error contains these words.")] = "",
    since: Since = "",
    until: Until = "",
    order: Annotated[str, typer.Option(help="newest, oldest or slowest.")] = "newest",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> None:
    """List runs: the attempts of tasks that ended, and how."""
    parameters = {"queue": queue, "outcome": outcome, "worker": worker, "commit": commit, "order": order}
    parameters |= {"fingerprint": fingerprint, "task_id": task, "text": text, "from": since, "to": until}
    given: dict[str, str] = {name: value for name, value in parameters.items() if value}
    runs = read_pages(session.api, "/api/runs", "runs", limit=limit, cursor=cursor, **given)
    session.out.rows(runs.items, _RUN_COLUMNS, empty="No runs.", wide=_RUN_WIDE, add_columns=_error_column)
    print_rest(runs)


def list_errors(
    session: Session,
    *,
    queue: Queue = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 30,
) -> None:
    """List the errors of runs in groups, the most frequent first."""
    parameters = {"queue": queue, "from": since, "to": until}
    given: dict[str, Any] = {name: value for name, value in parameters.items() if value}
    found = session.api.get("/api/errors", **given, limit=limit + 1)
    errors = found["errors"][:limit]
    session.out.rows(errors, _ERROR_COLUMNS, empty="No errors.", wide=_ERROR_WIDE, add_columns=_error_column)
    if len(found["errors"]) > min(limit, _GROUPS_MAX - 1):
        session.out.note(f"Showing the {len(errors)} most frequent. Use --limit, or --from, to see others.")
    if found.get("is_partial"):
        session.out.note("Only the newest failures are counted. Use --from for a shorter period.")


def _error_column(row: dict[str, Any]) -> dict[str, str]:
    return {"error": ": ".join(filter(None, (row["error_class"], row["error_message"])))}
