"""The commands `runqy vault`: list, create and delete vaults, set, import and unset their entries.

Secrets are read from a prompt or standard input. On the command line, where the Go tool has them, other users can see
them: it is accepted with a warning.
"""

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from runqy.cli.commands import Session, command, new_group
from runqy.cli.completion import complete_entries, complete_vaults, complete_workers
from runqy.cli.errors import CliError
from runqy.cli.paging import Cursor, Limit, print_rest, read_pages
from runqy.cli.prompts import Force, confirm, is_interactive, read_secret

app = new_group(
    "Create and delete vaults, set and import their entries.",
    examples="""
    runqy vault list
    runqy vault set api-keys OPENAI_API_KEY
    runqy vault import api-keys < .env
    """,
)

Vault = Annotated[str, typer.Argument(help="Name of the vault.", metavar="VAULT", autocompletion=complete_vaults)]
Key = Annotated[
    str,
    typer.Argument(help="Key of the entry, the name of a variable.", metavar="KEY", autocompletion=complete_entries),
]
Plain = Annotated[bool, typer.Option("--plain", help="The value is not secret and is shown unmasked.")]
Expect = Annotated[
    int | None,
    typer.Option("--expect", min=0, help="Only if the entry is at this version; 0: only if it does not exist."),
]
AtOnce = Annotated[
    bool,
    typer.Option(
        "--replace-at-once",
        help="For a leaked secret: all workers replace their processes at once. Default: some at a time, each when its "
        "new process is ready.",
    ),
]
_VAULTS = ("name", "entry_count", "description")
_ENTRIES = ("key", "value", "version", "updated_at", "updated_by", "usage", "git_hosts")
_ENTRY = ("key", "value", "is_secret", "version", "usage", "git_hosts", "created_at", "updated_at", "updated_by")
_VERSIONS = ("version", "event", "at", "actor_kind", "actor")
_DELIVERIES = ("delivered_at", "worker_id", "queue", "is_current", "versions", "api_key", "address")


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
    response = session.api.post("/api/vaults", {"name": vault, "description": description})
    session.out.result(response, f"{vault} created; add entries with `runqy vault set {vault} KEY`", name=vault)


@command(app, "show", examples="runqy vault show api-keys")
def show(session: Session, vault: Vault) -> None:
    """List the entries of a vault. Secrets are masked."""
    session.out.rows(
        session.api.get(f"{_path(vault)}/entries")["entries"],
        _ENTRIES,
        empty="The vault is empty.",
        add_columns=lambda entry: {"git_hosts": entry.get("git_hosts") or None},
    )


@command(app, "get", examples="runqy vault get api-keys OPENAI_API_KEY")
def get_entry(session: Session, vault: Vault, key: Key) -> None:
    """Show an entry. Its value is masked if it is a secret."""
    session.out.item(session.api.get(f"{_path(vault)}/entries/{quote(key, safe='')}"), _ENTRY)


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
    runqy vault set api-keys OPENAI_API_KEY --replace-at-once
    """,
)
def set_entry(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    vault: Vault,
    key: Key,
    value: Annotated[
        str, typer.Argument(help="The value. Other users can see it here: leave it out.", metavar="[VALUE]")
    ] = "",
    *,
    plain: Plain = False,
    expect: Expect = None,
    usage: Annotated[
        Usage | None, typer.Option("--usage", help="Environment variable, git token, or both. Default: unchanged.")
    ] = None,
    git_host: Annotated[
        list[str] | None,
        typer.Option("--git-host", help="Host that may receive the git token; repeatable. Default: unchanged."),
    ] = None,
    replace_at_once: AtOnce = False,
) -> None:
    """Set an entry. Type its value, or pass it on standard input.

    A last line break of standard input is not part of the value.

    With --git-host and no --usage, a new entry is a git token, which tasks do not get; an existing one keeps its usage.
    """
    if value:
        session.out.note("The value is visible in the list of processes. Type it or use standard input instead.")
    given = value or read_secret(f"Value of {key}")
    body: dict[str, Any] = {"key": key, "value": given, "is_secret": not plain, "expected_version": expect}
    body |= {"usage": usage} if usage else {}
    body |= {"git_hosts": git_host} if git_host else {}
    body |= {"replace_at_once": True} if replace_at_once else {}
    response = session.api.post(f"{_path(vault)}/entries", body)
    session.out.result(response, f"{vault}/{key} is at version {response['version']}", name=key)


@command(
    app,
    "import",
    examples="""
    runqy vault import api-keys .env
    sops -d secrets.env | runqy vault import api-keys
    runqy vault import api-keys .env --dry-run
    """,
)
def import_entries(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    vault: Vault,
    file: Annotated[str, typer.Argument(help="File with lines KEY=value; - reads standard input.")] = "-",
    *,
    plain: Plain = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which entries are new or exist.")] = False,
    replace_at_once: AtOnce = False,
) -> None:
    """Set the entries of a .env file, or of lines that are pasted.

    All of them are set, or none: also if the server refuses one. Entries that the file does not name stay.
    """
    values = _read_env(session, file)
    existing = {entry["key"] for entry in session.api.get(f"{_path(vault)}/entries")["entries"]}
    outcomes = {key: "exists" if key in existing else "new" for key in values}
    if values and not dry_run:
        body = {"values": values, "is_secret": not plain} | ({"replace_at_once": True} if replace_at_once else {})
        changed = session.api.patch(f"{_path(vault)}/entries", body)["changed"]
        outcomes |= {key: "changed" if key in changed else "unchanged" for key in existing & values.keys()}
    rows = [{"key": key, "outcome": outcome} for key, outcome in outcomes.items()]
    session.out.rows(rows, ("key", "outcome"), empty="There are no lines KEY=value.")


@command(
    app,
    "unset",
    examples="runqy vault unset api-keys OPENAI_API_KEY\nrunqy vault unset api-keys A --expect 3 --force",
)
def unset_entry(session: Session, vault: Vault, key: Key, *, expect: Expect = None, force: Force = False) -> None:
    """Delete an entry. Its versions stay listed, its value is lost."""
    confirm(f"Delete the entry {key} of the vault {vault}?", force=force)
    query = "" if expect is None else f"?expected_version={expect}"
    response = session.api.delete(f"{_path(vault)}/entries/{quote(key, safe='')}{query}")
    session.out.result(response, f"{vault}/{key} deleted", name=key)


@command(app, "delete", examples="runqy vault delete api-keys\nrunqy vault delete api-keys --force")
def delete_vault(session: Session, vault: Vault, *, force: Force = False) -> None:
    """Delete a vault and all its entries."""
    if not force:
        count = len(session.api.get(f"{_path(vault)}/entries")["entries"])
        confirm(f"Delete the vault {vault} and its {count} entries?", force=force)
    response = session.api.delete(_path(vault))
    session.out.result(response, f"{vault} deleted", name=vault)
    for warning in response["warnings"]:
        session.out.note(warning)


@command(
    app,
    "deliveries",
    examples="runqy vault deliveries api-keys\nrunqy vault deliveries api-keys --worker host:1:ab",
)
def list_deliveries(
    session: Session,
    vault: Vault,
    *,
    worker: Annotated[
        str, typer.Option("--worker", help="Only deliveries to this worker.", autocompletion=complete_workers)
    ] = "",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> None:
    """List which workers received a vault, newest first.

    Each delivery has the versions of the entries whose values the worker received.
    """
    query = {"worker_id": worker} if worker else {}
    found = read_pages(session.api, f"{_path(vault)}/deliveries", "deliveries", limit=limit, cursor=cursor, **query)
    session.out.rows(found.items, _DELIVERIES, empty="No worker has received the vault.", name="worker_id")
    print_rest(found)


def _read_env(session: Session, file: str) -> Mapping[str, str]:
    """Return the values in a file or standard input. Raise CliError for invalid lines, without their text."""
    from vaults.dotenv import parse_env  # noqa: PLC0415 (only this command needs it)

    if file == "-" and is_interactive():
        session.out.note("Paste lines KEY=value, then press Ctrl-D.")
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read: {getattr(error, 'strerror', 'it is not UTF-8')}.") from error
    parsed = parse_env(text)
    if parsed.errors:
        lines = "\n  ".join(f"line {error.line}: {error.message}" for error in parsed.errors)
        raise CliError(f"Nothing was set:\n  {lines}")
    return parsed.values


def _path(vault: str) -> str:
    return f"/api/vaults/{quote(vault, safe='')}"
