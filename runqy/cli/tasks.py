"""The commands `runqy task`: enqueue, read, list, follow, run, cancel, archive and delete tasks."""

import sys
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli import enqueue_many, following
from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_queues, complete_states
from runqy.cli.errors import ExitCode
from runqy.cli.following import await_task, format_progress
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.task_actions import list_bulk_actions, make_command
from runqy.cli.task_ids import OfQueue, TaskId, find_path
from runqy.cli.values import parse_duration, read_number
from runqy.core.formats.json_decoding import describe_error, read_json

app = new_group(
    "Enqueue and manage tasks, and read their results.",
    examples="""
    runqy task enqueue -q mail -p '{"to": "ada"}' --wait 30
    runqy task list mail --state archived
    """,
)

Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        "-w",
        metavar="DURATION",
        parser=parse_duration,
        help="How long to wait for the result: seconds, or a duration such as 5m.",
    ),
]

Queue = Annotated[
    str,
    typer.Argument(
        help="Name of the queue or of one of its sub-queues.", metavar="QUEUE", autocompletion=complete_queues
    ),
]

_COLUMNS = {
    "pending": ("id", "enqueued_at"),
    "scheduled": ("id", "next_process_at"),
    "active": ("id", "started_at", "worker_id"),
    "retry": ("id", "retried", "next_process_at", "last_err"),
    "archived": ("id", "retried", "last_err"),
    "completed": ("id", "completed_at", "result"),
}
"""The columns of a list, by state."""
_MEMBERS = (
    *("id", "queue", "state", "progress", "retried", "max_retry"),
    *("child_deaths", "shared_deaths", "next_process_at", "completed_at", "error_class", "last_err", "result"),
)


@command(
    app,
    "enqueue",
    examples="""
    runqy task enqueue -q mail -p '{"to": "ada"}'
    echo '{"to": "ada"}' | runqy task enqueue -q mail -p - --wait 30
    """,
)
def enqueue(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    *,
    queue: Annotated[
        str,
        typer.Option(
            "--queue", "-q", help="Name of the queue or of one of its sub-queues.", autocompletion=complete_queues
        ),
    ],
    payload: Annotated[str, typer.Option("--payload", "-p", help="Payload as JSON; - reads standard input.")] = "{}",
    timeout: Annotated[
        str, typer.Option("--timeout", "-t", help="Time limit of one run: seconds, or a duration such as 5m.")
    ] = "",
    delay: Annotated[
        str, typer.Option(help="Delay before the task is processed: seconds, or a duration such as 1h30m.")
    ] = "",
    process_at: Annotated[
        str, typer.Option("--at", help="Time at which it is processed, such as 2026-01-31T12:00:00Z.")
    ] = "",
    deadline: Annotated[str, typer.Option(help="Time after which it does not run.")] = "",
    max_retry: Annotated[int | None, typer.Option(min=0, help="How often it is retried.")] = None,
    retention: Annotated[
        str, typer.Option(help="How long the result is kept: seconds, or a duration such as 24h.")
    ] = "",
    unique_key: Annotated[str, typer.Option(help="No two unfinished tasks of a queue have the same key.")] = "",
    idempotency_key: Annotated[
        str, typer.Option(help="A repeated command with this key enqueues no second task for 24 hours.")
    ] = "",
    wait: Wait = 0,
) -> None:
    """Enqueue a task."""
    body: dict[str, Any] = {"queue": queue, "data": _read_json(payload)}
    for option, text in (("timeout", timeout), ("delay", delay), ("retention", retention)):
        if text:
            body[option] = read_number(text)
    given = {"process_at": process_at, "deadline": deadline, "unique_key": unique_key}
    body |= {name: value for name, value in given.items() if value}
    if max_retry is not None:
        body["max_retry"] = max_retry
    response = session.api.post("/queue/add", body, idempotency_key=idempotency_key)
    for warning in response.get("warnings") or ():
        session.out.note(warning)
    info = response["info"]
    _show(session, await_task(session, info["id"], wait) if wait else info)


command(app, "enqueue-batch", examples=enqueue_many.EXAMPLES)(enqueue_many.enqueue_tasks)


@command(app, "get", examples="runqy task get 6a3c --wait 30\nrunqy task get 6a3c -q mail -o json")
def get(session: Session, task: TaskId, *, queue: OfQueue = "", wait: Wait = 0) -> None:
    """Show a task, with its result if it has one.

    With --queue, and -o json or yaml, all details are shown.
    """
    by_id = wait or not queue
    _show(session, await_task(session, task, wait) if by_id else session.api.get(find_path(session.api, task, queue)))


@command(app, "list", examples="runqy task list mail --state archived\nrunqy task list mail -l 1000 -o name")
def list_tasks(
    session: Session,
    queue: Queue,
    *,
    state: Annotated[
        str,
        typer.Option(
            "--state",
            help="pending, scheduled, active, retry, archived or completed.",
            autocompletion=complete_states,
        ),
    ] = "pending",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> None:
    """List the tasks of a queue in one state."""
    path = f"/api/cli/queues/{quote(queue, safe='')}"
    tasks = read_pages(session.api, f"{path}/tasks", "tasks", limit=limit, cursor=cursor, state=state)
    session.out.rows(tasks.items, _COLUMNS.get(state, ("id",)), empty=f"{queue} has no {state} tasks.")
    print_rest(tasks, lambda: session.api.get(path)[state])


command(app, "wait", examples=following.WAIT_EXAMPLES)(following.wait_for_tasks)
command(app, "events", examples=following.EVENTS_EXAMPLES)(following.show_events)
command(app, "stream", examples=following.STREAM_EXAMPLES)(following.show_stream)
command(app, "logs", examples=following.LOGS_EXAMPLES)(following.show_logs)
command(
    app,
    "run",
    examples="""
    runqy task run 6a3c 77f0
    runqy task run --queue mail --state archived --dry-run
    runqy task run --outcome failed,lost --from 2026-01-31T12:00:00Z
    """,
)(
    make_command(
        "run",
        """Run tasks now.

        Scheduled and retry tasks run at once, completed and archived ones again. Without --state, the options select
        tasks that ended, from the history; those that Redis no longer has run again as new tasks with the same payload.
        """,
    )
)
command(
    app,
    "cancel",
    examples="""
    runqy task cancel 6a3c 77f0
    runqy task cancel --queue mail --state pending --older-than 2h
    """,
)(
    make_command(
        "cancel",
        """Cancel tasks.

        Waiting tasks are archived at once; active tasks are stopped by their workers.
        """,
    )
)
command(
    app,
    "archive",
    examples="""
    runqy task archive 6a3c
    runqy task archive --queue mail --state retry --text "connection refused"
    """,
)(
    make_command(
        "archive",
        """Archive tasks that have not started.

        They can be run later, until they expire.
        """,
    )
)
command(
    app,
    "delete",
    examples="""
    runqy task delete 6a3c 77f0
    runqy task delete --queue mail --state archived --older-than 48h --force
    """,
)(
    make_command(
        "delete",
        """Delete tasks that are not active.

        Their payloads and results are deleted too. Without --state, the options select tasks that ended, which are
        deleted from the history too.
        """,
    )
)


bulk = new_group("See actions on many tasks.", examples="runqy task bulk list")
app.add_typer(bulk, name="bulk")
command(bulk, "list", examples="runqy task bulk list\nrunqy task bulk list -o wide")(list_bulk_actions)


def _show(session: Session, info: dict[str, Any]) -> None:
    """Print a task. Exit with TASK_FAILED if it is archived."""
    progress = info.get("progress")
    shown = info if session.out.is_document or not progress else info | {"progress": format_progress(progress)}
    session.out.item(shown, _MEMBERS)
    if info["state"] == "archived":
        raise typer.Exit(ExitCode.TASK_FAILED)


def _read_json(payload: str) -> msgspec.Raw:
    """Return the payload byte for byte. Raise BadParameter if it is not JSON."""
    raw = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    try:
        return read_json(raw, msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise typer.BadParameter(
            f"the payload is not JSON: {describe_error(error, raw)}", param_hint="--payload"
        ) from error
