"""The commands `runqy task`: enqueue, read, list, run, cancel and delete tasks."""

import sys
import time
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.client import Client, ExitCode
from runqy.cli.options import ApiKey, JsonOutput, ListJson, ServerUrl, Wait, open_client
from runqy.cli.output import print_json, print_rows
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.formats.json_decoding import describe_error

app = typer.Typer(no_args_is_help=True, help="Enqueue and manage tasks, and read their results.")

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


@app.command()
def enqueue(  # noqa: PLR0913 (each is an option of the command)
    *,
    queue: Annotated[str, typer.Option("--queue", "-q", help="Name of the queue or of one of its sub-queues.")],
    payload: Annotated[str, typer.Option("--payload", "-p", help="Payload as JSON; - reads standard input.")] = "{}",
    timeout: Annotated[
        str, typer.Option("--timeout", "-t", help="Time limit of one run: seconds, or a duration such as 5m.")
    ] = "",
    delay: Annotated[
        str, typer.Option(help="Delay before the task is processed: seconds, or a duration such as 1h30m.")
    ] = "",
    wait: Wait = 0,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: JsonOutput = False,
) -> None:
    """Enqueue a task."""
    body: dict[str, Any] = {"queue": queue, "data": _read_json(payload)}
    for option, text in (("timeout", timeout), ("delay", delay)):
        if text:
            body[option] = int(text) if text.isdecimal() else text
    with open_client(server, api_key) as api:
        info = api.post("/queue/add", msgspec.json.encode(body))["info"]
        _show(_await(api, info["id"], wait) if wait else info, as_json=as_json)


@app.command()
def get(
    task_id: Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")],
    wait: Wait = 0,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: JsonOutput = False,
) -> None:
    """Show a task, with its result if it has one."""
    with open_client(server, api_key) as api:
        _show(_await(api, task_id, wait), as_json=as_json)


@app.command("list")
def list_tasks(  # noqa: PLR0913 (each is an option of the command)
    queue: Annotated[str, typer.Argument(help="Name of the queue or of one of its sub-queues.", metavar="QUEUE")],
    *,
    state: Annotated[
        str, typer.Option("--state", help="pending, scheduled, active, retry, archived or completed.")
    ] = "pending",
    limit: Limit = 50,
    cursor: Cursor = "",
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: ListJson = False,
) -> None:
    """List the tasks of a queue in one state."""
    path = f"/api/cli/queues/{quote(queue, safe='')}"
    with open_client(server, api_key) as api:
        tasks = read_pages(api, f"{path}/tasks", "tasks", limit=limit, cursor=cursor, state=state)
        columns = _COLUMNS.get(state, ("id",))
        print_rows(tasks.items, columns, empty_message=f"{queue} has no {state} tasks.", as_json=as_json)
        print_rest(tasks, lambda: api.get(path)[state])


@app.command("logs")
def show_logs(  # noqa: PLR0913 (each is an option of the command)
    queue: Annotated[str, typer.Argument(help="The queue, or one of its sub-queues.", metavar="QUEUE")],
    task_id: Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")],
    *,
    attempt: Annotated[
        int | None, typer.Option("--attempt", "-a", min=1, help="By default the last one that printed anything.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the task has ended.")] = False,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: JsonOutput = False,
) -> None:
    """Show what a task printed."""
    path = f"/api/cli/queues/{quote(queue, safe='')}/tasks/{quote(task_id, safe='')}/logs"
    query: dict[str, int] = {} if attempt is None else {"attempt": attempt}
    with open_client(server, api_key) as api:
        if follow:
            _follow_logs(api, path, query)
            return
        logs = api.get(path, **query)
    if as_json:
        print_json(logs)
        return
    _print_log_notes(logs)
    typer.echo(logs["text"], nl=False)


@app.command("run")
def run_tasks(ids: Ids, *, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Run tasks now. Scheduled and retry tasks run at once, completed and archived ones again."""
    with open_client(server, api_key) as api:
        for task_id in ids:
            _print_outcome(api.post(f"{_path(api, task_id)}/run", b""))


@app.command("cancel")
def cancel_tasks(ids: Ids, *, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Cancel tasks. Waiting tasks are archived at once; active tasks are stopped by their workers."""
    with open_client(server, api_key) as api:
        for task_id in ids:
            _print_outcome(api.delete(f"/api/cli/tasks/{quote(task_id, safe='')}"))


@app.command("delete")
def delete_tasks(ids: Ids, *, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Delete tasks that are not active, with their results."""
    with open_client(server, api_key) as api:
        for task_id in ids:
            _print_outcome(api.delete(_path(api, task_id)))


def _follow_logs(api: Client, path: str, query: dict[str, int]) -> None:
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


def _await(api: Client, task_id: str, wait_s: float) -> dict[str, Any]:
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


def _show(info: dict[str, Any], *, as_json: bool) -> None:
    """Print a task. Exit with TASK_FAILED if it is archived."""
    if as_json:
        print_json(info)
    else:
        for name in _MEMBERS:
            if info.get(name) not in (None, ""):
                text = _format_progress(info[name]) if name == "progress" else _format(info[name])
                typer.echo(f"{name + ':':17}{text}")
    if info["state"] == "archived":
        raise typer.Exit(ExitCode.TASK_FAILED)


def _format_progress(progress: dict[str, Any]) -> str:
    """Return text such as "3 of 10, 30 %: message"."""
    current, total, message = progress["current"], progress.get("total"), progress.get("message")
    amount = f"{current} of {total}, {min(current / total, 1):.0%}" if total else f"{current}"
    return f"{amount}: {message}" if message else amount


def _format(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _read_json(payload: str) -> msgspec.Raw:
    """Return the payload byte for byte. Raise BadParameter if it is not JSON."""
    raw = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    try:
        return msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise typer.BadParameter(
            f"the payload is not JSON: {describe_error(error, raw)}", param_hint="--payload"
        ) from error


def _path(api: Client, task_id: str) -> str:
    """Return the path of a task's actions. It contains the task's queue, which is read from the server."""
    task = quote(task_id, safe="")
    queue = api.get(f"/queue/{task}")["info"]["queue"]
    return f"/api/cli/queues/{quote(queue, safe='')}/tasks/{task}"


def _print_outcome(response: dict[str, Any]) -> None:
    typer.echo(f"{response['task_id']}: {response['message']}")
