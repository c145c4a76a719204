"""Complete names on the command line.

A shell waits for these functions at each press of the Tab key: they return nothing on errors and after a second.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer

from runqy.cli import targets
from runqy.cli.errors import CliError
from runqy.cli.profiles import load_profiles
from runqy.cli.values import clean

if TYPE_CHECKING:
    from runqy.cli.client import Client

STATES = ("pending", "scheduled", "active", "retry", "archived", "completed")
_TIMEOUT_S = 1.0


def complete_profiles(incomplete: str) -> list[str]:
    with suppress(CliError):
        return _matching(load_profiles().profiles, incomplete)
    return []


def complete_states(incomplete: str) -> list[str]:
    return _matching(STATES, incomplete)


def complete_queues(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of queues and sub-queues."""
    return _matching(_read(ctx, lambda api: _names(api, "/api/cli/queues", "queues", "queue")), incomplete)


def complete_configs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of queues, without sub-queues."""
    return _matching(_read(ctx, lambda api: _names(api, "/api/cli/configs", "queues", "name")), incomplete)


def complete_workers(ctx: typer.Context, incomplete: str) -> list[str]:
    return _matching(_read(ctx, lambda api: _names(api, "/api/cli/workers", "workers", "worker_id")), incomplete)


def complete_vaults(ctx: typer.Context, incomplete: str) -> list[str]:
    return _matching(_read(ctx, lambda api: _names(api, "/api/vaults", "vaults", "name")), incomplete)


def complete_schedules(ctx: typer.Context, incomplete: str) -> list[str]:
    return _matching(_read(ctx, lambda api: _names(api, "/api/schedules", "schedules", "name")), incomplete)


def complete_entries(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys of the vault that the command line names."""
    path = f"/api/vaults/{quote(str(ctx.params.get('vault') or ''), safe='')}/entries"
    return _matching(_read(ctx, lambda api: _names(api, path, "entries", "key")), incomplete)


def complete_api_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return ids of API keys that are not revoked."""

    def read(api: "Client") -> list[str]:
        return [str(key["id"]) for key in api.get("/api/keys", limit=1000)["keys"] if not key["revoked_at"]]

    return _matching(_read(ctx, read), incomplete)


def _names(api: "Client", path: str, member: str, name: str) -> list[str]:
    return [item[name] for item in api.get(path)[member]]


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in set(names) if name.startswith(incomplete) and clean(name) == name)


def _read(ctx: typer.Context, read: Callable[["Client"], list[str]]) -> list[str]:
    """Return what `read` returns of the server, or nothing on an error or after a second."""
    found: list[str] = []

    def run() -> None:
        with suppress(CliError, LookupError, TypeError):
            target = targets.find_target(targets.Flags.of(ctx))
            found.extend(read(targets.make_client(target.url, target.key)))

    # A thread, since a request may also hang in the look-up of a name. A daemon does not delay the end of the process.
    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_S)
    return list(found)
