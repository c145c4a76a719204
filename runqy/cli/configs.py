"""The commands `runqy config`: list the definitions of queues, and reload the server's queue files."""

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.errors import ExitCode
from runqy.cli.queue_files import note_warnings

app = new_group(
    "List the definitions of queues; reload the server's queue files.",
    examples="runqy config list\nrunqy config reload",
)

_OUTCOMES = ("added", "updated", "unchanged", "missing")
_COLUMNS = ("kind", "name", "outcome")


@command(app, "list", examples="runqy config list\nrunqy config list -o wide")
def list_configs(session: Session) -> None:
    """List the definitions of queues.

    Each sub-queue has a line of its own.
    """
    session.out.rows(
        session.api.get("/api/cli/configs")["queues"],
        ("name", "priority"),
        wide=("mode", "order", "git_url", "branch", "is_enabled", "source", "updated_at"),
        empty="There are no queues yet.",
        add_columns=lambda queue: {name: queue["deployment"][name] for name in ("git_url", "branch")},
    )


@command(app, "reload", examples="runqy config reload")
def reload(session: Session) -> None:
    """Reload the server's queue files, and list what they have."""
    report = session.api.post("/api/cli/configs/reload")
    rows = [
        {"kind": kind, "name": name, "outcome": outcome}
        for kind, loaded in (("queue", report), ("schedule", report["schedules"]))
        for name, outcome in sorted((name, outcome) for outcome in _OUTCOMES for name in loaded[outcome])
    ]
    session.out.rows(rows, _COLUMNS, name="name", empty="The files are empty.")
    note_warnings(session, report)
    for error in report["errors"]:
        session.out.note(error)
    if report["errors"]:
        raise typer.Exit(ExitCode.FAILED)
