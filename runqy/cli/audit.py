"""The commands `runqy audit`: who changed what, and when."""

from typing import Annotated, Any

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.output import Listing
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.values import format_value

app = new_group(
    "Show who changed what, and when.",
    examples="runqy audit list\nrunqy audit list --object mail --from 2026-01-31T00:00:00Z",
)


def _add_columns(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "actor": f"{record['actor_kind']} {record['actor_name']}",
        "object": f"{record['object_kind'].replace('_', ' ')} {record['object_name']}",
        "changes": "; ".join(_describe(name, change) for name, change in record["changes"].items() if _says(change)),
    }


def _says(change: Any) -> bool:
    """Return whether a change says something: an empty value of a new object does not."""
    return not isinstance(change, dict) or any(change[side] not in (None, "", [], {}) for side in ("old", "new"))


def _describe(name: str, change: Any) -> str:
    if not isinstance(change, dict):
        return f"{name} changed"
    old, new = (format_value(change[side]) for side in ("old", "new"))
    return f"{name}: {old} → {new}" if old else f"{name}: {new or 'none'}"


_LISTING = Listing(
    columns=("number", "at", "actor", "action", "object", "changes"),
    wide=("address", "request_id"),
    empty="No records.",
    add_columns=_add_columns,
)


@command(
    app,
    "list",
    examples="""
    runqy audit list
    runqy audit list --object-kind vault --actor deployment
    runqy audit list --text "mail paused" -o wide
    """,
)
def list_records(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    *,
    object_name: Annotated[
        str, typer.Option("--object", metavar="NAME", help="Only about this object and its parts.")
    ] = "",
    object_kind: Annotated[
        str, typer.Option("--object-kind", metavar="KIND", help="Such as queue, task, vault, api_key, user.")
    ] = "",
    action: Annotated[str, typer.Option("--action", help="Only this action, such as queue.updated.")] = "",
    actor: Annotated[str, typer.Option("--actor", help="Only of the key, user or command of this name.")] = "",
    text: Annotated[str, typer.Option("--text", help="Only those whose names contain these words.")] = "",
    since: Annotated[str, typer.Option("--from", help="Only from this time on: 2026-01-31T12:00:00Z.")] = "",
    until: Annotated[str, typer.Option("--to", help="Only before this time.")] = "",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> None:
    """List the changes of configuration, users, keys, queues and tasks, newest first."""
    parameters = {"object": object_name, "object_kind": object_kind, "action": action, "actor": actor}
    parameters |= {"text": text, "from": since, "to": until}
    given: dict[str, str] = {name: value for name, value in parameters.items() if value}
    found = read_pages(session.api, "/api/audit", "records", limit=limit, cursor=cursor, **given)
    session.out.listing(_LISTING, found.items)
    print_rest(found)
