"""The commands `runqy schedule`: list, show, create, pause, unpause, trigger and delete schedules."""

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_queues, complete_schedules
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.output import Listing, echo
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.prompts import Force, confirm
from runqy.core.formats import durations

app = new_group(
    "Enqueue tasks by the clock: create, pause and trigger schedules.",
    examples="""
    runqy schedule list
    runqy schedule create nightly -q mail --cron '30 2 * * *' --time-zone Europe/Berlin -p '{"to": "ada"}'
    runqy schedule show nightly
    """,
)

Name = Annotated[
    str, typer.Argument(help="Name of the schedule.", metavar="SCHEDULE", autocompletion=complete_schedules)
]
_SCHEDULES = Listing(
    columns=("name", "state", "queue", "when", "next", "last_fire", "problem"),
    wide=("time_zone", "source", "created_at"),
    name="name",
    empty="There are no schedules yet.",
    add_columns=lambda schedule: {
        "when": _when(schedule),
        "next": next(iter(schedule["next"]), None),
        "last_fire": _last_fire(schedule),
    },
)
_SCHEDULE = (
    *("name", "state", "paused_reason", "problem", "queue", "payload", "options", "cron", "every", "time_zone"),
    *("jitter", "starts_at", "ends_at", "overlap", "catch_up", "catch_up_window", "next", "source", "created_by"),
)
_FIRES = Listing(
    columns=("due_at", "state", "task_id", "task_state", "duration_ms", "reason"),
    wide=("triggered", "queue", "missed_since", "settled_at"),
    name="task_id",
    empty="It has not fired yet.",
    # A skipped fire has the id that its task would have had.
    add_columns=lambda fire: {"task_id": None} if fire["state"] in ("skipped", "missed", "refused") else {},
)


@command(app, "list", examples="runqy schedule list\nrunqy schedule list -q mail")
def list_schedules(
    session: Session,
    *,
    queue: Annotated[
        str, typer.Option("--queue", "-q", help="Only of this queue.", autocompletion=complete_queues)
    ] = "",
    limit: Limit = 1000,
    cursor: Cursor = "",
) -> None:
    """List schedules by name, with their next due times."""
    query = {"queue": queue} if queue else {}
    found = read_pages(session.api, "/api/schedules", "schedules", limit=limit, cursor=cursor, **query)
    session.out.listing(_SCHEDULES, found.items)
    print_rest(found)


@command(app, "show", examples="runqy schedule show nightly")
def show(session: Session, schedule: Name) -> None:
    """Show a schedule, its next due times and its last fires."""
    found = session.api.get(_path(schedule))
    session.out.item(found if session.out.is_document else found | _readable(found), _SCHEDULE)
    if session.out.is_document or session.out.is_name:
        return
    fires = session.api.get(f"{_path(schedule)}/fires", limit=10)["fires"]
    if session.out.is_table:
        echo(f"\nLast fires:\n{session.out.table(_FIRES, fires)}", nl=False)
        return
    for cells in session.out.cells(_FIRES, fires):
        echo("\t".join(("fire", *cells)))


@command(app, "fires", examples="runqy schedule fires nightly\nrunqy schedule fires nightly -o json")
def list_fires(session: Session, schedule: Name, *, limit: Limit = 100, cursor: Cursor = "") -> None:
    """List the last fires of a schedule, the latest first, with their tasks."""
    found = read_pages(session.api, f"{_path(schedule)}/fires", "fires", limit=limit, cursor=cursor)
    session.out.listing(_FIRES, found.items)
    print_rest(found)


@command(
    app,
    "create",
    examples="""
    runqy schedule create nightly -q mail --cron '30 2 * * MON-FRI' --time-zone Europe/Berlin
    runqy schedule create poll -q mail --every 15m -p '{"folder": "inbox"}' --option max_retry=0
    """,
)
def create(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    schedule: Name,
    *,
    queue: Annotated[str, typer.Option("--queue", "-q", help="Queue or sub-queue.", autocompletion=complete_queues)],
    cron: Annotated[str, typer.Option("--cron", help="Five fields, or a name such as @daily.")] = "",
    every: Annotated[str, typer.Option("--every", help="Instead: an interval such as 15m.")] = "",
    time_zone: Annotated[str, typer.Option("--time-zone", help="Time zone of --cron.")] = "UTC",
    payload: Annotated[str, typer.Option("--payload", "-p", help="Payload as JSON.")] = "{}",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Option of each task, as of /queue/add; repeatable."),
    ] = None,
    jitter: Annotated[str, typer.Option("--jitter", help="Fire later by a random time up to this.")] = "0s",
    starts_at: Annotated[str, typer.Option("--starts-at", metavar="TIME", help="First time that may be due.")] = "",
    ends_at: Annotated[str, typer.Option("--ends-at", metavar="TIME", help="Last time that may be due.")] = "",
    overlap: Annotated[str, typer.Option("--overlap", help="While the previous task runs: skip or allow.")] = "skip",
    catch_up: Annotated[str, typer.Option("--catch-up", help="After an interruption: last or skip.")] = "last",
    catch_up_window: Annotated[
        str, typer.Option("--catch-up-window", help="How late a fire may be. Default: one period.")
    ] = "",
) -> None:
    """Create a schedule. It fires first at its first due time after now."""
    body: dict[str, Any] = {
        "name": schedule,
        "queue": queue,
        "payload": _parse("--payload", payload),
        "options": dict(_parse_option(text) for text in option or ()),
        "cron": cron or None,
        "every": every or None,
        "time_zone": time_zone,
        "jitter": jitter,
        "starts_at": starts_at or None,
        "ends_at": ends_at or None,
        "overlap": overlap,
        "catch_up": catch_up,
        "catch_up_window": catch_up_window or None,
    }
    created = session.api.post("/api/schedules", body)
    session.out.result(created, f"{schedule} created; next due {_next(created)}", name=schedule)


@command(app, "pause", examples="runqy schedule pause nightly --reason 'The report is being rewritten.'")
def pause(
    session: Session,
    schedule: Name,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Shown wherever the schedule is.")] = "",
) -> None:
    """Pause a schedule. What is due while it is paused never fires."""
    body = {"reason": reason} if reason else {}
    paused = session.api.post(f"{_path(schedule)}/pause", body)
    session.out.result(paused, f"{schedule} paused", name=schedule)


@command(app, "unpause", examples="runqy schedule unpause nightly")
def unpause(session: Session, schedule: Name) -> None:
    """Let a schedule fire again, next at its first due time after now."""
    unpaused = session.api.post(f"{_path(schedule)}/unpause", {})
    session.out.result(unpaused, f"{schedule} unpaused; next due {_next(unpaused)}", name=schedule)


@command(app, "trigger", examples="runqy schedule trigger nightly")
def trigger(session: Session, schedule: Name) -> None:
    """Fire a schedule now, also while it is paused."""
    fire = session.api.post(f"{_path(schedule)}/trigger", {})
    text = f"task {fire['task_id']} enqueued" if fire["state"] == "enqueued" else f"{fire['state']}: {fire['reason']}"
    session.out.result(fire, text, name=fire["task_id"])


@command(app, "delete", examples="runqy schedule delete nightly\nrunqy schedule delete nightly --force")
def delete(session: Session, schedule: Name, *, force: Force = False) -> None:
    """Delete a schedule and its fires. Tasks that it enqueued stay."""
    confirm(f"Delete the schedule {schedule}?", force=force)
    session.api.delete(_path(schedule))
    session.out.result({"name": schedule}, f"{schedule} deleted", name=schedule)


def _path(schedule: str) -> str:
    return f"/api/schedules/{quote(schedule, safe='')}"


def _last_fire(schedule: dict[str, Any]) -> str | None:
    """Return when it fired last, and what became of it."""
    fire = schedule["last_fire"]
    if fire is None:
        return None
    task = fire["task_state"] or "gone"
    return f"{fire['due_at']} {task if fire['state'] == 'enqueued' else fire['state']}"


def _readable(schedule: dict[str, Any]) -> dict[str, Any]:
    """Return what a person reads in place of seconds, a list of times, and who created it as an object."""
    spans = {name: schedule[name] and durations.format_short(schedule[name]) for name in ("every", "jitter")}
    window, creator = schedule["catch_up_window"], schedule["created_by"]
    return spans | {
        "catch_up_window": window and durations.format_short(window),
        "next": ", ".join(schedule["next"]),
        "created_by": creator and " ".join(str(creator[name]) for name in ("kind", "name") if creator.get(name)),
    }


def _when(schedule: dict[str, Any]) -> str:
    return str(schedule["cron"] or f"every {durations.format_short(schedule['every'])}")


def _next(schedule: dict[str, Any]) -> str:
    return next(iter(schedule["next"]), "never")


def _parse_option(text: str) -> tuple[str, Any]:
    """Return an option of tasks. A value that is not JSON is a string."""
    name, separator, value = text.partition("=")
    if not separator:
        raise CliError(f"--option {text}: Must be NAME=VALUE.", ExitCode.USAGE)
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _parse(option: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise CliError(f"{option}: Must be JSON: {error}.", ExitCode.USAGE) from error
