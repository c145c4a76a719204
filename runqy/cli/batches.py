"""The commands `runqy batch`: list, show, create, add to, close, cancel, wait for and watch batches."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_queues
from runqy.cli.enqueue_many import open_lines
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.output import Listing, echo
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.progress import show_progress
from runqy.cli.prompts import Force, confirm
from runqy.cli.queue_files import note_warnings
from runqy.cli.values import clean, encode_json

if TYPE_CHECKING:
    from runqy.cli.line_sending import BatchSender

app = new_group(
    "Run many tasks with one callback.",
    examples="""
    runqy batch create -q mail letters.ndjson --name letters --callback done --close
    runqy batch watch 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11
    """,
)

Batch = Annotated[str, typer.Argument(help="Id of the batch.", metavar="BATCH")]
File = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A payload in JSON on each line; - reads standard input.", allow_dash=True),
]
Queue = Annotated[
    str, typer.Option("--queue", "-q", help="Queue of the members in FILE.", autocompletion=complete_queues)
]
_BATCHES = Listing(
    columns=("id", "name", "state", "ended", "failed", "total", "callback_state"),
    wide=("on", "queues", "created_by", "created_at", "ended_at"),
    name="id",
    empty="There are no batches.",
    add_columns=lambda batch: {
        "state": _state(batch),
        "ended": _ended(batch),
        "failed": _ended(batch) - batch["counts"]["completed"],
        "callback_state": batch["callback"]["state"],
    },
)
_BATCH = (
    *("id", "name", "closed", "canceled", "total", "counts", "queues", "on", "callback", "created_by", "created_at"),
    "ended_at",
)
_MEMBERS = Listing(columns=("task_id", "queue", "state", "reason"), name="task_id", empty="It has no such members.")


@command(app, "list", examples="runqy batch list\nrunqy batch list -o wide")
def list_batches(session: Session, *, limit: Limit = 50, cursor: Cursor = "") -> None:
    """List batches, the newest first."""
    found = read_pages(session.api, "/batches", "batches", limit=limit, cursor=cursor)
    session.out.listing(_BATCHES, found.items)
    print_rest(found)


@command(app, "show", examples="runqy batch show 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11")
def show(session: Session, batch: Batch) -> None:
    """Show a batch: how many members are in which state, and its callback."""
    _print(session, session.api.get(_path(batch), limit=1))


@command(app, "members", examples="runqy batch members 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11 --state archived -o name")
def list_members(
    session: Session,
    batch: Batch,
    *,
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="Only in this state.")] = "all",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> None:
    """List members of a batch, in the order in which they were added."""
    found = read_pages(session.api, _path(batch), "members", limit=limit, cursor=cursor, state=state)
    session.out.listing(_MEMBERS, found.items)
    print_rest(found)


@command(
    app,
    "create",
    examples="""
    runqy batch create -q mail letters.ndjson --callback reports --close
    runqy batch create --name import --callback reports --callback-payload '{"to": "ada"}' --on failed
    """,
)
def create(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    file: File = None,
    *,
    queue: Queue = "",
    name: Annotated[str, typer.Option("--name", help="Name of the batch.")] = "",
    callback: Annotated[
        str, typer.Option("--callback", help="Queue of the callback.", autocompletion=complete_queues)
    ] = "",
    callback_payload: Annotated[
        str, typer.Option("--callback-payload", help="Payload of the callback, a JSON object.")
    ] = "{}",
    on: Annotated[str, typer.Option("--on", help="When to call back: ended, succeeded or failed.")] = "ended",
    close: Annotated[bool, typer.Option("--close", help="Close it: nothing is added later.")] = False,
) -> None:
    """Create a batch, with the tasks of a file if there is one."""
    body: dict[str, Any] = {"name": name}
    if callback:
        body |= {"callback": {"queue": callback, "payload": msgspec.Raw(callback_payload.encode())}, "on": on}
    failed = 0
    if file:
        sender = _send_lines(session, file, queue, creation=body)
        created, failed = sender.last, sender.counts["failed"]
        if not sender.batch:
            raise CliError("No job is valid, and no batch was created.")
        if close:
            created = sender.close()
    else:
        created = session.api.post("/batches", body | ({"close": True} if close else {}))
        note_warnings(session, created)
    text = f"{created['id']} created; members: {created['total']:,}" + (f", failed: {failed:,}" if failed else "")
    session.out.result(created, text, name=created["id"])
    if failed:
        raise typer.Exit(ExitCode.FAILED)


@command(app, "add", examples="runqy batch add 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11 -q mail more.ndjson")
def add(session: Session, batch: Batch, file: File, *, queue: Queue) -> None:
    """Add the tasks of a file to a batch that is not closed."""
    sender = _send_lines(session, file or Path("-"), queue, batch=batch)
    added, count = sender.last or session.api.get(_path(batch), limit=1), sender.counts["failed"]
    failed = f", {count:,} failed" if count else ""
    session.out.result(added, f"{batch}: {added['total']:,} members{failed}", name=batch)
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _send_lines(session: Session, file: Path, queue: str, **members: Any) -> "BatchSender":
    """Add the lines of a file to a batch, or to a new one. Raise CliError."""
    from runqy.cli.line_sending import BatchSender  # noqa: PLC0415 (the SDK is slow to import, and --help does not need it)

    if not queue:
        raise CliError("--queue is required with FILE.", ExitCode.USAGE)
    sender = BatchSender(session, queue, str(file), **members)
    with open_lines(file) as stream:
        sender.send_all(sender.read(stream))
    return sender


@command(app, "close", examples="runqy batch close 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11")
def close_batch(session: Session, batch: Batch) -> None:
    """Close a batch: nothing can be added, and it ends when its members have."""
    session.out.result(session.api.post(f"{_path(batch)}/close", {}), f"{batch} closed", name=batch)


@command(app, "cancel", examples="runqy batch cancel 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11 --force")
def cancel(session: Session, batch: Batch, *, force: Force = False) -> None:
    """Close a batch and cancel its members that have not ended."""
    confirm(f"Cancel the tasks of batch {batch}?", force=force)
    canceled = session.api.post(f"{_path(batch)}/cancel", {})
    text = "is being cancelled" if canceled["canceled"] else "has ended already"
    session.out.result(canceled, f"{batch} {text}", name=batch)


@command(
    app,
    "wait",
    examples="""
    runqy batch wait 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11
    runqy batch wait 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11 --timeout 600
    """,
)
def wait(
    session: Session,
    batch: Batch,
    *,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, help="Seconds to wait at most. Default: no limit.")
    ] = None,
) -> None:
    """Wait until a batch has ended.

    Prints its counts. Exits with 7 if a member is not completed, with 8 if it has not ended in time.
    """
    try:
        found = session.api.await_end(
            _path(batch), timeout, session.out.note, has_ended=lambda found: bool(found["ended_at"]), limit=1
        )
    except KeyboardInterrupt:
        session.out.note("Interrupted; the batch continues.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _print(session, found)
    if not found["ended_at"]:
        session.out.note("The batch has not ended in time.")
        raise typer.Exit(ExitCode.TIMED_OUT)
    raise typer.Exit(_exit_code(found))


@command(
    app,
    "watch",
    examples="""
    runqy batch watch 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11
    runqy batch watch 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11 -o json
    """,
)
def watch(session: Session, batch: Batch) -> None:
    """Show the progress of a batch until it has ended.

    A bar on a terminal, else a line whenever the counts change. With -o json each line is an object. Exits with 7 if a
    member is not completed.
    """
    with show_progress("", total=1) as bar:
        for event in session.follow(f"{_path(batch)}/events"):
            if session.out.is_document:
                echo(encode_json({"event": event.name, **event.data}))
            if event.name == "gone":
                session.out.note("The batch was deleted.")
                raise typer.Exit
            text = _describe_counts(event.data)
            bar.set(_ended(event.data) / max(event.data["total"], 1), text)
            if not (session.out.is_document or bar.is_shown):
                echo(clean(text))
            if event.name == "end":
                break
    if not session.out.is_document and bar.is_shown:
        _print(session, event.data)
    raise typer.Exit(_exit_code(event.data))


def _ended(batch: dict[str, Any]) -> int:
    ended: int = batch["total"] - batch["counts"]["waiting"] - batch["counts"]["enqueued"]
    return ended


def _describe_counts(batch: dict[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {state}" for state, count in batch["counts"].items() if count)
    return f"{_ended(batch):,} of {batch['total']:,} ended" + (f": {counts}" if counts else "")


def _exit_code(batch: dict[str, Any]) -> int:
    return 0 if batch["counts"]["completed"] == batch["total"] else ExitCode.TASK_FAILED


def _print(session: Session, batch: dict[str, Any]) -> None:
    shown = {name: value for name, value in batch.items() if name not in ("members", "next")}
    if not session.out.is_document:
        callback = batch["callback"]
        named = [f"{name} {callback[name]}" for name in ("queue", "task_id", "reason") if callback[name]]
        shown |= {
            "counts": ", ".join(f"{count:,} {state}" for state, count in batch["counts"].items() if count),
            "queues": ", ".join(batch["queues"]),
            "callback": ", ".join([callback["state"], *named]),
        }
    session.out.item(shown, _BATCH)


def _state(batch: dict[str, Any]) -> str:
    if not batch["ended_at"]:
        return "being cancelled" if batch["canceled"] else "running" if batch["closed"] else "open"
    counts = batch["counts"]
    if counts["completed"] == batch["total"]:
        return "completed"
    return "cancelled" if counts["completed"] + counts["canceled"] == batch["total"] else "failed"


def _path(batch: str) -> str:
    return f"/batches/{quote(batch, safe='')}"
