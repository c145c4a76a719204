"""The commands about tasks that are there: list them, run, cancel or delete them."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from runqy.cli.connection import Server
from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_server
from runqy.cli.tables import show_json, show_rows
from runqy.cli.tasks import app

__all__ = ["app"]

Ids = Annotated[list[str], typer.Argument(help="Ids of tasks.", metavar="ID...")]

_COLUMNS = {
    "pending": ("id", "enqueued_at"),
    "scheduled": ("id", "next_process_at"),
    "active": ("id", "started_at", "worker_id"),
    "retry": ("id", "retried", "next_process_at", "last_err"),
    "archived": ("id", "retried", "last_err"),
    "completed": ("id", "completed_at", "result"),
}
"""What matters about a task in each state."""


@app.command("list")
def list_tasks(  # noqa: PLR0913 (each is an option of the command)
    queue: Annotated[str, typer.Argument(help="The queue, or one of its sub-queues.", metavar="QUEUE")],
    *,
    state: Annotated[
        str, typer.Option("--state", help="pending, scheduled, active, retry, archived or completed.")
    ] = "pending",
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="How many at most.")] = 50,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: ListJson = False,
) -> None:
    """List the tasks of a queue that are in a state."""
    with open_server(server, api_key) as api:
        tasks, has_more = _read_pages(api, f"/api/cli/queues/{quote(queue, safe='')}/tasks", state, limit)
    if as_json:
        show_json(tasks)
        return
    show_rows(tasks, _COLUMNS.get(state, ("id",)), nothing=f"No task of {queue} is {state}.")
    if has_more:
        typer.echo(f"runqy: there are more; --limit {limit * 10} shows more of them", err=True)


@app.command("run")
def run_tasks(ids: Ids, *, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Make tasks pending now, or once more. Works before their time and when they are over."""
    with open_server(server, api_key) as api:
        for task_id in ids:
            _tell(api.post(f"{_path(api, task_id)}/run", b""))


@app.command("cancel")
def cancel_tasks(ids: Ids, *, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Cancel tasks. Those that wait are archived at once, those that run are stopped by their workers."""
    with open_server(server, api_key) as api:
        for task_id in ids:
            _tell(api.delete(f"/api/cli/tasks/{quote(task_id, safe='')}"))


@app.command("delete")
def delete_tasks(ids: Ids, *, server: ServerUrl = "", api_key: ApiKey = "") -> None:
    """Delete tasks that do not run. All that is kept about them goes too."""
    with open_server(server, api_key) as api:
        for task_id in ids:
            _tell(api.delete(_path(api, task_id)))


def _read_pages(api: Server, path: str, state: str, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return tasks, page by page until there are enough, and whether there are more."""
    tasks: list[dict[str, Any]] = []
    page = api.get(path, state=state, limit=limit)
    while True:
        tasks += page["tasks"]
        if len(tasks) >= limit or not page["next"]:
            return tasks[:limit], bool(page["next"]) or len(tasks) > limit
        page = api.get(page["next"])


def _path(api: Server, task_id: str) -> str:
    """Return where a task is handled, which its queue is part of."""
    task = quote(task_id, safe="")
    queue = api.get(f"/queue/{task}")["info"]["queue"]
    return f"/api/cli/queues/{quote(queue, safe='')}/tasks/{task}"


def _tell(answer: dict[str, Any]) -> None:
    """Print what was done to a task."""
    typer.echo(f"{answer['task_id']}: {answer['message']}")
