"""The commands `runqy apikey`: create, list, show and revoke API keys."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_args

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_api_keys, complete_configs, complete_vaults
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.output import Listing
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.prompts import Force, confirm
from runqy.cli.values import parse_time
from runqy.core.formats import durations

app = new_group(
    "Create, list and revoke API keys.",
    examples="runqy apikey list\nrunqy apikey create shop --queue mail\nrunqy apikey revoke 7",
)

Role = Literal["client", "worker", "metrics", "viewer", "operator", "configurator", "admin"]

_MEMBERS = (
    *("id", "name", "prefix", "role", "status", "queues", "vaults", "rate_limit", "allow_shared_redis", "created_at"),
    *("created_by_kind", "created_by", "created_by_key", "is_personal", "expires_at", "last_used_at", "revoked_at"),
)


def _add_columns(key: dict[str, Any]) -> dict[str, Any]:
    return {name: ", ".join(key[name]) for name in ("queues", "vaults")} | {"status": _status(key)}


def _status(key: dict[str, Any]) -> str:
    if key["revoked_at"]:
        return "revoked"
    expires_at = parse_time(key["expires_at"])
    return "expired" if expires_at and expires_at <= datetime.now(UTC) else "valid"


_LISTING = Listing(
    columns=("id", "name", "role", "status", "queues", "expires_at", "last_used_at"),
    wide=("prefix", "vaults", "rate_limit", "created_at", "created_by", "created_by_key", "is_personal"),
    empty="There are no API keys but those of the server's environment.",
    add_columns=_add_columns,
)


@command(app, "list", examples="runqy apikey list\nrunqy apikey list --all -o wide")
def list_keys(
    session: Session,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also revoked keys.")] = False,
    limit: Limit = 1000,
    cursor: Cursor = "",
) -> None:
    """List API keys, newest first, without the keys themselves.

    Keys of the server's environment are not listed.
    """
    found = read_pages(session.api, "/api/keys", "keys", limit=limit, cursor=cursor)
    session.out.listing(_LISTING, [key for key in found.items if everything or not key["revoked_at"]])
    print_rest(found)


@command(app, "show", examples="runqy apikey show 7")
def show_key(
    session: Session,
    key_id: Annotated[int, typer.Argument(help="Id of the key.", metavar="ID", autocompletion=complete_api_keys)],
) -> None:
    """Show an API key: what it may do, who created it, and when it was last used."""
    key = session.api.get(f"/api/keys/{key_id}")
    session.out.item(key if session.out.is_document else key | _add_columns(key), _MEMBERS)


@command(
    app,
    "create",
    examples="""
    runqy apikey create shop --queue mail --rate-limit 600/m
    runqy apikey create gpu --role worker --queue inference --vault api-keys
    KEY=$(runqy apikey create ci --expires-in 720h)
    """,
)
def create_key(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    name: Annotated[str, typer.Argument(help="Who or what uses the key.", metavar="NAME")],
    *,
    role: Annotated[
        Role, typer.Option("--role", metavar="ROLE", help=f"{', '.join(get_args(Role)[:-1])} or admin.")
    ] = "client",
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="Limit it to this queue; repeatable.", autocompletion=complete_configs),
    ] = None,
    vault: Annotated[
        list[str] | None,
        typer.Option("--vault", help="Limit a worker's key to this vault; repeatable.", autocompletion=complete_vaults),
    ] = None,
    expires_in: Annotated[
        str, typer.Option("--expires-in", help="How long it is valid, such as 720h. Default: until it is revoked.")
    ] = "",
    rate_limit: Annotated[
        str, typer.Option("--rate-limit", help="Such as 50/s, 600/m or 10000/h. Default: the server's.")
    ] = "",
    allow_shared_redis: Annotated[
        bool,
        typer.Option(
            "--allow-shared-redis",
            help="Give Go's workers of a key with --queue credentials of Redis that reach all queues' tasks.",
        ),
    ] = False,
) -> None:
    """Create an API key and print it. It is not shown again."""
    body: dict[str, Any] = {"name": name, "role": role, "queues": queue or [], "vaults": vault or []}
    body |= {"expires_at": _expiry(expires_in), "allow_shared_redis": allow_shared_redis}
    body |= {"rate_limit": rate_limit} if rate_limit else {}
    created = session.api.post("/api/keys", body)
    key_id = str(created["api_key"]["id"])
    # Only the key on standard output, so that a script can store it.
    session.out.result(created, created["key"])
    for warning in created.get("warnings", ()):
        session.out.note(warning)
    if not session.out.is_document:
        session.out.note(f"The key {name!r} has the id {key_id}. Store it now: it is not shown again.")


@command(app, "revoke", examples="runqy apikey revoke 7\nrunqy apikey revoke 7 --descendants --cancel-batches --force")
def revoke_key(
    session: Session,
    key_id: Annotated[int, typer.Argument(help="Id of the key.", metavar="ID", autocompletion=complete_api_keys)],
    *,
    descendants: Annotated[bool, typer.Option("--descendants", help="Also the keys that it created.")] = False,
    cancel_batches: Annotated[
        bool, typer.Option("--cancel-batches", help="Also cancel the batches that they created.")
    ] = False,
    force: Force = False,
) -> None:
    """Revoke an API key permanently. Every server refuses it within two seconds."""
    if not force:
        key = session.api.get(f"/api/keys/{key_id}")
        others = " and the keys that it created" if descendants else ""
        waiting = key.get("waiting_members")
        fate = "are cancelled" if cancel_batches else "will still be enqueued, without --cancel-batches"
        members = f" {waiting:,} members of its batches wait, and {fate}." if waiting else ""
        confirm(f"Revoke the {key['role']} key {key['name']!r} (id {key_id}){others}?{members}", force=force)
    chosen = {"descendants": descendants, "cancel_batches": cancel_batches}
    query = "&".join(f"{name}=true" for name, is_chosen in chosen.items() if is_chosen)
    response = session.api.delete(f"/api/keys/{key_id}{'?' if query else ''}{query}")
    revoked = response["revoked_descendants"]
    others = f", and the keys {', '.join(map(str, revoked))} that it created" if revoked else ""
    session.out.result(response, f"{response['api_key']['name']} (id {key_id}) revoked{others}", name=str(key_id))
    if count := response["accepted_descendants"]:
        session.out.note(f"Keys that it created are still accepted: {count}. --descendants revokes them too.")
    if count := response.get("canceled_batches"):
        session.out.note(f"Batches that are being cancelled: {count:,}.")
    if count := response.get("waiting_members"):
        session.out.note(f"Members of its batches wait and will be enqueued: {count:,}. --cancel-batches cancels them.")


def _expiry(expires_in: str) -> str | None:
    """Return the time at which a key expires. Raise CliError."""
    if not expires_in:
        return None
    try:
        expires_at = datetime.now(UTC) + timedelta(seconds=durations.parse_s(expires_in))
    except (ValueError, OverflowError) as error:
        raise CliError(f"--expires-in: {error}.", ExitCode.USAGE) from error
    return expires_at.isoformat()
