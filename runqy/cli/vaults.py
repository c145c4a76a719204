"""The commands about vaults: see what is in them, set a secret, take a whole vault out and in.

Secrets and passphrases are typed or come from files, never from the command line, which others can see.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import msgspec
import typer

from runqy.cli.exits import Exit
from runqy.cli.options import ApiKey, ListJson, ServerUrl, open_server
from runqy.cli.tables import show_json, show_rows

app = typer.Typer(no_args_is_help=True, help="See what vaults hold, set secrets, take a vault out and in.")

Vault = Annotated[str, typer.Argument(help="The vault.", metavar="VAULT")]
Key = Annotated[str, typer.Argument(help="The entry, which is the name of a variable.", metavar="KEY")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File whose first line is the passphrase; asked for without it."),
]


_VAULTS = ("name", "entry_count", "description")
_ENTRIES = ("key", "value", "version", "updated_at", "updated_by", "usage", "git_hosts")
_VERSIONS = ("version", "event", "at", "actor_kind", "actor")
_OUTCOMES = ("key", "outcome")


class Usage(StrEnum):
    """What an entry may be used for."""

    ENVIRONMENT = "environment"
    GIT_TOKEN = "git_token"  # noqa: S105 (a usage)
    BOTH = "both"


@app.command("list")
def list_vaults(*, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """List all vaults with how many entries they have."""
    with open_server(server, api_key) as api:
        vaults = api.get("/api/vaults")["vaults"]
    show_json(vaults) if as_json else show_rows(vaults, _VAULTS, nothing="There are no vaults yet.")


@app.command("create")
def create_vault(
    vault: Vault,
    *,
    description: Annotated[str, typer.Option("--description", "-d", help="What it is for.")] = "",
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Make an empty vault."""
    with open_server(server, api_key) as api:
        api.post("/api/vaults", msgspec.json.encode({"name": vault, "description": description}))
    typer.echo(f"{vault} is made; `runqy vault set {vault} KEY` puts something into it")


@app.command()
def show(vault: Vault, *, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False) -> None:
    """Show the entries of a vault, secrets masked."""
    with open_server(server, api_key) as api:
        entries = api.get(f"{_path(vault)}/entries")["entries"]
    show_json(entries) if as_json else show_rows(entries, _ENTRIES, nothing="The vault is empty.")


@app.command()
def versions(
    vault: Vault, key: Key, *, server: ServerUrl = "", api_key: ApiKey = "", as_json: ListJson = False
) -> None:
    """List who changed an entry and when, the latest first."""
    with open_server(server, api_key) as api:
        found = api.get(f"{_path(vault)}/entries/{quote(key, safe='')}/versions", limit=1000)["versions"]
    show_json(found) if as_json else show_rows(found, _VERSIONS, nothing="Nothing happened to it yet.")


@app.command("set")
def set_entry(  # noqa: PLR0913 (each is an option of the command)
    vault: Vault,
    key: Key,
    *,
    plain: Annotated[bool, typer.Option("--plain", help="It is no secret: show it as it is.")] = False,
    expect: Annotated[
        int | None, typer.Option("--expect", min=0, help="Only if it is at this version; 0: only if there is none.")
    ] = None,
    usage: Annotated[
        Usage | None, typer.Option("--usage", help="A variable of tasks, a git token, or both; else as it is.")
    ] = None,
    git_host: Annotated[
        list[str] | None,
        typer.Option("--git-host", help="Host that the git token may be sent to; may be repeated; else as they are."),
    ] = None,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Set an entry. The value is typed, or is the standard input without its last line break.

    With --git-host alone a new entry is a git token, which tasks do not get; one that exists stays what it is besides.
    """
    body: dict[str, Any] = {"key": key, "value": _value(key), "is_secret": not plain, "expected_version": expect}
    body |= {"usage": usage} if usage else {}
    body |= {"git_hosts": git_host} if git_host else {}
    with open_server(server, api_key) as api:
        answer = api.post(f"{_path(vault)}/entries", msgspec.json.encode(body))
    typer.echo(f"{vault}/{key} is at version {answer['version']}")


@app.command("export")
def export_vault(
    vault: Vault,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new file, for its owner only.")],
    passphrase_file: PassphraseFile = None,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Write a vault to a file that only a passphrase opens."""
    body = {"passphrase": _passphrase(passphrase_file, is_new=True)}
    with open_server(server, api_key) as api:
        export = api.post(f"{_path(vault)}/export", msgspec.json.encode(body))
    try:
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(export) + b"\n")
    except OSError as error:
        _fail(f"{output} cannot be written: {error.strerror}.", error)
    typer.echo(f"the vault {vault} is in {output}")


@app.command("import")
def import_vault(  # noqa: PLR0913 (each is an option of the command)
    file: Annotated[Path, typer.Argument(help="What export wrote.", metavar="FILE")],
    *,
    name: Annotated[str, typer.Option(help="Of the vault, if not as in the file.")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="A vault that is there; what the file lacks goes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    passphrase_file: PassphraseFile = None,
    server: ServerUrl = "",
    api_key: ApiKey = "",
) -> None:
    """Make a vault of such a file. All of it or nothing; shows what is done to each entry."""
    try:
        export = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        _fail(f"{file} cannot be read: {error.strerror}.", error)
    except msgspec.DecodeError as error:
        _fail(f"{file} is no export of a vault.", error)
    passphrase = _passphrase(passphrase_file, is_new=False)
    asked = {"passphrase": passphrase, "export": export, "replace": replace, "dry_run": dry_run}
    with open_server(server, api_key) as api:
        answer = api.post("/api/vaults/import", msgspec.json.encode(asked | ({"name": name} if name else {})))
    show_rows(answer["entries"], _OUTCOMES, nothing="The vault is empty.")
    typer.echo(f"{answer['vault']}: {answer['message']}", err=True)


def has_keyboard() -> bool:
    """Tell whether somebody can type."""
    return sys.stdin.isatty()


def _path(vault: str) -> str:
    """Return where a vault is."""
    return f"/api/vaults/{quote(vault, safe='')}"


def _value(key: str) -> str:
    """Return the value that is typed or comes in."""
    if has_keyboard():
        typed: str = typer.prompt(f"Value of {key}", hide_input=True)
        return typed
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def _passphrase(file: Path | None, *, is_new: bool) -> str:
    """Return the passphrase that is typed, a new one twice, or stands in a file."""
    if file is None:
        if not has_keyboard():
            _fail("there is no terminal to type a passphrase at: use --passphrase-file.")
        typed: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new)
        return typed
    try:
        return file.read_text("utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{file} cannot be read.", error)


def _fail(message: str, error: Exception | None = None) -> NoReturn:
    """End the command."""
    typer.echo(f"runqy: {message}", err=True)
    raise typer.Exit(Exit.FAILED) from error
