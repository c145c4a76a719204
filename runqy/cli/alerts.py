"""The commands `runqy alerts`, `runqy alert` and `runqy status`: what needs attention."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_configs, complete_queues
from runqy.cli.errors import CliError, ExitCode, ServerError
from runqy.cli.output import Listing, echo
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.values import format_duration, parse_since, parse_until

app = new_group(
    "Acknowledge and snooze alerts, one or all of a queue.",
    examples="""
    runqy alert acknowledge 7 --note 'Restarting the GPU node.'
    runqy alert snooze -q inference --until 2h
    runqy alert resume 7
    """,
)
ALERT_EXAMPLES = "runqy alerts\nrunqy alerts --level critical\nrunqy alerts --state all --since 24h -q mail"
STATUS_EXAMPLES = "runqy status\nrunqy status --check > /dev/null || echo critical\nrunqy status -o json"

State = Literal["open", "resolved", "all"]
Level = Literal["all", "warning", "critical"]

_ALERTS = Listing(
    columns=("level", "kind", "subject", "since", "message"),
    wide=("id", "opened_at", "resolved_at", "acknowledged_at", "snoozed_until", "noted_by", "note", "url"),
    name="id",
    empty="No alerts.",
    add_columns=lambda alert: {"subject": alert["subject"] or alert["queue"]},
)
_PROBLEMS = Listing(columns=("level", "message", "since"), empty="Nothing is stuck, failing or behind.")
_BEHIND = Listing(columns=("queue", "pending", "oldest_pending", "active", "workers_ready"))
_FAILING = Listing(columns=("queue", "count", "last_seen", "error"))
_SHOWN_MAX = 5
"""How many queues and errors a screen has room for."""
_SUMMARY = ("url", "version", "status", "workers", "worker_queues", "tasks", "today")


def list_alerts(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    *,
    state: Annotated[State, typer.Option("--state", metavar="STATE", help="open, resolved or all.")] = "open",
    level: Annotated[Level, typer.Option("--level", metavar="LEVEL", help="warning, critical or all.")] = "all",
    queue: Annotated[
        str, typer.Option("--queue", "-q", help="Only about this queue.", autocompletion=complete_queues)
    ] = "",
    since: Annotated[
        str,
        typer.Option("--since", metavar="TIME", help="Only those opened since: a time, or how long ago, such as 24h."),
    ] = "",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> None:
    """List alerts, newest first: how severe, about what, and since when."""
    query = {"state": state, "level": level} | ({"queue": queue} if queue else {})
    query |= {"from": parse_since(since)} if since else {}
    found = read_pages(session.api, "/api/alerts", "alerts", limit=limit, cursor=cursor, **query)
    session.out.listing(_ALERTS, found.items)
    print_rest(found)


Id = Annotated[int | None, typer.Argument(help="Id of the alert.", metavar="[ID]")]
OfQueue = Annotated[
    str, typer.Option("--queue", "-q", help="In place of an id: all of this queue.", autocompletion=complete_configs)
]
Note = Annotated[str, typer.Option("--note", help="Shown with the alert.")]


@command(
    app,
    "acknowledge",
    examples="runqy alert acknowledge 7 --note 'Restarting the GPU node.'\nrunqy alert acknowledge -q inference",
)
def acknowledge(session: Session, alert: Id = None, *, queue: OfQueue = "", note: Note = "") -> None:
    """Send nothing more about an alert. It is still resolved when its condition is over."""
    _change(session, "acknowledge", alert, queue, note=note)


@command(app, "snooze", examples="runqy alert snooze 7 --until 2h\nrunqy alert snooze -q inference --until 8h")
def snooze(
    session: Session,
    alert: Id = None,
    *,
    queue: OfQueue = "",
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="A time, or for how long, such as 2h.")],
    note: Note = "",
) -> None:
    """Send nothing about an alert until a time; of a queue, also not about those that open until then."""
    _change(session, "snooze", alert, queue, until=parse_until(until), note=note)


@command(app, "resume", examples="runqy alert resume 7\nrunqy alert resume -q inference")
def resume(session: Session, alert: Id = None, *, queue: OfQueue = "") -> None:
    """End that an alert is acknowledged or snoozed; if it is open, it is sent again."""
    _change(session, "resume", alert, queue)


def _change(session: Session, verb: str, alert: int | None, queue: str, **members: str) -> None:
    if (alert is None) == (not queue):
        raise CliError("Name either an alert or --queue.", ExitCode.USAGE)
    selected: dict[str, Any] = {"queue": queue} if queue else {"alert": alert}
    changed = session.api.post(f"/api/alerts/{verb}", selected | members)
    done = verb + ("d" if verb.endswith("e") else "ed")
    count = len(changed["alerts"])
    session.out.result(changed, f"{count} alert{'' if count == 1 else 's'} {done}")


def show_status(
    session: Session,
    *,
    check: Annotated[bool, typer.Option("--check", help="Fail if a problem is critical, for monitoring.")] = False,
) -> None:
    """Show whether anything is stuck, failing or behind, on one screen.

    Problems are open alerts, failed readiness checks, and paused or disabled queues with pending tasks.
    """
    readiness, checks = _read_readiness(session)
    queues = session.api.get("/api/cli/queues")["queues"]
    alerts = read_pages(session.api, "/api/alerts", "alerts", limit=1000).items
    workers = session.api.get("/api/cli/workers")
    last_hour: dict[str, Any] = {"from": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
    errors = session.api.get("/api/errors", **last_hour, limit=_SHOWN_MAX)["errors"]
    problems = [*checks, *map(_of_alert, alerts), *_find_held_back(queues)]
    problems.sort(key=lambda problem: problem["level"] != "critical")
    levels = {problem["level"] for problem in problems}
    report = {
        "url": session.target.url,
        "version": session.api.get("/health")["version"] if readiness != "not ready" else None,
        "status": "critical" if "critical" in levels else "warning" if levels else "ok",
        "readiness": readiness,
        "workers": workers["processes"],
        # One process may be ready for a queue, and fail to start for another.
        "worker_queues": {"ready": 0} | Counter(worker["state"] for worker in workers["workers"]),
        "tasks": {name: sum(queue[name] for queue in queues) for name in ("pending", "active", "retry", "archived")},
        "today": {name: sum(queue[f"{name}_today"] for queue in queues) for name in ("processed", "failed")},
        "problems": problems,
        "behind": sorted((each for each in queues if each["pending"]), key=_oldest)[:_SHOWN_MAX],
        "last_errors": errors,
    }
    _print(session, report)
    if check and "critical" in levels:
        raise typer.Exit(ExitCode.FAILED)


def _read_readiness(session: Session) -> tuple[str, list[dict[str, Any]]]:
    """Return whether the server is ready, and the checks that are not ok as problems."""
    try:
        body = session.api.get("/readyz", verbose="")
    except ServerError as error:
        if error.code != "not_ready":
            raise
        return "not ready", [{"level": "critical", "message": str(error), "since": None}]
    found = [check["detail"] or check["check"] for check in body["checks"] if check["status"] != "ok"]
    return body["status"], [{"level": "warning", "message": text, "since": None} for text in found]


def _of_alert(alert: dict[str, Any]) -> dict[str, Any]:
    return {"level": alert["level"], "message": alert["message"], "since": alert["since"]}


def _find_held_back(queues: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a problem for each queue with tasks that nobody may run."""
    found = []
    for queue in queues:
        reason = "paused" if queue["paused"] else "" if queue["is_enabled"] else "disabled"
        if reason and queue["pending"]:
            message = f"Queue {queue['queue']} is {reason}. Pending tasks: {queue['pending']}."
            found.append({"level": "warning", "message": message, "since": None})
    return found


def _age(queue: dict[str, Any]) -> dict[str, Any]:
    age = format_duration(queue["oldest_pending_secs"] or 0)
    return {"oldest_pending": age, "workers_ready": queue["worker_processes"]["ready"]}


def _oldest(queue: dict[str, Any]) -> float:
    return -float(queue["oldest_pending_secs"] or 0)


def _print(session: Session, report: dict[str, Any]) -> None:
    if session.out.is_document:
        session.out.document(report)
        return
    counted = {
        name: ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in report[name].items())
        for name in ("workers", "worker_queues", "tasks", "today")
    }
    session.out.item(report | counted, _SUMMARY, name="status")
    if session.out.is_table:
        echo()
        echo(session.out.table(_PROBLEMS, report["problems"]), nl=False)
        behind = [queue | _age(queue) for queue in report["behind"]]
        failing = [each | {"error": each["error_message"] or each["error_class"]} for each in report["last_errors"]]
        for title, listing, rows in (
            ("Queues with pending tasks, the oldest first", _BEHIND, behind),
            ("Errors of the last hour", _FAILING, failing),
        ):
            if rows:
                echo(f"\n{title}:\n{session.out.table(listing, rows)}", nl=False)
    elif session.out.format is None:
        session.out.listing(_PROBLEMS, report["problems"])
