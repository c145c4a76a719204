"""The commands `runqy batch`: list, show, create, add to, close, cancel, wait for and watch batches."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_queues
from runqy.cli.enqueue_many import find_line_error
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.following import await_end, follow
from runqy.cli.output import Listing
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.progress import show_progress
from runqy.cli.prompts import Force, confirm
from runqy.cli.queue_files import note_warnings

app = new_group(
    "Run many tasks with one callback.",
    examples="""
    runqy batch create -q mail letters.ndjson --name letters --callback done --close
    runqy batch watch 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11
    """,
)

_SHOWN_ERRORS = 1000
_PART = 10_000
"""How many jobs a request may have."""
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
    jobs = _read_jobs(file, queue) if file else _Jobs()
    body: dict[str, Any] = {"name": name}
    if callback:
        body |= {"callback": {"queue": callback, "payload": msgspec.Raw(callback_payload.encode())}, "on": on}
    lines = jobs.lines
    if len(lines) <= _PART:  # one request, which is all or nothing
        body |= {"close": close} | ({"queue": queue, "jobs": [line for _, line in lines]} if lines else {})
    created = session.api.post("/batches", msgspec.json.encode(body))
    note_warnings(session, created)
    if len(lines) > _PART:
        created = _add(session, created["id"], queue, jobs)
        created = session.api.post(f"{_path(created['id'])}/close", b"{}") if close else created
    else:
        _report_errors(created, jobs, lines)
    failed = f", failed: {jobs.failed:,}" if jobs.failed else ""
    session.out.result(created, f"{created['id']} created; members: {created['total']:,}{failed}", name=created["id"])
    if jobs.failed:
        raise typer.Exit(ExitCode.FAILED)


@command(app, "add", examples="runqy batch add 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11 -q mail more.ndjson")
def add(session: Session, batch: Batch, file: File, *, queue: Queue) -> None:
    """Add the tasks of a file to a batch that is not closed."""
    jobs = _read_jobs(file or Path("-"), queue)
    added = _add(session, batch, queue, jobs)
    failed = f", {jobs.failed:,} failed" if jobs.failed else ""
    session.out.result(added, f"{batch}: {added['total']:,} members{failed}", name=batch)
    if jobs.failed:
        raise typer.Exit(ExitCode.FAILED)


@command(app, "close", examples="runqy batch close 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11")
def close_batch(session: Session, batch: Batch) -> None:
    """Close a batch: nothing can be added, and it ends when its members have."""
    session.out.result(session.api.post(f"{_path(batch)}/close", b"{}"), f"{batch} closed", name=batch)


@command(app, "cancel", examples="runqy batch cancel 4f0c2f0e-5a0c-4d1c-9b52-3c9f5a1f9a11 --force")
def cancel(session: Session, batch: Batch, *, force: Force = False) -> None:
    """Close a batch and cancel its members that have not ended."""
    confirm(f"Cancel the tasks of batch {batch}?", force=force)
    canceled = session.api.post(f"{_path(batch)}/cancel", b"{}")
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
        found = await_end(session, _path(batch), timeout, has_ended=lambda found: bool(found["ended_at"]), limit=1)
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
        for event in follow(session, f"{_path(batch)}/events"):
            if session.out.is_document:
                typer.echo(msgspec.json.encode({"event": event.name, **event.data}))
                sys.stdout.flush()
            if event.name == "gone":
                session.out.note("The batch was deleted.")
                raise typer.Exit
            text = _describe_counts(event.data)
            bar.set(_ended(event.data) / max(event.data["total"], 1), text)
            if not (session.out.is_document or bar.is_shown):
                typer.echo(text)
                sys.stdout.flush()
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


def _path(batch: str) -> str:
    return f"/batches/{quote(batch, safe='')}"


def _state(batch: dict[str, Any]) -> str:
    if not batch["ended_at"]:
        return "being cancelled" if batch["canceled"] else "running" if batch["closed"] else "open"
    counts = batch["counts"]
    if counts["completed"] == batch["total"]:
        return "completed"
    return "cancelled" if counts["completed"] + counts["canceled"] == batch["total"] else "failed"


@dataclass(slots=True)
class _Jobs:
    """The lines of a file, and how many of them are no members."""

    source: str = ""
    lines: list[tuple[int, msgspec.Raw]] = field(default_factory=list)
    failed: int = 0


def _read_jobs(file: Path, queue: str) -> _Jobs:
    """Return the lines of a file that are JSON. Raise CliError without a queue, or for a file that cannot be read."""
    if not queue:
        raise CliError("--queue is required with FILE.", ExitCode.USAGE)
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}.", ExitCode.USAGE) from error
    jobs = _Jobs(source=str(file))
    for number, raw in enumerate(content.splitlines(), 1):
        if line := raw.strip():
            if reason := find_line_error(line):
                _refuse(jobs, number, reason)
            else:
                jobs.lines.append((number, msgspec.Raw(line)))
    if jobs.failed and not jobs.lines:
        raise typer.Exit(ExitCode.FAILED)
    return jobs


def _add(session: Session, batch: str, queue: str, jobs: _Jobs) -> dict[str, Any]:
    added: dict[str, Any] = {}
    for start in range(0, len(jobs.lines), _PART):
        part = jobs.lines[start : start + _PART]
        body = msgspec.json.encode({"queue": queue, "jobs": [line for _, line in part]})
        added = session.api.post(f"{_path(batch)}/add", body)
        if not start:
            note_warnings(session, added)
        _report_errors(added, jobs, part)
    return added


def _report_errors(added: dict[str, Any], jobs: _Jobs, lines: Sequence[tuple[int, msgspec.Raw]]) -> None:
    for (number, _), error in zip(lines, added.pop("errors", ()), strict=False):
        if error:
            _refuse(jobs, number, error)


def _refuse(jobs: _Jobs, number: int, reason: str) -> None:
    jobs.failed += 1
    if jobs.failed <= _SHOWN_ERRORS:
        typer.echo(f"{jobs.source}:{number}: {reason}", err=True)
