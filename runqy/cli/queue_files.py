"""The commands `runqy queue apply` and `runqy queue diff`: make the server's queues and schedules what files say.

The server parses the files, as it does with its own, so that there is one reader of them.
"""

import difflib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from runqy.cli.commands import Session
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.output import echo
from runqy.cli.prompts import Force, confirm
from runqy.cli.queues import describe_queues
from runqy.cli.values import clean

_PAUSES_S = (1, 2, 4)
"""Before each repetition, unless the server names a time."""
_SUFFIXES = (".yaml", ".yml")
_CHANGES = ("added", "updated", "removed")
_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "@": typer.colors.CYAN}

Files = Annotated[
    list[Path],
    typer.Option(
        "--file",
        "-f",
        metavar="FILE|FOLDER",
        help="A queue file, or a folder with *.yaml and *.yml; - reads standard input. Repeatable.",
        allow_dash=True,
    ),
]
Prune = Annotated[
    bool,
    typer.Option("--prune", help="Delete queues and schedules that an earlier apply saved and that no file names now."),
]
PruneAll = Annotated[
    bool, typer.Option("--prune-all", help="The same, and all queues that no file names, wherever they are from.")
]
AtOnce = Annotated[
    bool,
    typer.Option(
        "--replace-at-once",
        help="Workers of the files' queues replace processes with another environment at once, also those that wait "
        "for their turn. Default: some at a time, each when its new process is ready.",
    ),
]


APPLY_EXAMPLES = """
    runqy queue apply -f mail.yaml
    runqy queue apply -f queues/ --diff
    runqy queue apply -f queues/ --prune
    """
DIFF_EXAMPLES = """
    runqy queue diff -f queues/
    runqy queue diff -f queues/ --prune
    """


def apply(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    *,
    file: Files,
    diff: Annotated[bool, typer.Option("--diff", help="Like `runqy queue diff`: only show what would change.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the files, list what would change.")] = False,
    prune: Prune = False,
    prune_all: PruneAll = False,
    force: Force = False,
    replace_at_once: AtOnce = False,
) -> None:
    """Make queues and schedules what files say.

    They are created and updated, and with --prune others are deleted. It asks before tasks are deleted, with queues
    or with sub-queues that a file no longer has, and before schedules are. All files are checked first: with an error
    in one of them nothing is changed. What is equal stays untouched. What a file does not set gets its default, except
    that a disabled queue stays disabled.
    """
    files, mode = read_files(file), _prune_mode(prune, prune_all)
    if diff:
        _print_diff(session, send_files(session, files, prune=mode, dry_run=True))
        return
    plan = send_files(session, files, prune=mode, dry_run=True)
    if dry_run:
        _print_outcomes(session, plan)
        return
    _ask(session, plan, force=force)
    if not any(item["outcome"] == "removed" for item in list_items(plan)):
        mode = "none"  # one that has become removable meanwhile was not asked about
    _print_outcomes(session, _send_until_applied(session, files, prune=mode, at_once=replace_at_once))


def diff(session: Session, *, file: Files, prune: Prune = False, prune_all: PruneAll = False) -> None:
    """Show what `queue apply` would change.

    Exits with 0 if nothing would change, with 1 if something would, and with more than 1 on errors, as diff does.
    """
    plan = send_files(session, read_files(file), prune=_prune_mode(prune, prune_all), dry_run=True)
    _print_diff(session, plan)


def read_files(paths: Sequence[Path]) -> dict[str, str]:
    """Return the contents of files, and of the queue files in folders. Raise CliError."""
    contents: dict[str, str] = {}
    for path in paths:
        for name, raw in _read(path):
            try:
                contents[name] = raw.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = raw[: error.start].count(b"\n") + 1
                raise CliError(f"{name}:{line}: Must be UTF-8.", ExitCode.USAGE) from error
    return contents


def send_files(
    session: Session, files: Mapping[str, str], *, prune: str = "none", dry_run: bool = False, at_once: bool = False
) -> dict[str, Any]:
    """Have the server apply files, or only check them. Return what it did. Raise ServerError."""
    # The user has seen how many tasks are deleted with the queues.
    query = f"prune={prune}&force={'false' if prune == 'none' else 'true'}&dry_run={'true' if dry_run else 'false'}"
    query += "&replace_at_once=true" if at_once else ""
    body = {"files": [{"name": name, "content": content} for name, content in files.items()]}
    try:
        response = session.api.post(f"/api/cli/configs/apply?{query}", body)
    except ServerError as error:
        if error.exit_code is ExitCode.FAILED:
            error.exit_code = ExitCode.USAGE  # 1 is `diff`'s status for differences
        raise
    return response


def _send_until_applied(session: Session, files: Mapping[str, str], *, prune: str, at_once: bool) -> dict[str, Any]:
    """Have the server apply files, again if it could not do all of it: it changes nothing twice. Raise ServerError."""
    for pause_s in _PAUSES_S:
        try:
            return send_files(session, files, prune=prune, at_once=at_once)
        except ServerError as error:
            if error.status != 503:
                raise
            session.out.note(f"{error} Trying again; what is saved already is unchanged then.")
            time.sleep(error.retry_after_s or pause_s)
    return send_files(session, files, prune=prune, at_once=at_once)


def _read(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if str(path) == "-":
            yield "stdin", sys.stdin.buffer.read()
        elif path.is_dir():
            files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES)
            if not files:
                raise CliError(f"{path}: The folder has no *.yaml or *.yml.", ExitCode.USAGE)
            yield from ((str(each), each.read_bytes()) for each in files)
        else:
            yield str(path), path.read_bytes()
    except OSError as error:
        raise CliError(f"{error.filename or path}: {error.strerror}.", ExitCode.USAGE) from error


def _prune_mode(prune: bool, prune_all: bool) -> str:
    return "all" if prune_all else "applied" if prune else "none"


def note_warnings(session: Session, result: Mapping[str, Any]) -> None:
    """Print what is wrong with definitions that the server accepts."""
    for warning in result.get("warnings", ()):
        session.out.note(f"Warning: {warning}")


def list_items(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return queues and schedules, each with its kind and name."""
    queues = [{"kind": "queue", "name": queue["queue"], **queue} for queue in plan["queues"]]
    return [*queues, *({"kind": "schedule", **schedule} for schedule in plan["schedules"])]


def _ask(session: Session, plan: Mapping[str, Any], *, force: bool) -> None:
    """Ask before queues and schedules are deleted, and tasks with sub-queues. Raise CliError."""
    queues = plan["queues"]
    removed = [queue["queue"] for queue in queues if queue["outcome"] == "removed"]
    dropped = [name for queue in queues for name in queue["dropped"]]
    schedules = [schedule["name"] for schedule in plan["schedules"] if schedule["outcome"] == "removed"]
    if force or not (removed or dropped or schedules):
        return
    statuses = session.api.get("/api/cli/queues")["queues"]
    holding = {status["queue"] for status in statuses if status["size"]}
    dropped = [name for name in dropped if name in holding]
    parts = [(removed, "which no file names"), (dropped, "which no file has as a sub-queue any more")]
    described = [f"{', '.join(describe_queues(statuses, names))}, {why}" for names, why in parts if names]
    if schedules:
        described.append(f"the schedule{'s' if len(schedules) > 1 else ''} {', '.join(schedules)}, which no file names")
    if described:
        confirm(lambda: f"Delete {', and '.join(described)}?", force=force)


def _print_outcomes(session: Session, applied: dict[str, Any]) -> None:
    """Print the outcome of what the files define, and of what was deleted or should have been."""
    rows = [item for item in list_items(applied) if item["outcome"] != "kept" or item["reason"]]
    columns = ("kind", "name", "outcome")
    session.out.rows(rows, columns, wide=("source", "reason"), name="name", empty="The files are empty.")
    note_warnings(session, applied)
    if applied["dry_run"]:
        session.out.note("Nothing was changed (--dry-run).")
    refused = [item for item in rows if item.get("reason")]
    for item in refused:
        session.out.note(f"{item['name']} is not deleted: {item['reason']}")
    if refused:
        raise typer.Exit(ExitCode.FAILED)


def _print_diff(session: Session, plan: dict[str, Any]) -> None:
    """Print the differences, as unified diffs of queue files. Exit with 1 if there are any."""
    changed = [item for item in list_items(plan) if item["outcome"] in _CHANGES]
    if session.out.is_document:
        session.out.document(plan)
    elif session.out.is_name:
        for item in changed:
            echo(clean(item["name"]))
    else:
        note_warnings(session, plan)
        for item in changed:
            for line in _diff_lines(item):
                echo(typer.style(clean(line), fg=_COLOURS.get(line[:1]), bold=line.startswith(("---", "+++"))))
    if changed:
        raise typer.Exit(ExitCode.FAILED)


def _diff_lines(item: Mapping[str, Any]) -> Iterator[str]:
    name = f"{item['kind']}s/{item['name']}"
    before, after = (item[side].splitlines() if item[side] else [] for side in ("before", "after"))
    old = f"server/{name}" if before else "/dev/null"
    new = f"files/{name}" if after else "/dev/null"
    yield from difflib.unified_diff(before, after, old, new, lineterm="", n=2)
