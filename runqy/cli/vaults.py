"""The commands `runqy vault`: list vaults and entries, set an entry.

Secrets are read from a prompt or standard input, never from the command line, which other users can see.
"""

import sys
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_client
from runqy.cli.output import print_rows
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages

app = typer.Typer(no_args_is_help=True, help="List vaults and entries, set secrets.")

Vault = Annotated[str, typer.Argument(help="Name of the vault.", metavar="VAULT")]
Key = Annotated[str, typer.Argument(help="Key of the entry, the name of a variable.", metavar="KEY")]
_VAULTS = ("name", "entry_count", "description")
_ENTRIES = ("key", "value", "version", "updated_at", "updated_by", "usage", "git_hosts")
_VERSIONS = ("version", "event", "at", "actor_kind", "actor")


class Usage(StrEnum):
    """What an entry may be used for."""

    ENVIRONMENT = "environment"
    GIT_TOKEN = "git_token"  # noqa: S105 (a usage)
    BOTH = "both"


@app.command("list")
def list_vaults(*, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """List all vaults with their number of entries."""
    with open_client(server, api_key) as api:
        vaults = api.get("/api/vaults")["vaults"]
    print_rows(vaults, _VAULTS, empty_message="There are no vaults yet.", as_json=as_json)


@app.command("create")
def create_vault(
    vault: Vault,
    *,
    description: Annotated[str, typer.Option("--description", "-d", help="Description of the vault.")] = "",
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Create an empty vault."""
    with open_client(server, api_key) as api:
        api.post("/api/vaults", msgspec.json.encode({"name": vault, "description": description}))
    typer.echo(f"{vault} created; add entries with `runqy vault set {vault} KEY`")


@app.command()
def show(vault: Vault, *, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """List the entries of a vault. Secrets are masked."""
    with open_client(server, api_key) as api:
        entries = api.get(f"{_path(vault)}/entries")["entries"]
    print_rows(
        entries,
        _ENTRIES,
        empty_message="The vault is empty.",
        as_json=as_json,
        add_columns=lambda entry: {"git_hosts": entry.get("git_hosts") or None},
    )


@app.command()
def versions(  # noqa: PLR0913 (each is an option of the command)
    vault: Vault,
    key: Key,
    *,
    limit: Limit = 1000,
    cursor: Cursor = "",
    server: ServerUrl = "",
    api_key: ApiKey = "",
    as_json: ListJson = False,
) -> None:
    """List the changes of an entry, newest first."""
    path = f"{_path(vault)}/entries/{quote(key, safe='')}/versions"
    with open_client(server, api_key) as api:
        found = read_pages(api, path, "versions", limit=limit, cursor=cursor)
    print_rows(found.items, _VERSIONS, empty_message="The entry has no versions.", as_json=as_json)
    print_rest(found)


@app.command("set")
def set_entry(  # noqa: PLR0913 (each is an option of the command)
    vault: Vault,
    key: Key,
    *,
    plain: Annotated[bool, typer.Option("--plain", help="The value is not secret and is shown unmasked.")] = False,
    expect: Annotated[
        int | None,
        typer.Option("--expect", min=0, help="Set only if the entry is at this version; 0: only if it does not exist."),
    ] = None,
    usage: Annotated[
        Usage | None, typer.Option("--usage", help="Environment variable, git token, or both. Default: unchanged.")
    ] = None,
    git_host: Annotated[
        list[str] | None,
        typer.Option("--git-host", help="Host that may receive the git token; repeatable. Default: unchanged."),
    ] = None,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Set an entry. The value comes from a prompt, or from standard input without its last line break.

    With --git-host and no --usage, a new entry is a git token, which tasks do not get; an existing one keeps its usage.
    """
    body: dict[str, Any] = {"key": key, "value": _value(key), "is_secret": not plain, "expected_version": expect}
    body |= {"usage": usage} if usage else {}
    body |= {"git_hosts": git_host} if git_host else {}
    with open_client(server, api_key) as api:
        response = api.post(f"{_path(vault)}/entries", msgspec.json.encode(body))
    typer.echo(f"{vault}/{key} is at version {response['version']}")


def is_interactive() -> bool:
    return sys.stdin.isatty()


def _path(vault: str) -> str:
    return f"/api/vaults/{quote(vault, safe='')}"


def _value(key: str) -> str:
    if is_interactive():
        typed: str = typer.prompt(f"Value of {key}", hide_input=True)
        return typed
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")
