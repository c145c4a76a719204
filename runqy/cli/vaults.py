"""The commands `runqy vault`: list vaults and entries, set an entry.

Secrets are read from a prompt or standard input, never from the command line, which other users can see.
"""

from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_entries, complete_vaults
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.prompts import read_secret

app = new_group(
    "List vaults and entries, set secrets.",
    examples="runqy vault list\nrunqy vault set api-keys OPENAI_API_KEY",
)

Vault = Annotated[str, typer.Argument(help="Name of the vault.", metavar="VAULT", autocompletion=complete_vaults)]
Key = Annotated[
    str,
    typer.Argument(help="Key of the entry, the name of a variable.", metavar="KEY", autocompletion=complete_entries),
]
_VAULTS = ("name", "entry_count", "description")
_ENTRIES = ("key", "value", "version", "updated_at", "updated_by", "usage", "git_hosts")
_VERSIONS = ("version", "event", "at", "actor_kind", "actor")


class Usage(StrEnum):
    """What an entry may be used for."""

    ENVIRONMENT = "environment"
    GIT_TOKEN = "git_token"  # noqa: S105 (a usage)
    BOTH = "both"


@command(app, "list", examples="runqy vault list")
def list_vaults(session: Session) -> None:
    """List all vaults with their number of entries."""
    vaults = session.api.get("/api/vaults")["vaults"]
    session.out.rows(vaults, _VAULTS, empty="There are no vaults yet.")


@command(app, "create", examples='runqy vault create api-keys -d "Keys of external services"')
def create_vault(
    session: Session,
    vault: Vault,
    *,
    description: Annotated[str, typer.Option("--description", "-d", help="Description of the vault.")] = "",
) -> None:
    """Create an empty vault."""
    response = session.api.post("/api/vaults", msgspec.json.encode({"name": vault, "description": description}))
    session.out.result(response, f"{vault} created; add entries with `runqy vault set {vault} KEY`", name=vault)


@command(app, "show", examples="runqy vault show api-keys", aliases=("entries",))
def show(session: Session, vault: Vault) -> None:
    """List the entries of a vault. Secrets are masked."""
    session.out.rows(
        session.api.get(f"{_path(vault)}/entries")["entries"],
        _ENTRIES,
        empty="The vault is empty.",
        add_columns=lambda entry: {"git_hosts": entry.get("git_hosts") or None},
    )


@command(app, "versions", examples="runqy vault versions api-keys OPENAI_API_KEY")
def versions(session: Session, vault: Vault, key: Key, *, limit: Limit = 1000, cursor: Cursor = "") -> None:
    """List the changes of an entry, newest first."""
    path = f"{_path(vault)}/entries/{quote(key, safe='')}/versions"
    found = read_pages(session.api, path, "versions", limit=limit, cursor=cursor)
    session.out.rows(found.items, _VERSIONS, empty="The entry has no versions.", name="version")
    print_rest(found)


@command(
    app,
    "set",
    examples="""
    runqy vault set api-keys OPENAI_API_KEY
    runqy vault set api-keys OPENAI_API_KEY < key.txt
    runqy vault set github PAT --git-host github.com
    """,
)
def set_entry(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
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
) -> None:
    """Set an entry. The value comes from a prompt, or from standard input without its last line break.

    With --git-host and no --usage, a new entry is a git token, which tasks do not get; an existing one keeps its usage.
    """
    value = read_secret(f"Value of {key}")
    body: dict[str, Any] = {"key": key, "value": value, "is_secret": not plain, "expected_version": expect}
    body |= {"usage": usage} if usage else {}
    body |= {"git_hosts": git_host} if git_host else {}
    response = session.api.post(f"{_path(vault)}/entries", msgspec.json.encode(body))
    session.out.result(response, f"{vault}/{key} is at version {response['version']}", name=key)


def _path(vault: str) -> str:
    return f"/api/vaults/{quote(vault, safe='')}"
