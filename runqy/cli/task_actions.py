"""The commands `runqy task run`, `cancel`, `archive` and `delete`: for ids, or for all tasks that match a filter.

The server's maintenance applies an action by filter, as a bulk action of the admin.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import typer

from runqy.cli.commands import Session
from runqy.cli.completion import complete_queues, complete_states
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.output import Listing
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.progress import show_progress
from runqy.cli.prompts import Force, confirm
from runqy.cli.task_ids import find_path
from runqy.core.formats import durations

_PATH = "/api/bulk-actions"
_BULK_ACTIONS = Listing(
    columns=("id", "action", "state", "filter", "expected", "done", "skipped", "failed", "created_at"),
    wide=("started_at", "ended_at", "full_queue", "error"),
    empty="There are no bulk actions.",
)
_OPEN_STATES = ("waiting", "running")
_POLL_S = 0.5
_PATIENCE_S = 15
_DONE = {"run": "made pending", "cancel": "cancelled", "archive": "archived", "delete": "deleted"}

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of tasks; or options that select tasks.", metavar="[ID]...")]
Queue = Annotated[
    str,
    typer.Option(
        "--queue",
        "-q",
        metavar="QUEUE",
        help="Only tasks of this queue or sub-queue; with ids: theirs.",
        autocompletion=complete_queues,
    ),
]
State = Annotated[
    str,
    typer.Option(
        "--state",
        metavar="STATE",
        help="Only tasks in this state. Without it: tasks that ended.",
        autocompletion=complete_states,
    ),
]
OlderThan = Annotated[
    str,
    typer.Option(
        "--older-than", metavar="DURATION", help="Only tasks that have been in the state for longer, such as 90m."
    ),
]
Text = Annotated[
    str, typer.Option("--text", metavar="WORDS", help="Only tasks whose payload or error contains these words.")
]
Outcome = Annotated[
    str,
    typer.Option(
        "--outcome",
        metavar="OUTCOME,…",
        help="Only tasks that ended so: completed, failed, canceled, timed_out, expired, lost.",
    ),
]
Fingerprint = Annotated[
    str,
    typer.Option(
        "--fingerprint", "--error", metavar="FINGERPRINT", help="Only tasks with this error, from `runqy errors`."
    ),
]
Worker = Annotated[str, typer.Option("--worker", metavar="WORKER", help="Only tasks that this worker ran.")]
Commit = Annotated[str, typer.Option("--commit", metavar="COMMIT", help="Only tasks that this commit ran.")]
Since = Annotated[str, typer.Option("--from", metavar="TIME", help="Only tasks that ended at this time or later.")]
Until = Annotated[
    str, typer.Option("--to", metavar="TIME", help="Only tasks that ended, or entered the state, before this time.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the tasks.")]


def make_command(action: str, description: str) -> Callable[..., None]:
    """Return the function of a command: an action on tasks."""

    def act(  # noqa: PLR0913 (each is an option of the command)
        session: Session,
        ids: Ids = None,
        *,
        queue: Queue = "",
        state: State = "",
        older_than: OlderThan = "",
        text: Text = "",
        outcome: Outcome = "",
        fingerprint: Fingerprint = "",
        worker: Worker = "",
        commit: Commit = "",
        since: Since = "",
        until: Until = "",
        dry_run: DryRun = False,
        force: Force = False,
    ) -> None:
        given = {"queue": queue, "state": state, "text": text, "fingerprint": fingerprint}
        given |= {"worker": worker, "commit": commit, "from": since, "to": until}
        body: dict[str, Any] = {name: value for name, value in given.items() if value}
        body |= {"outcomes": outcome.split(",")} if outcome else {}
        if older_than:
            if until:
                raise CliError("--older-than and --to are mutually exclusive.", ExitCode.USAGE)
            body["to"] = _time_before(older_than)
        if ids:
            # A cancellation goes by the id alone.
            if dry_run or body.keys() - ({"queue"} if action != "cancel" else set()):
                raise CliError("Give ids of tasks, or options that select tasks, not both.", ExitCode.USAGE)
            _apply_to_ids(session, action, ids, queue)
        elif not body:
            message = "Give ids of tasks, or options that select them, such as --queue and --state."
            raise CliError(message, ExitCode.USAGE)
        else:
            _apply_to_matching(session, action, body, dry_run=dry_run, force=force)

    act.__name__, act.__doc__ = f"{action}_tasks", description
    return act


def list_bulk_actions(session: Session, *, limit: Limit = 50, cursor: Cursor = "") -> None:
    """List actions on all tasks that match a filter, newest first, with how far they are.

    They are those of run, cancel, archive and delete with options, and of the admin.
    """
    found = read_pages(session.api, _PATH, "bulk_actions", limit=limit, cursor=cursor)
    session.out.listing(_BULK_ACTIONS, found.items)
    print_rest(found)


def _apply_to_ids(session: Session, action: str, ids: Sequence[str], queue: str) -> None:
    api = session.api
    for task_id in ids:
        match action:
            case "cancel":
                response = api.delete(f"/api/cli/tasks/{quote(task_id, safe='')}")
            case "delete":
                response = api.delete(find_path(api, task_id, queue))
            case _:
                response = api.post(f"{find_path(api, task_id, queue)}/{action}")
        session.out.result(response, f"{task_id}: {response['message']}", name=task_id)


def _apply_to_matching(session: Session, action: str, body: dict[str, Any], *, dry_run: bool, force: bool) -> None:
    body = {"action": action, **body}
    found = session.api.post(f"{_PATH}?dry_run=true", body)
    count = f"{found['matched']:,}{'' if found['is_exact'] else ' or more'}"
    noun = "task" if found["matched"] == 1 and found["is_exact"] else "tasks"
    if dry_run:
        session.out.result(found, f"{count} {noun}")
        return
    if not found["matched"] and found["is_exact"]:
        session.out.result(found, "No task matches.")
        return
    confirm(f"{action.capitalize()} {count} {_describe(body, noun)}?", force=force)
    bulk = session.api.post(_PATH, body)
    try:
        bulk = _follow(session, bulk)
    except KeyboardInterrupt:
        bulk = session.api.post(f"{_PATH}/{bulk['id']}/cancel")
        session.out.note(f"Interrupted. {bulk['done']:,} tasks were {_DONE[action]} and stay so; the others were not.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _print_bulk(session, bulk)


def _follow(session: Session, bulk: dict[str, Any]) -> dict[str, Any]:
    """Return a bulk action once it has ended. Show its progress."""
    started, notes = time.monotonic(), set[str]()

    def note(message: str) -> None:
        if message not in notes:
            notes.add(message)
            progress.print(f"runqy: {message}")

    with show_progress(f"{bulk['action']} tasks", total=bulk["expected"]) as progress:
        while bulk["state"] in _OPEN_STATES:
            if bulk["state"] == "waiting" and time.monotonic() - started > _PATIENCE_S:
                note("Waiting for the server's maintenance, which applies it. Ctrl-C cancels it.")
            if bulk["full_queue"]:
                note(f"Waiting until the queue {bulk['full_queue']} has room. Ctrl-C cancels it.")
            time.sleep(_POLL_S)
            try:
                bulk = session.api.get(f"{_PATH}/{bulk['id']}")
            except ServerError as error:
                if not error.is_temporary:
                    raise
                note(f"{error} Trying again.")
            progress.set(bulk["done"] + bulk["skipped"] + bulk["failed"])
    return bulk


def _print_bulk(session: Session, bulk: dict[str, Any]) -> None:
    """Print what became of a bulk action. Exit with FAILED if it was not applied to all of its tasks."""
    done = bulk["done"]
    text = f"{done:,} {'task' if done == 1 else 'tasks'} {_DONE[bulk['action']]}"
    session.out.result(bulk, text, name=str(bulk["id"]))
    if bulk["skipped"]:
        session.out.note(f"{bulk['skipped']:,} skipped: they had changed meanwhile.")
    for problem in [each for each in bulk["problems"] if each["outcome"] == "failed"]:
        session.out.note(f"{problem['id']}: {problem['reason']}")
    if bulk["state"] != "finished":
        raise CliError(bulk["error"] or f"The bulk action was {bulk['state']}.")
    if bulk["failed"]:
        raise CliError(f"{bulk['failed']:,} tasks failed.")


def _describe(body: dict[str, Any], noun: str) -> str:
    """Return which tasks a filter selects, such as "archived tasks of mail"."""
    kind = f"{body.get('state') or 'ended'} {noun}"
    return f"{kind} of {body['queue']}" if "queue" in body else f"{kind} of all queues"


def _time_before(duration: str) -> str:
    """Return the time that was `duration` ago. Raise CliError."""
    try:
        seconds = durations.parse_s(duration)
        return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    except (ValueError, OverflowError) as error:
        raise CliError(f"--older-than: {error}.", ExitCode.USAGE) from error
