"""The commands `runqy task`: enqueue, read, list, run, cancel and delete tasks."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_queues, complete_states
from runqy.cli.errors import ExitCode
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.formats.json_decoding import describe_error

if TYPE_CHECKING:
    from runqy.cli.client import Client

app = new_group(
    "Enqueue and manage tasks, and read their results.",
    examples="""
    runqy task enqueue -q mail -p '{"to": "ada"}' --wait 30
    runqy task list mail --state archived
    """,
)

Wait = Annotated[float, typer.Option("--wait", "-w", min=0, help="Seconds to wait for the result.")]

Queue = Annotated[
    str,
    typer.Argument(
        help="Name of the queue or of one of its sub-queues.", metavar="QUEUE", autocompletion=complete_queues
    ),
]
Ids = Annotated[list[str], typer.Argument(help="Ids of the tasks.", metavar="ID...")]

_COLUMNS = {
    "pending": ("id", "enqueued_at"),
    "scheduled": ("id", "next_process_at"),
    "active": ("id", "started_at", "worker_id"),
    "retry": ("id", "retried", "next_process_at", "last_err"),
    "archived": ("id", "retried", "last_err"),
    "completed": ("id", "completed_at", "result"),
}
"""The columns of a list, by state."""
_FINAL_STATES = ("completed", "archived")
_REQUEST_WAIT_S = 30
_RECONNECT_S = 1.0
_MEMBERS = (
    *("id", "queue", "state", "progress", "retried", "max_retry"),
    *("next_process_at", "completed_at", "last_err", "result"),
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
    wait: Wait = 0,
) -> None:
    """Enqueue a task."""
    body: dict[str, Any] = {"queue": queue, "data": _read_json(payload)}
    for option, text in (("timeout", timeout), ("delay", delay)):
        if text:
            body[option] = int(text) if text.isdecimal() else text
    info = session.api.post("/queue/add", msgspec.json.encode(body))["info"]
    _show(session, _await(session.api, info["id"], wait) if wait else info)


@command(app, "get", examples="runqy task get 6a3c --wait 30\nrunqy task get 6a3c -o json")
def get(
    session: Session,
    task_id: Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")],
    wait: Wait = 0,
) -> None:
    """Show a task, with its result if it has one."""
    _show(session, _await(session.api, task_id, wait))


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


@command(app, "logs", examples="runqy task logs mail 6a3c --follow\nrunqy task logs mail 6a3c --attempt 1")
def show_logs(
    session: Session,
    queue: Queue,
    task_id: Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")],
    *,
    attempt: Annotated[
        int | None, typer.Option("--attempt", "-a", min=1, help="By default the last one that printed anything.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the task has ended.")] = False,
) -> None:
    """Show what a task printed."""
    path = f"/api/cli/queues/{quote(queue, safe='')}/tasks/{quote(task_id, safe='')}/logs"
    query: dict[str, int] = {} if attempt is None else {"attempt": attempt}
    if follow:
        _follow_logs(session.api, path, query)
        return
    logs = session.api.get(path, **query)
    if session.out.is_document:
        session.out.document(logs)
        return
    _print_log_notes(logs)
    typer.echo(logs["text"], nl=False)


@command(app, "run", examples="runqy task run 6a3c 77f0")
def run_tasks(session: Session, ids: Ids) -> None:
    """Run tasks now. Scheduled and retry tasks run at once, completed and archived ones again."""
    for task_id in ids:
        _print_outcome(session, session.api.post(f"{_path(session.api, task_id)}/run", b""))


@command(app, "cancel", examples="runqy task cancel 6a3c 77f0")
def cancel_tasks(session: Session, ids: Ids) -> None:
    """Cancel tasks. Waiting tasks are archived at once; active tasks are stopped by their workers."""
    for task_id in ids:
        _print_outcome(session, session.api.delete(f"/api/cli/tasks/{quote(task_id, safe='')}"))


@command(app, "delete", examples="runqy task delete 6a3c 77f0")
def delete_tasks(session: Session, ids: Ids) -> None:
    """Delete tasks that are not active, with their results."""
    for task_id in ids:
        _print_outcome(session, session.api.delete(_path(session.api, task_id)))


def _follow_logs(api: "Client", path: str, query: dict[str, int]) -> None:
    """Print what a task prints until it has ended. Exit with TASK_FAILED if it is archived."""
    last_id, attempt = "", 0
    while True:
        for event in api.stream(path, follow="true", last_id=last_id, **query):
            last_id = event.id or last_id
            if event.name == "output":
                if attempt != event.data["attempt"] or event.data["truncated"]:
                    _print_log_notes(event.data)
                attempt = event.data["attempt"]
                typer.echo(event.data["text"], nl=False)
                sys.stdout.flush()
            elif event.name == "gone":
                typer.echo("runqy: The task was deleted.", err=True)
                return
            elif event.name == "end":
                raise typer.Exit(ExitCode.TASK_FAILED if event.data["state"] == "archived" else 0)
        time.sleep(_RECONNECT_S)


def _print_log_notes(logs: dict[str, Any]) -> None:
    if logs["attempt"] > 1:
        typer.echo(f"runqy: Attempt {logs['attempt']}.", err=True)
    if logs["truncated"]:
        typer.echo("runqy: The beginning is missing: only the last 64 KiB are kept.", err=True)
    if logs["shared"]:
        typer.echo("runqy: Other tasks ran in the same process; some of the output may be theirs.", err=True)


def _await(api: "Client", task_id: str, wait_s: float) -> dict[str, Any]:
    """Return a task when it has ended, or after `wait_s`."""
    deadline = time.monotonic() + wait_s
    path = f"/queue/{quote(task_id, safe='')}"
    while True:
        left_s = max(0, round(deadline - time.monotonic()))
        slice_s = min(left_s, _REQUEST_WAIT_S)
        response = api.get(path, timeout_s=slice_s + 30.0, **({"wait": slice_s} if slice_s else {}))
        info: dict[str, Any] = response["info"]
        if info["state"] in _FINAL_STATES or not left_s:
            return info


def _show(session: Session, info: dict[str, Any]) -> None:
    """Print a task. Exit with TASK_FAILED if it is archived."""
    progress = info.get("progress")
    shown = info if session.out.is_document or not progress else info | {"progress": _format_progress(progress)}
    session.out.item(shown, _MEMBERS)
    if info["state"] == "archived":
        raise typer.Exit(ExitCode.TASK_FAILED)


def _format_progress(progress: dict[str, Any]) -> str:
    """Return text such as "3 of 10, 30 %: message"."""
    current, total, message = progress["current"], progress.get("total"), progress.get("message")
    amount = f"{current} of {total}, {min(current / total, 1):.0%}" if total else f"{current}"
    return f"{amount}: {message}" if message else amount


def _read_json(payload: str) -> msgspec.Raw:
    """Return the payload byte for byte. Raise BadParameter if it is not JSON."""
    raw = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    try:
        return msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise typer.BadParameter(
            f"the payload is not JSON: {describe_error(error, raw)}", param_hint="--payload"
        ) from error


def _path(api: "Client", task_id: str) -> str:
    """Return the path of a task's actions. It contains the task's queue, which is read from the server."""
    task = quote(task_id, safe="")
    queue = api.get(f"/queue/{task}")["info"]["queue"]
    return f"/api/cli/queues/{quote(queue, safe='')}/tasks/{task}"


def _print_outcome(session: Session, response: dict[str, Any]) -> None:
    task_id = response["task_id"]
    session.out.result(response, f"{task_id}: {response['message']}", name=task_id)
