"""The commands `runqy webhook`: endpoints that are told of what happened, and what was sent to them."""

from typing import Annotated, Any, Literal

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_configs
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.output import Listing
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.prompts import Force, confirm
from runqy.cli.queue_files import note_warnings

app = new_group(
    "Tell programs and people: of tasks that end, and of alerts.",
    examples="""
    runqy webhook create https://shop.example.com/runqy --queue mail
    runqy webhook list
    runqy webhook deliveries 6f1f0c2b7d7a4e35
    """,
)

Id = Annotated[str, typer.Argument(help="Id of the endpoint.", metavar="ID")]
Queues = Annotated[
    list[str] | None,
    typer.Option("--queue", "-q", help="Only of this queue; repeatable.", autocompletion=complete_configs),
]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        help="task.completed, task.archived, batch.ended, alert.opened or alert.resolved; repeatable. Default: the "
        "first two, of Slack and e-mail the last two.",
    ),
]
Kind = Literal["webhook", "slack", "email"]
Levels = Annotated[
    list[str] | None, typer.Option("--level", help="Only alerts of this level, warning or critical; repeatable.")
]
Headers = Annotated[
    list[str] | None, typer.Option("--header", "-H", help="'Name: value' of requests; repeatable, stored encrypted.")
]

_MEMBERS = (
    *(
        "id",
        "kind",
        "url",
        "recipients",
        "queues",
        "events",
        "levels",
        "include_result",
        "headers",
        "enabled",
        "disabled_reason",
        "failing_since",
        "in_flight",
        "dropped",
    ),
    *("created_at", "updated_at", "created_by_kind", "created_by", "created_by_key"),
)


def _join(row: dict[str, Any]) -> dict[str, Any]:
    joined = {name: ", ".join(row[name]) for name in ("queues", "events", "headers", "levels", "recipients")}
    return joined | {"url": row["url"] or joined["recipients"]}


_LISTING = Listing(
    columns=("id", "kind", "url", "queues", "events", "enabled", "failing_since"),
    wide=("levels", "include_result", "disabled_reason", "created_at", "created_by"),
    name="id",
    empty="There are no webhook endpoints.",
    add_columns=_join,
)
_DELIVERIES = Listing(
    columns=("id", "created_at", "event", "task_id", "state", "attempts", "status", "error"),
    wide=("webhook_id", "queue", "due_at", "sent_at", "duration_ms"),
    name="id",
    empty="Nothing was sent in the last seven days.",
)


@command(app, "list", examples="runqy webhook list\nrunqy webhook list -o wide")
def list_endpoints(session: Session) -> None:
    """List webhook endpoints, newest first."""
    session.out.listing(_LISTING, session.api.get("/api/webhooks")["webhooks"])


@command(app, "show", examples="runqy webhook show 6f1f0c2b7d7a4e35")
def show_endpoint(session: Session, endpoint: Id) -> None:
    """Show a webhook endpoint."""
    found = session.api.get(f"/api/webhooks/{endpoint}")
    session.out.item(found if session.out.is_document else found | _join(found), _MEMBERS)


@command(
    app,
    "create",
    examples="""
    runqy webhook create https://shop.example.com/runqy --queue mail --include-result
    SECRET=$(runqy webhook create https://shop.example.com/runqy -H 'Authorization: Bearer abc')
    runqy webhook create --kind slack https://hooks.slack.com/services/T0/B0/abc --level critical
    runqy webhook create --kind email --to ops@example.com -q mail
    """,
)
def create_endpoint(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    url: Annotated[str, typer.Argument(help="Where messages are sent; of e-mail none.", metavar="[URL]")] = "",
    *,
    kind: Annotated[Kind, typer.Option("--kind", metavar="KIND", help="webhook, slack or email.")] = "webhook",
    to: Annotated[list[str] | None, typer.Option("--to", help="Address of e-mail; repeatable.")] = None,
    queue: Queues = None,
    event: Events = None,
    level: Levels = None,
    header: Headers = None,
    include_result: Annotated[bool, typer.Option("--include-result", help="Send results of up to 20 KiB.")] = False,
    in_flight: Annotated[int, typer.Option("--in-flight", help="Messages that are sent at once.")] = 16,
) -> None:
    """Create an endpoint; of a webhook print the secret, which is not shown again."""
    events = ["task.completed", "task.archived"] if kind == "webhook" else ["alert.opened", "alert.resolved"]
    body: dict[str, Any] = {"kind": kind, "queues": queue or [], "events": event or events, "levels": level or []}
    body |= {"include_result": include_result, "in_flight": in_flight, "headers": _parse_headers(header or [])}
    body |= ({"url": url} if url else {}) | ({"recipients": to} if to else {})
    created = session.api.post("/api/webhooks", body)
    note_warnings(session, created)
    if not created["secret"]:
        session.out.result(created, f"{created['id']} created", name=created["id"])
        return
    # Only the secret on standard output, so that a script can store it.
    session.out.result(created, created["secret"])
    if not session.out.is_document:
        session.out.note(f"The endpoint has the id {created['id']}. Store the secret now: it is not shown again.")


@command(
    app,
    "enable",
    examples="runqy webhook enable 6f1f0c2b7d7a4e35\nrunqy webhook enable 6f1f0c2b7d7a4e35 --drop",
)
def enable_endpoint(
    session: Session,
    endpoint: Id,
    *,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the messages that wait in place of sending them.")] = False,
) -> None:
    """Enable a webhook endpoint, also one that the server disabled; what waits is sent."""
    _change(session, endpoint, {"enabled": True} | ({"kept": "drop"} if drop else {}), "enabled")


@command(app, "disable", examples="runqy webhook disable 6f1f0c2b7d7a4e35")
def disable_endpoint(session: Session, endpoint: Id) -> None:
    """Send nothing more to a webhook endpoint until it is enabled, also not later what ends meanwhile."""
    _change(session, endpoint, {"enabled": False}, "disabled")


@command(app, "rotate", examples="runqy webhook rotate 6f1f0c2b7d7a4e35")
def rotate_secret(session: Session, endpoint: Id) -> None:
    """Give a webhook endpoint a new secret, and print it. For 24 hours both sign."""
    rotated = session.api.post(f"/api/webhooks/{endpoint}/rotate")
    session.out.result(rotated, rotated["secret"])
    if not session.out.is_document:
        session.out.note("Store the secret now: it is not shown again. The old one is valid for 24 hours.")


@command(app, "test", examples="runqy webhook test 6f1f0c2b7d7a4e35")
def test_endpoint(session: Session, endpoint: Id) -> None:
    """Send a test message; `runqy webhook deliveries` shows what came of it."""
    sent = session.api.post(f"/api/webhooks/{endpoint}/test")
    session.out.result(sent, f"delivery {sent['id']} is on its way", name=str(sent["id"]))


@command(app, "deliveries", examples="runqy webhook deliveries 6f1f0c2b7d7a4e35")
def list_deliveries(session: Session, endpoint: Id, *, limit: Limit = 30, cursor: Cursor = "") -> None:
    """List what was sent in the last seven days, newest first."""
    found = read_pages(session.api, f"/api/webhooks/{endpoint}/deliveries", "deliveries", limit=limit, cursor=cursor)
    session.out.listing(_DELIVERIES, found.items)
    print_rest(found)


@command(
    app, "resend", examples="runqy webhook resend 6f1f0c2b7d7a4e35 41\nrunqy webhook resend 6f1f0c2b7d7a4e35 --failed"
)
def resend(
    session: Session,
    endpoint: Id,
    delivery: Annotated[list[int] | None, typer.Argument(help="Ids of deliveries.", metavar="DELIVERY")] = None,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
) -> None:
    """Send deliveries again, with the same ids."""
    if bool(delivery) == failed:
        raise CliError("Name deliveries, or give --failed for all that failed.", ExitCode.USAGE)
    body = {"deliveries": delivery} if delivery else {"failed": True}
    resent = session.api.post(f"/api/webhooks/{endpoint}/resend", body)
    session.out.result(resent, f"{resent['resent']} sent again")


@command(app, "delete", examples="runqy webhook delete 6f1f0c2b7d7a4e35 --force")
def delete_endpoint(session: Session, endpoint: Id, *, force: Force = False) -> None:
    """Delete a webhook endpoint with its deliveries."""
    if not force:
        confirm(f"Delete the endpoint {_join(session.api.get(f'/api/webhooks/{endpoint}'))['url']}?", force=force)
    session.api.delete(f"/api/webhooks/{endpoint}")
    session.out.result({"id": endpoint}, f"{endpoint} deleted", name=endpoint)


@command(app, "secret", examples="runqy webhook secret mail\nrunqy webhook secret mail --rotate")
def show_queue_secret(
    session: Session,
    queue: Annotated[str, typer.Argument(help="Name of the queue.", metavar="QUEUE", autocompletion=complete_configs)],
    *,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; for 24 hours both sign.")] = False,
) -> None:
    """Print the secret that signs the webhooks of a queue's tasks. It is shown once."""
    found = session.api.post(f"/api/cli/queues/{queue}/webhook-secret{'/rotate' if rotate else ''}")
    session.out.result(found, found["secret"])


def _change(session: Session, endpoint: str, body: dict[str, Any], done: str) -> None:
    changed = session.api.patch(f"/api/webhooks/{endpoint}", body)
    session.out.result(changed, f"{_join(changed)['url']} {done}", name=endpoint)


def _parse_headers(lines: list[str]) -> dict[str, str]:
    """Raise CliError."""
    headers = {}
    for line in lines:
        name, mark, value = line.partition(":")
        if not mark:
            raise CliError(f"--header: {line!r} is not 'Name: value'.", ExitCode.USAGE)
        headers[name.strip()] = value.strip()
    return headers
