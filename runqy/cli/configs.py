"""The commands `runqy config`: reload queue files, remove queues."""

from typing import Annotated
from urllib.parse import quote

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_configs
from runqy.cli.errors import ExitCode, ServerError
from runqy.cli.prompts import Force, confirm

app = new_group("Reload queue files, remove queues.", examples="runqy config reload\nrunqy config remove mail")

_OUTCOMES = ("added", "updated", "unchanged", "missing")


@command(app, "reload", examples="runqy config reload")
def reload(session: Session) -> None:
    """Reload the server's queue files, and list their queues."""
    report = session.api.post("/api/cli/configs/reload", b"")
    found = sorted((queue, outcome) for outcome in _OUTCOMES for queue in report[outcome])
    rows = [{"queue": queue, "outcome": outcome} for queue, outcome in found]
    session.out.rows(rows, ("queue", "outcome"), empty="No file has a queue.")
    for error in report["errors"]:
        session.out.note(error)
    if report["errors"]:
        raise typer.Exit(ExitCode.FAILED)


@command(app, "remove", examples="runqy config remove mail\nrunqy config remove mail --force --ignore-missing")
def remove(
    session: Session,
    queue: Annotated[str, typer.Argument(help="Name of the queue.", metavar="QUEUE", autocompletion=complete_configs)],
    *,
    force: Force = False,
    ignore_missing: Annotated[
        bool, typer.Option("--ignore-missing", help="Succeed if the queue does not exist.")
    ] = False,
) -> None:
    """Remove a queue and its tasks.

    Everything else in Redis that belongs to it is removed too.
    """
    confirm(f"Remove the queue {queue} and its tasks?", force=force)
    try:
        reply = session.api.delete(f"/api/cli/configs/{quote(queue, safe='')}?force=true")
    except ServerError as error:
        if not ignore_missing or error.code != "queue_not_found":
            raise
        typer.echo(f"{queue} does not exist")
        return
    text = reply["message"] if "being deleted" in reply.get("message", "") else f"{queue}: removed"
    session.out.result(reply, text, name=queue)
