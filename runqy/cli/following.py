"""Follow tasks and batches until they have ended; the commands `runqy task wait`, `events`, `stream` and `logs`.

A server that restarts, or a connection that is lost, does not end them.
"""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runqy.cli.commands import Session
from runqy.cli.errors import ExitCode
from runqy.cli.output import echo
from runqy.cli.task_ids import OfQueue, TaskId, find_path, result_path
from runqy.cli.values import clean, encode_json, format_value, parse_duration

if TYPE_CHECKING:
    from runqy_sdk.client.models import Event

FINAL_STATES = ("completed", "archived")
WAIT_EXAMPLES = """
    runqy task wait 6a3c
    runqy task wait 6a3c 77f0 --timeout 10m
    """
EVENTS_EXAMPLES = """
    runqy task events 6a3c
    runqy task events 6a3c -o json
    """
STREAM_EXAMPLES = """
    runqy task stream 6a3c
    runqy task stream 6a3c > story.txt
    """
LOGS_EXAMPLES = """
    runqy task logs 6a3c --follow
    runqy task logs 6a3c --attempt 1
    """
_NOTED_EVENTS = ("reset", "gap", "end", "gone")
_ENDED_MEMBERS = ("id", "queue", "state", "last_err", "result")


def wait_for_tasks(
    session: Session,
    ids: Annotated[list[str], typer.Argument(help="Ids of the tasks.", metavar="ID...")],
    *,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            "-t",
            metavar="DURATION",
            parser=parse_duration,
            help="How long to wait at most: seconds, or a duration such as 5m. Default: no limit.",
        ),
    ] = None,
) -> None:
    """Wait until tasks have ended.

    Prints each task with its result. Exits with 7 if one was archived, with 8 if one has not ended in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    tasks: list[dict[str, Any]] = []
    try:
        for task_id in ids:
            left_s = None if deadline is None else max(0, deadline - time.monotonic())
            tasks.append(await_task(session, task_id, left_s))
            if len(ids) > 1 and not session.out.is_document:
                session.out.rows(tasks[-1:], _ENDED_MEMBERS, empty="")
    except KeyboardInterrupt:
        session.out.note(f"Interrupted; {len(ids) - len(tasks)} of {len(ids)} tasks may not have ended.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if len(ids) == 1:
        session.out.item(tasks[0], _ENDED_MEMBERS)
    elif session.out.is_document:
        session.out.document(tasks)
    states = [task["state"] for task in tasks]
    if unfinished := sum(state not in FINAL_STATES for state in states):
        session.out.note(f"{unfinished} of {len(ids)} tasks have not ended in time.")
        raise typer.Exit(ExitCode.TIMED_OUT)
    raise typer.Exit(ExitCode.TASK_FAILED if "archived" in states else 0)


def await_task(session: Session, task_id: str, wait_s: float | None) -> dict[str, Any]:
    """Return a task when it has ended, or after `wait_s`. Raise ServerError."""
    found = session.api.await_end(result_path(task_id), wait_s, session.out.note, has_ended=_has_ended)
    info: dict[str, Any] = found["info"]
    return info


def _has_ended(response: dict[str, Any]) -> bool:
    return response["info"]["state"] in FINAL_STATES


def show_events(session: Session, task: TaskId) -> None:
    """Show the states of a task as they change.

    A line for each state, report of progress and chunk, until the task has ended. With -o json each line is an object.
    Exits with 7 if the task was archived.
    """
    for event in session.follow(f"{result_path(task)}/events"):
        data = event.data.get("info", event.data)
        if session.out.is_document:
            echo(encode_json({"event": event.name, **data}))
        elif event.name == "progress":
            _print_line("progress", format_progress(data["progress"]))
        elif event.name == "state":
            attempts = data["attempts"]
            _print_line(data["state"], f"attempt {attempts}" if attempts else "")
        elif event.name == "chunk":
            _print_line("chunk", encode_json(data["chunk"]))
        elif event.name == "reset":
            _print_line("reset", f"run {data['run']}")
        elif event.name == "gap":
            _print_line("gap", f"{data['dropped']} dropped")
        elif event.name == "end":
            text = data["last_err"] if data["state"] == "archived" else format_value(data["result"])
            _print_line("end", data["state"], format_value(text))
        _exit_at_end(session, event, data)


def show_stream(session: Session, task: TaskId) -> None:
    """Print what a task streams, as it comes.

    Texts are printed as they are, other chunks as a line of JSON each; with -o json all of them. If the task runs
    again, what it streams then follows, after a note. Exits with 7 if the task was archived.
    """
    last = "\n"
    for event in session.follow(f"{result_path(task)}/events"):
        data = event.data.get("info", event.data)
        if event.name == "chunk":
            last = _print_chunk(data["chunk"], is_document=session.out.is_document)
        elif event.name in _NOTED_EVENTS and not last.endswith("\n") and sys.stdout.isatty():
            last = _print_text("\n")  # the note, or the prompt, begins a line
        if event.name == "reset":
            session.out.note("The task runs again: what was printed so far is of an earlier run.")
        elif event.name == "gap":
            session.out.note(f"{data['dropped']} chunks are missing: Redis was full.")
        elif event.name == "end" and data["state"] == "archived":
            session.out.note(format_value(data["last_err"]))
        _exit_at_end(session, event, data)


def show_logs(
    session: Session,
    task: TaskId,
    *,
    queue: OfQueue = "",
    attempt: Annotated[
        int | None, typer.Option("--attempt", "-a", min=1, help="By default the last one that printed anything.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the task has ended.")] = False,
) -> None:
    """Show what a task printed."""
    path = f"{find_path(session.api, task, queue)}/logs"
    query: dict[str, int] = {} if attempt is None else {"attempt": attempt}
    if follow:
        _follow_logs(session, path, query)
        return
    logs = session.api.get(path, **query)
    if session.out.is_document:
        session.out.document(logs)
        return
    _print_log_notes(session, logs)
    _print_output(logs["text"])


def format_progress(progress: dict[str, Any]) -> str:
    """Return text such as "3 of 10, 30%: message"."""
    current, total, message = progress["current"], progress.get("total"), progress.get("message")
    amount = f"{current} of {total}, {min(current / total, 1):.0%}" if total else f"{current}"
    return f"{amount}: {message}" if message else amount


def _follow_logs(session: Session, path: str, query: dict[str, int]) -> None:
    """Print what a task prints until it has ended. Exit with TASK_FAILED if it is archived."""
    attempt = 0
    for event in session.follow(path, follow="true", **query):
        if event.name == "output":
            if attempt != event.data["attempt"] or event.data["truncated"]:
                _print_log_notes(session, event.data)
            attempt = event.data["attempt"]
            _print_output(event.data["text"])
        _exit_at_end(session, event, event.data)


def _print_chunk(value: object, *, is_document: bool) -> str:
    """Print a chunk, and return what was printed."""
    if isinstance(value, str) and not is_document:
        return _print_text(value)
    return _print_text(f"{encode_json(value)}\n")


def _print_text(text: str) -> str:
    if sys.stdout.isatty():
        echo(_one_way(text), nl=False)
    else:  # a file gets what the task streamed
        sys.stdout.buffer.write(text.encode())
        sys.stdout.flush()
    return text


def _print_output(text: str) -> None:
    """Print what a task printed, with its colours, and reset these."""
    lines = _one_way(text)
    echo(f"{lines}\x1b[0m" if "\x1b[" in lines else lines, nl=False)


def _one_way(text: str) -> str:
    """Return a text that does not go back to the beginning of a line: a progress bar becomes a line for each state."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _exit_at_end(session: Session, event: "Event", data: dict[str, Any]) -> None:
    if event.name == "gone":
        session.out.note("The task was deleted.")
        raise typer.Exit
    if event.name == "end":
        raise typer.Exit(ExitCode.TASK_FAILED if data["state"] == "archived" else 0)


def _print_line(*columns: str) -> None:
    """Print what happened now. A person sees the time, a program only what happened."""
    if sys.stdout.isatty():
        echo("  ".join((time.strftime("%H:%M:%S"), *map(clean, filter(None, columns)))))
    else:
        echo("\t".join(map(clean, columns)))


def _print_log_notes(session: Session, logs: dict[str, Any]) -> None:
    if logs["attempt"] > 1:
        session.out.note(f"Attempt {logs['attempt']}.")
    if logs["truncated"]:
        session.out.note("The beginning is missing: only the last 64 KiB are kept.")
    if logs["shared"]:
        session.out.note("Other tasks ran in the same process; some of the output may be theirs.")
