"""The commands `runqy config` of the Go command line: list, create, check, reload and remove queues."""

from pathlib import Path
from typing import Annotated, Any

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_configs
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.prompts import Force
from runqy.cli.queue_files import list_items, note_warnings, read_files, send_files
from runqy.cli.queues import delete_queues, save_config

app = new_group(
    "List, create and remove queues; reload the server's queue files.",
    examples="""
    runqy config list
    runqy config reload
    runqy config remove mail
    """,
)

Folder = Annotated[
    Path, typer.Option("--dir", metavar="FOLDER", envvar="QUEUE_WORKERS_DIR", help="Folder with the queue files.")
]
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


@command(
    app,
    "create",
    examples="""
    runqy config create -f mail.yaml
    runqy config create --name mail --git-url https://github.com/example/mail.git --startup-cmd "python main.py"
    """,
)
def create(  # noqa: PLR0913 (each is an option of the Go command line)
    session: Session,
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="Queue file; its queues and schedules are created."),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the queue.")] = "",
    priority: Annotated[
        int, typer.Option("--priority", metavar="NUMBER", help="Priority among the queues of a worker.")
    ] = 1,
    git_url: Annotated[str, typer.Option("--git-url", metavar="URL", help="URL of the git repository.")] = "",
    branch: Annotated[str, typer.Option("--branch", metavar="BRANCH", help="Branch or tag.")] = "main",
    startup_cmd: Annotated[
        str, typer.Option("--startup-cmd", metavar="COMMAND", help="Command that starts the code.")
    ] = "",
    mode: Annotated[str, typer.Option("--mode", metavar="MODE", help="long_running or one_shot.")] = "long_running",
    code_path: Annotated[str, typer.Option("--code-path", metavar="FOLDER", help="Folder of the repository.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Update queues that exist.")] = False,
) -> None:
    """Create a queue from options, or queues from a file. See also `runqy queue apply`."""
    if file:
        _create_from_file(session, file, force=force)
        return
    missing = [
        option
        for option, value in (("--name", name), ("--git-url", git_url), ("--startup-cmd", startup_cmd))
        if not value
    ]
    if missing:
        raise CliError(f"Give --file, or {', '.join(missing)}.", ExitCode.USAGE)
    deployment: dict[str, Any] = {"git_url": git_url, "branch": branch, "startup_cmd": startup_cmd, "mode": mode}
    deployment |= {"code_path": code_path} if code_path else {}
    save_config(session, {"name": name, "priority": priority, "deployment": deployment}, force=force)


@command(app, "validate", examples="runqy config validate --dir queue_workers")
def validate(session: Session, *, folder: Folder = Path("queue_workers")) -> None:
    """Check queue files without saving them.

    The server reads them, and says which queues and schedules it would add and update.
    """
    plan = send_files(session, read_files([folder]), dry_run=True)
    rows = [item for item in list_items(plan) if item["outcome"] != "kept"]
    session.out.rows(rows, _COLUMNS, name="name", empty="The files are empty.")
    note_warnings(session, plan)


@command(app, "reload", examples="runqy config reload")
def reload(
    session: Session,
    *,
    folder: Annotated[
        Path | None, typer.Option("--dir", hidden=True, help="Of the Go command line. The server has its own folder.")
    ] = None,
) -> None:
    """Reload the server's queue files, and list what they have."""
    if folder:
        session.out.note("--dir is ignored: the server reads its own folder. `runqy queue apply -f` sends another.")
    report = session.api.post("/api/cli/configs/reload", b"")
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


@command(app, "remove", examples="runqy config remove mail\nrunqy config remove mail --force --ignore-missing")
def remove(
    session: Session,
    queue: Annotated[
        str, typer.Argument(help="Name of the queue.", metavar="QUEUE", autocompletion=complete_configs)
    ] = "",
    *,
    name: Annotated[str, typer.Option("--name", help="The same as the argument.")] = "",
    force: Force = False,
    ignore_missing: Annotated[
        bool, typer.Option("--ignore-missing", help="Succeed if the queue does not exist.")
    ] = False,
) -> None:
    """Remove a queue and its tasks, like `runqy queue delete`."""
    if bool(queue) == bool(name):
        raise CliError("Give the name of one queue.", ExitCode.USAGE)
    delete_queues(session, [queue or name], ignore_missing=ignore_missing, force=force)


def _create_from_file(session: Session, file: Path, *, force: bool) -> None:
    """Create the queues and schedules of a file. Raise CliError if one of them exists, unless `force` is set."""
    files = read_files([file])
    if not force:
        plan = list_items(send_files(session, files, dry_run=True))
        if existing := [item["name"] for item in plan if item["outcome"] in ("updated", "unchanged")]:
            message = f"{', '.join(existing)}: exists already. Use --force to update it."
            raise CliError(message, ExitCode.CONFLICT)
    for item in list_items(send_files(session, files)):
        if item["outcome"] not in ("kept", "removed"):
            outcome = "created" if item["outcome"] == "added" else item["outcome"]
            session.out.result(item, f"{item['name']}: {outcome}", name=item["name"])
