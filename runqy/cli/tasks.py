"""The commands about tasks: put one on a queue, look at one."""

import sys
import time
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.connection import Server
from runqy.cli.exits import Exit
from runqy.cli.options import ApiKey, JsonOutput, ServerUrl, Wait, open_server
from runqy.cli.tables import show_json

app = typer.Typer(no_args_is_help=True, help="Put tasks on queues, read their results, handle them.")

_FINAL_STATES = ("completed", "archived")
_ONE_WAIT_S = 30
_SHOWN = ("id", "queue", "state", "retried", "max_retry", "next_process_at", "completed_at", "last_err", "result")


@app.command()
def enqueue(  # noqa: PLR0913 (each is an option of the command)
    *,
    queue: Annotated[str, typer.Option("--queue", "-q", help="The queue, or one of its sub-queues.")],
    payload: Annotated[str, typer.Option("--payload", "-p", help="JSON; - reads it from standard input.")] = "{}",
    timeout: Annotated[int | None, typer.Option("--timeout", "-t", min=1, help="Seconds for one run.")] = None,
    delay: Annotated[str, typer.Option(help="When to run it: seconds from now, or a span such as 1h30m.")] = "",
    wait: Wait = 0,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: JsonOutput = False,
) -> None:
    """Put one task on a queue."""
    body: dict[str, Any] = {"queue": queue, "data": _read_json(payload)}
    if timeout is not None:
        body["timeout"] = timeout
    if delay:
        body["delay"] = int(delay) if delay.isdecimal() else delay
    with open_server(server, api_key) as api:
        info = api.post("/queue/add", msgspec.json.encode(body))["info"]
        _show(_await(api, info["id"], wait) if wait else info, as_json=as_json)


@app.command()
def get(
    task_id: Annotated[str, typer.Argument(help="The id that enqueue gave.", metavar="ID")],
    wait: Wait = 0,
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: JsonOutput = False,
) -> None:
    """Show a task, with its result when it has one."""
    with open_server(server, api_key) as api:
        _show(_await(api, task_id, wait), as_json=as_json)


def _await(api: Server, task_id: str, wait_s: float) -> dict[str, Any]:
    """Return a task once it has ended, or as it is when the time is over."""
    deadline = time.monotonic() + wait_s
    path = f"/queue/{quote(task_id, safe='')}"
    while True:
        left_s = max(0, round(deadline - time.monotonic()))
        slice_s = min(left_s, _ONE_WAIT_S)
        answer = api.get(path, timeout_s=slice_s + 30.0, **({"wait": slice_s} if slice_s else {}))
        info: dict[str, Any] = answer["info"]
        if info["state"] in _FINAL_STATES or not left_s:
            return info


def _show(info: dict[str, Any], *, as_json: bool) -> None:
    """Print a task; the exit status says whether it was archived."""
    if as_json:
        show_json(info)
    else:
        for name in _SHOWN:
            if info.get(name) not in (None, ""):
                typer.echo(f"{name + ':':17}{_spell(info[name])}")
    if info["state"] == "archived":
        raise typer.Exit(Exit.TASK_FAILED)


def _spell(value: object) -> str:
    """Write a value on one line, or a text as it is."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _read_json(payload: str) -> msgspec.Raw:
    """Return the payload with the bytes it was written in; a wrong one is a wrong command line."""
    raw = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    try:
        return msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise typer.BadParameter(f"the payload is not JSON: {error}", param_hint="--payload") from error
